package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

// patience is for what takes a second at most on a machine with nothing else to
// do. Long runs have more: the machine may have worse hours.
func patience() time.Duration {
	if *stormTime > 0 || *killCount > 0 {
		return 5 * time.Minute
	}
	return time.Minute
}

// host is where a member lives.
type host struct {
	ip   string
	wrap []string // what comes before its command line
	dir  string   // its data directory; empty for one on disk
	// offset is of its monotonic and boot-time clocks.
	offset time.Duration
}

// loopback is n members on free ports of this machine.
func loopback(n int) []host {
	h := make([]host, n)
	for i := range h {
		h[i].ip = "127.0.0.1"
	}
	return h
}

// cluster is members that know each other. ctx ends with the first failure.
type cluster struct {
	t       *testing.T
	ctx     context.Context
	cancel  context.CancelCauseFunc
	wg      sync.WaitGroup // the supervisors
	home    string         // logs and data, kept after a failure
	members []*member
	http    *http.Client
	admin   *clientv3.Client
	clients struct {
		sync.Mutex
		all []io.Closer
	}
}

// startCluster founds a cluster and returns once all members are ready.
func startCluster(t *testing.T, hosts []host) *cluster {
	t.Helper()
	home, err := os.MkdirTemp("", "muster-chaos-") //nolint:usetesting // it is kept if the test fails
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, home: home, http: &http.Client{Transport: &http.Transport{
		// A dial outlives its request, and must not outlive the test.
		DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: time.Second}).DialContext,
	}}}
	c.ctx, c.cancel = context.WithCancelCause(t.Context())
	t.Cleanup(c.close)
	c.heedInterrupts()
	var initial []string
	for i, h := range hosts {
		m := &member{cluster: c, name: fmt.Sprintf("m%d", i+1), dir: h.dir, wrap: h.wrap, out: program.NewOutput()}
		if m.dir == "" {
			m.dir = filepath.Join(home, m.name)
		}
		m.client, m.peer = c.addresses(h)
		m.mu.state, m.mu.offset = "new", h.offset
		c.members = append(c.members, m)
		initial = append(initial, m.name+"=http://"+m.peer)
	}
	for _, m := range c.members {
		m.mu.initial = strings.Join(initial, ",")
		c.wg.Go(func() { m.supervise(c.ctx) })
	}
	c.admin = c.etcdClient(c.endpoints()...)
	c.awaitReady(c.members...)
	return c
}

// addresses are ports of a host of its own, or free ones of the loopback
// device, below the range from which outgoing connections take theirs.
func (c *cluster) addresses(h host) (client, peer string) {
	if h.ip != "127.0.0.1" {
		return h.ip + ":2379", h.ip + ":2380"
	}
	free := func() string {
		for range 1000 {
			ln, err := net.Listen("tcp", fmt.Sprintf("%s:%d", h.ip, 20000+rand.IntN(12000)))
			if err == nil {
				ln.Close()
				return ln.Addr().String()
			}
		}
		c.t.Fatal("no free port between 20000 and 32000")
		return ""
	}
	return free(), free()
}

var errInterrupted = errors.New("interrupted")

// heedInterrupts ends the run in good order on Ctrl-C.
func (c *cluster) heedInterrupts() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	c.wg.Go(func() {
		defer signal.Stop(signals)
		select {
		case s := <-signals:
			c.t.Errorf("interrupted: %v", s)
			c.cancel(errInterrupted)
		case <-c.ctx.Done():
		}
	})
}

// fail notes a failure, from any goroutine, and ends the run.
func (c *cluster) fail(format string, args ...any) {
	c.t.Errorf(format, args...)
	c.cancel(errors.New("the run has failed"))
}

// close ends all members. Logs and data are kept after a failure.
func (c *cluster) close() {
	c.cancel(errors.New("the run is over"))
	c.closeClients()
	c.wg.Wait()
	for _, m := range c.members {
		if trace := program.Trace(m.out.String()); trace != "" {
			c.t.Errorf("%s printed a stack trace:\n%s", m.name, trace)
		}
	}
	if !c.t.Failed() && !*keepFlag || errors.Is(context.Cause(c.ctx), errInterrupted) {
		os.RemoveAll(c.home)
		return
	}
	for _, m := range c.members {
		err := m.keep(c.home)
		if !strings.HasPrefix(m.dir, c.home) {
			err = errors.Join(err, os.CopyFS(filepath.Join(c.home, m.name), os.DirFS(m.dir)))
		}
		if err != nil {
			c.t.Logf("keep what %s leaves: %v", m.name, err)
		}
	}
	fmt.Printf("the members' logs and data are kept in %s\n", c.home)
}

func (c *cluster) endpoints() []string {
	var e []string
	for _, m := range c.members {
		e = append(e, m.client)
	}
	return e
}

// await looks again and again until a thing is so: for another process's
// state, which can't be waited for. It returns how long it took.
func (c *cluster) await(what string, is func() error) time.Duration {
	c.t.Helper()
	began := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := is()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > patience() {
			c.fail("not within %v: %s: %v", patience(), what, err)
		}
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			c.t.FailNow()
		}
	}
}

func (c *cluster) awaitReady(members ...*member) {
	c.t.Helper()
	for _, m := range members {
		c.await(m.name+" is ready", func() error { return m.ready(c.ctx) })
	}
}

// pause lets time pass, unless the run ends.
func (c *cluster) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.ctx.Done():
		c.t.FailNow()
	}
}

var errNoLeader = errors.New("none says that it leads")

// leader asks the members until one says that it leads.
func (c *cluster) leader() *member {
	c.t.Helper()
	var leader *member
	c.await("a member leads", func() error {
		leader = c.lookForLeader()
		if leader == nil {
			return errNoLeader
		}
		return nil
	})
	return leader
}

// lookForLeader asks each member once.
func (c *cluster) lookForLeader() *member {
	for _, m := range c.members {
		st, err := c.status(m)
		if err == nil && st.Leader != 0 && st.Leader == st.Header.MemberId {
			return m
		}
	}
	return nil
}

func (c *cluster) status(m *member) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(c.ctx, 500*time.Millisecond)
	defer cancel()
	return c.admin.Status(ctx, m.client)
}

// term asks a member until it answers.
func (c *cluster) term(m *member) (term uint64) {
	c.t.Helper()
	c.await(m.name+" answers", func() error {
		st, err := c.status(m)
		if err == nil {
			term = st.RaftTerm
		}
		return err
	})
	return term
}

// etcdClient opens etcd's official client, which ends with the test.
func (c *cluster) etcdClient(endpoints ...string) *clientv3.Client {
	cl, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, DialTimeout: 2 * time.Second, BackoffWaitBetween: 10 * time.Millisecond,
		DialKeepAliveTime: 6 * time.Second, DialKeepAliveTimeout: time.Second,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			// gRPC waits for a second and more before it tries a dead server again.
			Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: time.Second,
		})},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.opened(cl)
	return cl
}

// opened notes a client for closeClients.
func (c *cluster) opened(cl io.Closer) {
	c.clients.Lock()
	defer c.clients.Unlock()
	c.clients.all = append(c.clients.all, cl)
}

// closeClients may be repeated.
func (c *cluster) closeClients() {
	c.clients.Lock()
	defer c.clients.Unlock()
	for _, cl := range c.clients.all {
		_ = cl.Close() // a connection may be broken
	}
	c.clients.all = nil
}
