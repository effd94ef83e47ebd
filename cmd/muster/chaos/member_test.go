package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

// member is a muster server and its supervisor: what ends because it was killed
// is started again at once, what ends by itself is a failure.
type member struct {
	cluster      *cluster
	name         string
	client, peer string // host:port
	dir          string // data directory
	wrap         []string
	out          *program.Output

	mu struct {
		sync.Mutex
		proc     *program.Process
		pardoned *program.Process // was told to end
		held     chan struct{}    // not to be started until closed; nil if it may run
		refusal  string           // what the next end by itself must say, and hold the member for
		state    string           // --initial-cluster-state
		initial  string           // --initial-cluster
		offset   time.Duration    // of the monotonic clock, in a time namespace
		lives    int
	}
}

// command is the program and its arguments for the next life.
func (m *member) command() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var c []string
	c = append(c, m.wrap...)
	if len(m.wrap) > 0 && m.mu.offset != 0 {
		s := fmt.Sprint(int64(m.mu.offset / time.Second))
		c = append(c, "unshare", "--time", "--monotonic", s, "--boottime", s)
	}
	return append(c, muster, "server", "--name="+m.name, "--data-dir="+m.dir,
		"--listen-client-urls=http://"+m.client, "--advertise-client-urls=http://"+m.client,
		"--listen-peer-urls=http://"+m.peer, "--initial-advertise-peer-urls=http://"+m.peer,
		"--initial-cluster="+m.mu.initial, "--initial-cluster-state="+m.mu.state,
		"--dns-listen=", "--heartbeat-interval=50", "--election-timeout=500")
}

// supervise runs the member until the cluster ends.
func (m *member) supervise(ctx context.Context) {
	for ctx.Err() == nil {
		if held := m.heldBack(); held != nil {
			select {
			case <-held:
			case <-ctx.Done():
			}
			continue
		}
		c := m.command()
		p, err := program.Start(m.out, "", nil, c[0], c[1:]...)
		if err != nil {
			m.cluster.fail("%s doesn't start: %v", m.name, err)
			return
		}
		m.mu.Lock()
		m.mu.proc = p
		m.mu.lives++
		m.mu.Unlock()
		if m.heldBack() != nil { // meanwhile
			m.kill()
		}
		select {
		case <-p.Done:
		case <-ctx.Done():
			p.Kill()
			return
		}
		if !m.mayHaveEnded(p) {
			m.cluster.fail("%s ended by itself (%v); it said:\n%s", m.name, p.Cmd.ProcessState, program.Tail(p.Log()))
			return
		}
	}
}

func (m *member) heldBack() chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.held
}

// mayHaveEnded tells whether that was to be expected. An announced refusal
// holds the member back, as a supervisor does with a service that fails.
func (m *member) mayHaveEnded(p *program.Process) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.refusal != "" && p.Cmd.ProcessState.ExitCode() == 1 && strings.Contains(lastLine(p.Log()), m.mu.refusal) {
		if m.mu.held == nil {
			m.mu.held = make(chan struct{})
		}
		return true
	}
	return m.mu.pardoned == p
}

func lastLine(s string) string {
	s = strings.TrimSuffix(s, "\n")
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// signal is for the present process, if there is one. With pardon it may end of it.
func (m *member) signal(sig syscall.Signal, pardon bool) *program.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.mu.proc
	if p == nil {
		return nil
	}
	if pardon {
		m.mu.pardoned = p
	}
	if err := p.Cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		m.cluster.fail("%v to %s: %v", sig, m.name, err)
	}
	return p
}

// killed is what a SIGKILL hit.
type killed uint8

const (
	nobody   killed = iota // it was dead already
	starting               // a process that had not been ready yet
	serving
)

// kill is SIGKILL. The supervisor starts the member again.
func (m *member) kill() killed {
	was := m.process()
	p := m.signal(syscall.SIGKILL, true)
	switch {
	case was == nil || was != p:
		return nobody
	case strings.Contains(p.Log(), "ready to serve client requests"):
		return serving
	default:
		return starting
	}
}

// down ends the member by a signal and keeps it down until up. It returns how
// long that took.
func (m *member) down(sig syscall.Signal) (time.Duration, error) {
	began := time.Now()
	m.mu.Lock()
	if m.mu.held == nil {
		m.mu.held = make(chan struct{})
	}
	m.mu.Unlock()
	p := m.signal(sig, true)
	if p == nil {
		return 0, nil
	}
	select {
	case <-p.Done:
		return time.Since(began), nil
	case <-time.After(patience()):
		return 0, fmt.Errorf("%s still runs %v after %v", m.name, patience(), sig)
	}
}

func (m *member) up() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.held != nil {
		close(m.mu.held)
		m.mu.held = nil
	}
}

// process is the present one, if it runs.
func (m *member) process() *program.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.proc == nil || m.mu.proc.Ended() {
		return nil
	}
	return m.mu.proc
}

func (m *member) life() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.lives
}

// ask is a GET on the client port.
func (m *member) ask(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.client+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := m.cluster.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s%s: %s: %s", m.name, path, resp.Status, body)
	}
	return string(body), err
}

func (m *member) ready(ctx context.Context) error {
	_, err := m.ask(ctx, "/readyz")
	return err
}

// keep writes the log of all lives beside the data.
func (m *member) keep(home string) error {
	return os.WriteFile(filepath.Join(home, m.name+".log"), []byte(m.out.String()), 0o600)
}
