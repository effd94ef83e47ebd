package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/cmd/muster/bench/h2load"
	"github.com/musterhq/muster/cmd/muster/bench/process"
)

// serverProcess is a server under measurement: one member with its shipped settings, in a
// folder of its own, with ports that nobody else uses.
type serverProcess struct {
	kind    string // etcd or muster
	args    []string
	addr    string // of clients
	dns     string // muster's
	dir     string
	core    int // -1: any
	cmd     *exec.Cmd
	exited  chan struct{} // closed once cmd has ended
	waitErr error         // then: how
}

const (
	kindEtcd   = "etcd"
	kindMuster = "muster"
)

// newServer prepares a server; dir is made anew.
func newServer(kind, binary, dir string, core int) (*serverProcess, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(3)
	if err != nil {
		return nil, err
	}
	client, peer := "http://"+addrs[0], "http://"+addrs[1]
	args := []string{
		binary, "--data-dir", filepath.Join(dir, "data"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
	}
	if kind == kindMuster {
		args = slices.Insert(args, 1, "server")
		args = append(args, "--dns-listen", addrs[2])
	}
	return &serverProcess{kind: kind, args: args, addr: addrs[0], dns: addrs[2], dir: dir, core: core}, nil
}

// freeAddrs are loopback addresses that nobody listens on.
func freeAddrs(n int) ([]string, error) {
	var addrs []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs, nil
}

// shippedEnviron is the environment without what would change a server's settings.
func shippedEnviron(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
		return slices.ContainsFunc([]string{"ETCD_", "MUSTER_", "GOGC=", "GOMAXPROCS=", "GOMEMLIMIT=", "GODEBUG="}, func(p string) bool {
			return strings.HasPrefix(v, p)
		})
	})
}

// startTimeout is how long a server may take to its first answer.
const startTimeout = 3 * time.Minute

// start starts the server and says how long its first linearizable answer took.
func (s *serverProcess) start(ctx context.Context) (time.Duration, error) {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	// Not bound to ctx: stop ends it, orderly.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), s.args[0], s.args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, shippedEnviron(os.Environ())
	// A group of its own: Ctrl-C is for this program, which then stops the server.
	cmd.SysProcAttr = ownGroup()
	began := time.Now()
	if s.core < 0 {
		err = cmd.Start()
	} else {
		err = process.StartOn(cmd, s.core)
	}
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", s.kind, err)
	}
	s.cmd, s.exited = cmd, make(chan struct{})
	go func() {
		s.waitErr = cmd.Wait()
		close(s.exited)
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := s.ask(ctx)
		if err == nil {
			return time.Since(began), nil
		}
		pause := time.NewTimer(2 * time.Millisecond)
		select {
		case <-pause.C:
			continue
		case <-s.exited:
			err = fmt.Errorf("it ended: %w", errors.Join(s.waitErr, errors.New(s.lastLog())))
		case <-ctx.Done():
		}
		pause.Stop()
		return 0, fmt.Errorf("%s gave no first answer: %w", s.kind, err)
	}
}

// ask makes one linearizable read.
func (s *serverProcess) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := h2load.Dial(ctx, s.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	request, err := proto.Marshal(&pb.RangeRequest{Key: []byte("0")})
	if err != nil {
		return err
	}
	_, err = c.Call(ctx, rangeMethod, request)
	return err
}

func (s *serverProcess) logFile() string { return filepath.Join(s.dir, s.kind+".log") }

// lastLog is the end of what the server said.
func (s *serverProcess) lastLog() string {
	b, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	b = bytes.TrimSpace(b)
	if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
		b = b[i+1:]
	}
	return string(b)
}

// stopTimeout is how long a server may take to end when asked.
const stopTimeout = time.Minute

// stop ends the server by a signal and waits for its end. It does nothing to one that
// isn't running.
func (s *serverProcess) stop(sig syscall.Signal) error {
	if s.cmd == nil {
		return nil
	}
	defer func() { s.cmd = nil }()
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", s.kind, err)
	}
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case <-s.exited:
		return nil
	case <-t.C:
		_ = s.cmd.Process.Kill()
		<-s.exited
		return fmt.Errorf("stop %s: still there %v after %v; killed", s.kind, stopTimeout, sig)
	}
}

// remove ends the server without ceremony and deletes its folder.
func (s *serverProcess) remove() error {
	return errors.Join(s.stop(syscall.SIGKILL), os.RemoveAll(s.dir))
}

func (s *serverProcess) pid() int { return s.cmd.Process.Pid }

// pinning is which core the server has for itself, and which the generator: -1 means any.
type pinning struct{ server, generator int }

// pin chooses two cores. With only one, or where cores can't be chosen, nobody has one
// to itself.
func pin() pinning {
	cores, err := process.Cores()
	if err != nil || len(cores) < 2 {
		return pinning{-1, -1}
	}
	return pinning{cores[0], cores[1]}
}
