package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
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

// patience is for what takes a fraction of a second on a machine with nothing
// else to do.
const patience = 20 * time.Second

// ports hands out ports that are free for TCP and UDP and lie below the range
// from which the system takes those of outgoing connections, so that a member
// finds its own again after a restart.
var ports = struct {
	sync.Mutex
	next int
}{next: 20000 + rand.IntN(10000)}

func freePort(t *testing.T) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	for range 1000 {
		if ports.next++; ports.next > 32000 {
			ports.next = 20000
		}
		addr := fmt.Sprintf("127.0.0.1:%d", ports.next)
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", addr)
		tcp.Close()
		if err != nil {
			continue
		}
		udp.Close()
		return addr
	}
	t.Fatal("no free port between 20000 and 32000")
	return ""
}

// Member is a muster server with ports and a directory of its own.
type Member struct {
	Name, Client, Peer, DNS string // addresses are host:port
	Dir                     string // data directory
	Args                    []string
	*process                // its present life; nil before the first Start
	out                     *program.Output
}

// newMember chooses a member's ports and directory. Logs and data are kept if
// the test fails.
func newMember(t *testing.T, name string, args ...string) *Member {
	t.Helper()
	home, err := os.MkdirTemp("", "muster-e2e-member-") //nolint:usetesting // it is kept if the test fails
	if err != nil {
		t.Fatal(err)
	}
	m := &Member{
		Name: name, Client: freePort(t), Peer: freePort(t), DNS: freePort(t),
		Dir: filepath.Join(home, "data"), Args: args, out: program.NewOutput(),
	}
	t.Cleanup(func() {
		requireNoTrace(t, name, m.out.String())
		if !t.Failed() {
			os.RemoveAll(home)
			return
		}
		log := filepath.Join(home, "log")
		if err := os.WriteFile(log, []byte(m.out.String()), 0o600); err == nil {
			t.Logf("%s: data in %s, log in %s, which ends:\n%s", name, m.Dir, log, tail(m.out.String()))
		}
	})
	return m
}

// Flags are the command line after "muster".
func (m *Member) Flags() []string {
	return append([]string{
		"server", "--name=" + m.Name, "--data-dir=" + m.Dir,
		"--listen-client-urls=http://" + m.Client, "--advertise-client-urls=http://" + m.Client,
		"--listen-peer-urls=http://" + m.Peer, "--initial-advertise-peer-urls=http://" + m.Peer,
		"--dns-listen=" + m.DNS, "--heartbeat-interval=50", "--election-timeout=500",
	}, m.Args...)
}

// Launch starts the program and doesn't wait for it.
func (m *Member) Launch(t *testing.T) {
	t.Helper()
	m.process = start(t, m.out, "", nil, muster, m.Flags()...)
}

// Start returns once the member serves.
func (m *Member) Start(t *testing.T) {
	t.Helper()
	m.Launch(t)
	m.AwaitReady(t)
}

// AwaitReady waits for the line that etcd's supervisors wait for.
func (m *Member) AwaitReady(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := m.AwaitLine(ctx, "ready to serve client requests"); err != nil {
		t.Fatalf("%s %v", m.Name, err)
	}
}

// Stop is SIGTERM; it returns how the process ended and how long that took.
func (m *Member) Stop(t *testing.T) (*os.ProcessState, time.Duration) {
	t.Helper()
	began := time.Now()
	m.signal(t, syscall.SIGTERM)
	state := m.wait(t, patience)
	return state, time.Since(began)
}

// Pause and Cont are SIGSTOP and SIGCONT.
func (m *Member) Pause(t *testing.T) { t.Helper(); m.signal(t, syscall.SIGSTOP) }

// Cont lets a paused process go on.
func (m *Member) Cont(t *testing.T) { t.Helper(); m.signal(t, syscall.SIGCONT) }

// Cluster is members that know each other.
type Cluster struct{ Members []*Member }

// newCluster makes a cluster of n members, not yet started.
func newCluster(t *testing.T, n int, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{}
	var initial []string
	for i := range n {
		m := newMember(t, fmt.Sprintf("m%d", i+1), args...)
		c.Members = append(c.Members, m)
		initial = append(initial, m.Name+"=http://"+m.Peer)
	}
	for _, m := range c.Members {
		m.Args = append([]string{"--initial-cluster=" + strings.Join(initial, ",")}, m.Args...)
	}
	return c
}

// startCluster returns once all its members serve.
func startCluster(t *testing.T, n int, args ...string) *Cluster {
	t.Helper()
	c := newCluster(t, n, args...)
	for _, m := range c.Members {
		m.Launch(t)
	}
	for _, m := range c.Members {
		m.AwaitReady(t)
	}
	return c
}

// Endpoints are all members' client addresses.
func (c *Cluster) Endpoints() []string {
	var e []string
	for _, m := range c.Members {
		e = append(e, m.Client)
	}
	return e
}

// Leader asks the members until one says that it leads.
func (c *Cluster) Leader(t *testing.T, cl *clientv3.Client) *Member {
	t.Helper()
	var leader *Member
	eventually(t, "a member leads", func() bool {
		for _, m := range c.Members {
			st, err := memberStatus(t, cl, m)
			if err == nil && st.Leader != 0 && st.Leader == st.Header.MemberId {
				leader = m
				return true
			}
		}
		return false
	})
	return leader
}

// MakeLeader returns once m has been made the leader.
func (c *Cluster) MakeLeader(t *testing.T, cl *clientv3.Client, m *Member) {
	t.Helper()
	eventually(t, m.Name+" leads", func() bool {
		leader := c.Leader(t, cl)
		if leader == m {
			return true
		}
		st, err := memberStatus(t, cl, m)
		if err == nil {
			_, err = connect(t, leader.Client).MoveLeader(within(t, 5*time.Second), st.Header.MemberId)
		}
		return err == nil
	})
}

// CatchUp returns once every member has applied all that was acknowledged.
func (c *Cluster) CatchUp(t *testing.T) {
	t.Helper()
	for _, m := range c.Members {
		cl := connect(t, m.Client)
		eventually(t, m.Name+" answers a linearizable read", func() bool {
			_, err := cl.Get(within(t, time.Second), "x")
			return err == nil
		})
	}
}

func memberStatus(t *testing.T, cl *clientv3.Client, m *Member) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return cl.Status(ctx, m.Client)
}

// statusOf is that of a member that runs, however busy the machine is.
func statusOf(t *testing.T, cl *clientv3.Client, m *Member) *clientv3.StatusResponse {
	t.Helper()
	return must[*clientv3.StatusResponse](t)(cl.Status(within(t, patience), m.Client))
}

// connect opens etcd's official client.
func connect(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	cl, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, DialTimeout: 2 * time.Second, BackoffWaitBetween: 10 * time.Millisecond,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			// gRPC waits for a second and more before it tries a dead server again.
			Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: time.Second,
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
}

func withDialer(dial func(context.Context, string) (net.Conn, error)) []grpc.DialOption {
	return []grpc.DialOption{grpc.WithContextDialer(dial)}
}

// eventually looks again and again until it is so. For what can't be waited
// for: another process's state.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// within is a context for one call.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
