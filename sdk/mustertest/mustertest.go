package mustertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/sdk"
)

// startTime bounds how long a cluster may take to serve: it includes an election, on machines that are busy.
const startTime = 30 * time.Second

// Cluster is a running cluster.
type Cluster struct {
	tb      testing.TB
	command []string
	members []*process
}

type process struct {
	name, dir, client, peer string
	args                    []string
	output                  *logBuffer
	cmd                     *exec.Cmd
	exited                  chan struct{}
}

// Start runs a cluster of n members and waits until it serves.
func Start(tb testing.TB, n int, extraFlags ...string) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb, command: serverCommand(tb)}
	ports := freePorts(tb, 2*n)
	var initial []string
	for i := range n {
		m := &process{
			name: fmt.Sprintf("m%d", i), dir: filepath.Join(tb.TempDir(), "data"),
			client: "http://" + ports[2*i], peer: "http://" + ports[2*i+1],
		}
		initial = append(initial, m.name+"="+m.peer)
		c.members = append(c.members, m)
	}
	for _, m := range c.members {
		m.args = append([]string{
			"--name", m.name, "--data-dir", m.dir,
			"--listen-client-urls", m.client, "--advertise-client-urls", m.client,
			"--listen-peer-urls", m.peer, "--initial-advertise-peer-urls", m.peer,
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new",
			"--heartbeat-interval", "50", "--election-timeout", "500",
		}, extraFlags...)
	}
	tb.Cleanup(c.stop)
	for i := range c.members {
		c.Restart(i)
	}
	c.await()
	return c
}

// Endpoints lists the client URLs.
func (c *Cluster) Endpoints() []string {
	var out []string
	for _, m := range c.members {
		out = append(out, m.client)
	}
	return out
}

// Client opens a client of all members, which is closed when the test ends.
func (c *Cluster) Client() *sdk.Client { return c.Open(sdk.Config{}) }

// Open opens a client with a configuration, of all members unless it names endpoints.
func (c *Cluster) Open(cfg sdk.Config) *sdk.Client {
	c.tb.Helper()
	if len(cfg.Endpoints) == 0 {
		cfg.Endpoints = c.Endpoints()
	}
	cl, err := sdk.Open(c.tb.Context(), cfg)
	if err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(func() { _ = cl.Close() })
	return cl
}

// Kill ends member i without warning.
func (c *Cluster) Kill(i int) {
	c.tb.Helper()
	c.signal(i, syscall.SIGKILL)
	<-c.members[i].exited
}

// Pause stops member i where it stands: its connections stay open and nothing is answered.
func (c *Cluster) Pause(i int) { c.signal(i, syscall.SIGSTOP) }

// Resume lets a paused member go on.
func (c *Cluster) Resume(i int) { c.signal(i, syscall.SIGCONT) }

func (c *Cluster) signal(i int, s syscall.Signal) {
	c.tb.Helper()
	if err := c.members[i].cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.tb.Fatalf("signal %v to member %d: %v", s, i, err)
	}
}

// Restart starts member i, which must not be running, on what it had stored.
func (c *Cluster) Restart(i int) {
	c.tb.Helper()
	m := c.members[i]
	m.output = &logBuffer{}
	m.cmd = exec.Command(c.command[0], append(c.command[1:len(c.command):len(c.command)], m.args...)...)
	m.cmd.Stdout, m.cmd.Stderr = m.output, m.output
	// If the test process dies, so do its servers.
	m.cmd.SysProcAttr = dieWithParent()
	if err := m.cmd.Start(); err != nil {
		c.tb.Fatalf("start member %d: %v", i, err)
	}
	m.exited = make(chan struct{})
	cmd, exited := m.cmd, m.exited
	go func() {
		defer close(exited)
		_ = cmd.Wait()
	}()
}

// await waits until every member answers a linearizable read.
func (c *Cluster) await() {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(c.tb.Context(), startTime)
	defer cancel()
	for i, m := range c.members {
		if err := served(ctx, m.client); err != nil {
			c.tb.Fatalf("member %d doesn't serve: %v\n%s", i, err, m.output)
		}
	}
}

func served(ctx context.Context, endpoint string) error {
	cl, err := sdk.Open(ctx, sdk.Config{Endpoints: []string{endpoint}})
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = cl.Get(ctx, "mustertest")
	return err
}

func (c *Cluster) stop() {
	for _, m := range c.members {
		if m.cmd != nil && m.cmd.Process != nil && m.exited != nil {
			_ = m.cmd.Process.Kill()
			<-m.exited
		}
	}
	if c.tb.Failed() {
		for _, m := range c.members {
			c.tb.Logf("output of %s:\n%s", m.name, m.output)
		}
	}
}

func serverCommand(tb testing.TB) []string {
	tb.Helper()
	if s := strings.Fields(os.Getenv("MUSTER_TEST_SERVER")); len(s) > 0 {
		return s
	}
	return []string{build(tb), "server", "--dns-listen="}
}

// build links the server only if something has changed since any test last did: linking takes longer than most tests. The
// copy in the user's cache is locked while it is looked at, and the test runs a link of its own, which stays what it is
// when the cached one is replaced.
func build(tb testing.TB) string {
	tb.Helper()
	own := filepath.Join(tb.TempDir(), "muster")
	target := own
	if cache, err := os.UserCacheDir(); err == nil {
		dir := filepath.Join(cache, "muster-test")
		if unlock, err := lock(dir); err == nil {
			defer unlock()
			target = filepath.Join(dir, "muster")
		}
	}
	out, err := exec.Command("go", "build", "-o", target, "github.com/musterhq/muster/cmd/muster").CombinedOutput()
	if err != nil {
		tb.Fatalf("build the server under test: %v\n%s", err, out)
	}
	if target == own || os.Link(target, own) == nil {
		return own
	}
	data, err := os.ReadFile(target) // on another file system
	if err == nil {
		err = os.WriteFile(own, data, 0o755)
	}
	if err != nil {
		tb.Fatalf("copy the server under test: %v", err)
	}
	return own
}

func freePorts(tb testing.TB, n int) []string {
	tb.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		defer l.Close() // all stay open until all are chosen
		out = append(out, l.Addr().String())
	}
	return out
}

// logBuffer keeps the end of what a server prints.
type logBuffer struct {
	mu struct {
		sync.Mutex
		buf bytes.Buffer
	}
}

func (b *logBuffer) Write(p []byte) (int, error) {
	const limit = 64 << 10
	b.mu.Lock()
	defer b.mu.Unlock()
	if over := b.mu.buf.Len() + len(p) - limit; over > 0 {
		b.mu.buf.Next(over)
	}
	return b.mu.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.buf.String()
}
