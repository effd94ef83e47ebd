package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type member struct {
	cfg  Config
	addr string
	*Node
}

// newCluster starts n founding members on loopback. They are closed with the test.
func newCluster(t *testing.T, n int) []*member {
	t.Helper()
	return newClusterOn(t, n, nil)
}

// newClusterOn has each member's configuration changed before it starts.
func newClusterOn(t *testing.T, n int, change func(*Config)) []*member {
	t.Helper()
	initial := map[string][]string{}
	ms := make([]*member, n)
	for i := range ms {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ms[i] = &member{addr: l.Addr().String(), cfg: Config{
			Name: fmt.Sprintf("m%d", i), Dir: t.TempDir(), InitialCluster: initial, Token: "test",
			PeerListeners: []net.Listener{l}, Tick: 20 * time.Millisecond, SegmentBytes: 1 << 20, Logger: testLogger(),
			ClientURLs: []string{"http://127.0.0.1:0"}, HealthInterval: time.Millisecond,
		}}
		initial[ms[i].cfg.Name] = []string{"http://" + l.Addr().String()}
	}
	for _, m := range ms {
		if change != nil {
			change(&m.cfg)
		}
		m.open(t)
	}
	for _, m := range ms {
		m.ready(t)
	}
	for _, m := range ms {
		m.get(t, "") // now it has applied that all are started
	}
	return ms
}

func testLogger() *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return nil
}

func (m *member) open(t *testing.T) {
	t.Helper()
	n, err := Open(t.Context(), m.cfg)
	if err != nil {
		t.Fatalf("open %s: %v", m.cfg.Name, err)
	}
	m.Node = n
	t.Cleanup(func() { m.stop(t) })
}

func (m *member) stop(t *testing.T) {
	if m.Node == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := m.Node.Close(ctx); err != nil {
		t.Errorf("close %s: %v", m.cfg.Name, err)
	}
	m.Node = nil
}

func (m *member) restart(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", m.addr)
	if err != nil {
		t.Fatal(err)
	}
	m.cfg.PeerListeners = []net.Listener{l}
	m.open(t)
}

func (m *member) ready(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := m.WaitReady(ctx); err != nil {
		t.Fatalf("%s does not become ready: %v", m.cfg.Name, err)
	}
}

func (m *member) put(t *testing.T, key, value string) error {
	t.Helper()
	body, err := proto.Marshal(&pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = m.Propose(ctx, machine.Put, body, "", 0)
	return err
}

func (m *member) get(t *testing.T, key string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := m.ReadBarrier(ctx); err != nil {
		t.Fatalf("read barrier on %s: %v", m.cfg.Name, err)
	}
	r, ok := m.View().KV.Get([]byte(key))
	if !ok {
		return ""
	}
	return string(r.Value())
}

func TestOneMemberKeepsItsWritesAcrossACleanRestart(t *testing.T) {
	m := newCluster(t, 1)[0]
	for i := range 100 {
		if err := m.put(t, fmt.Sprint("k", i), fmt.Sprint("v", i)); err != nil {
			t.Fatal(err)
		}
	}
	m.stop(t)
	m.restart(t)
	m.ready(t)
	for i := range 100 {
		if got, want := m.get(t, fmt.Sprint("k", i)), fmt.Sprint("v", i); got != want {
			t.Fatalf("k%d: got %q, want %q", i, got, want)
		}
	}
}

func TestEveryMemberTakesWritesAndReadsThemBackAtOnce(t *testing.T) {
	ms := newCluster(t, 3)
	var wg sync.WaitGroup
	for i, m := range ms {
		wg.Go(func() {
			for j := range 50 {
				k := fmt.Sprintf("%d-%d", i, j)
				if err := m.put(t, k, k); err != nil {
					t.Errorf("put on %s: %v", m.cfg.Name, err)
					return
				}
				if r, ok := m.View().KV.Get([]byte(k)); !ok || string(r.Value()) != k {
					t.Errorf("%s does not see its own acknowledged write", m.cfg.Name)
				}
			}
		})
	}
	wg.Wait()
	for _, m := range ms {
		for i := range ms {
			for j := range 50 {
				if k := fmt.Sprintf("%d-%d", i, j); m.get(t, k) != k {
					t.Fatalf("%s misses %s", m.cfg.Name, k)
				}
			}
		}
	}
}

func TestClusterGoesOnWithoutItsLeaderWhichThenCatchesUp(t *testing.T) {
	ms := newCluster(t, 3)
	acked := map[string]bool{}
	for round := range 3 {
		var leader *member
		for _, m := range ms {
			if m.Leader() == m.ID() {
				leader = m
			}
		}
		if leader == nil {
			t.Fatal("ready members without a leader")
		}
		leader.stop(t)
		for _, m := range ms {
			if m == leader {
				continue
			}
			for j := range 20 {
				k := fmt.Sprintf("%d-%s-%d", round, m.cfg.Name, j)
				err := m.put(t, k, k)
				switch {
				case err == nil:
					acked[k] = true
				case errors.Is(err, ErrNoLeader), errors.Is(err, ErrLeaderChanged), errors.Is(err, ErrTimeout):
				default:
					t.Fatalf("put: %v", err)
				}
			}
		}
		leader.restart(t)
		leader.ready(t)
		for _, m := range ms {
			for k := range acked {
				if m.get(t, k) != k {
					t.Fatalf("round %d: %s lost acknowledged %s", round, m.cfg.Name, k)
				}
			}
		}
	}
	if len(acked) < 100 {
		t.Fatalf("only %d of 120 writes were acknowledged", len(acked))
	}
}

func TestFollowerBeyondTheWindowIsBroughtUpByACheckpoint(t *testing.T) {
	ms := newCluster(t, 3)
	var late *member
	for _, m := range ms {
		if m.Leader() != m.ID() {
			late = m
		}
	}
	late.stop(t)
	value := string(make([]byte, 512<<10))
	for i := range 60 { // 30 MiB, more than the window keeps
		for _, m := range ms {
			if m != late {
				eventually(t, func() error { return m.put(t, fmt.Sprint("big", i), value) }, ErrTimeout, ErrNoLeader, ErrLeaderChanged)
			}
		}
	}
	late.restart(t)
	late.ready(t)
	if got := late.get(t, "big59"); got != value {
		t.Fatalf("late member has %d bytes of big59, want %d", len(got), len(value))
	}
	late.stop(t)
	late.restart(t)
	late.ready(t)
	if late.get(t, "big0") != value {
		t.Fatal("late member lost what the checkpoint brought")
	}
}

func TestDirectoryOfAnotherClusterAndOneInUseAreRefused(t *testing.T) {
	m := newCluster(t, 1)[0]
	cfg := m.cfg
	if _, err := Open(t.Context(), cfg); err == nil {
		t.Fatal("opened a directory that is in use")
	}
	m.stop(t)
	cfg.Name = "other"
	cfg.Token = "another"
	cfg.InitialCluster = map[string][]string{"other": {"http://127.0.0.1:1"}}
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrForeignDir) {
		t.Fatalf("got %v, want ErrForeignDir", err)
	} else if !strings.Contains(err.Error(), m.url()) || !strings.Contains(err.Error(), "other=http://127.0.0.1:1") {
		t.Errorf("it names neither what it was made with nor what the flags say: %v", err)
	}
}
