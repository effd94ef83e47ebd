package rpc

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeNode is a member without a log: a real machine under a mutex.
type fakeNode struct {
	mu    sync.Mutex // guards m, index
	m     *machine.Machine
	index uint64

	view     atomic.Pointer[machine.View]
	leader   atomic.Uint64
	learner  atomic.Bool
	barriers atomic.Int64
	refuse   atomic.Pointer[error] // what Propose and ReadBarrier fail with
	hub      *watch.Hub
}

const (
	fakeID      = 0x8e9e05c52164694d
	fakeCluster = 0xcdf818194e3a8c32
	fakeTerm    = 7
)

func newFakeNode(tb testing.TB, cfg machine.Config) *fakeNode {
	tb.Helper()
	m, err := machine.New(cfg, membership.Member{ID: fakeID, Name: "one", PeerURLs: []string{"http://127.0.0.1:2380"}, ClientURLs: []string{"http://127.0.0.1:2379"}})
	if err != nil {
		tb.Fatal(err)
	}
	n := &fakeNode{m: m}
	n.leader.Store(fakeID)
	n.view.Store(m.Publish())
	n.hub = watch.NewHub(n.View().KV.Rev(), func() *mvcc.View { return n.View().KV }, watch.Config{})
	tb.Cleanup(n.hub.Close)
	return n
}

func (n *fakeNode) Propose(_ context.Context, kind machine.Kind, body []byte, user string, authRevision uint64) (machine.Result, error) {
	if err := n.refuse.Load(); err != nil {
		return machine.Result{}, *err
	}
	cmd := machine.Command{Kind: kind, Member: fakeID, User: user, AuthRevision: authRevision, Body: body}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	res := n.m.Apply(n.index, fakeTerm, cmd.AppendTo(nil), true)
	n.m.EndEntry(n.index, fakeTerm)
	n.m.LeaseEffects()
	v := n.m.Publish()
	n.view.Store(v)
	n.hub.Notify(v.KV.Rev(), n.m.TakeEvents())
	return res, res.Err
}

func (n *fakeNode) ReadBarrier(context.Context) error {
	n.barriers.Add(1)
	if err := n.refuse.Load(); err != nil {
		return *err
	}
	return nil
}

func (n *fakeNode) View() *machine.View { return n.view.Load() }
func (n *fakeNode) Term() uint64        { return fakeTerm }
func (n *fakeNode) Leader() uint64      { return n.leader.Load() }
func (n *fakeNode) IsLearner() bool     { return n.learner.Load() }

func (n *fakeNode) Status() node.Status {
	v := n.View()
	return node.Status{
		ID: fakeID, ClusterID: fakeCluster, Leader: n.Leader(), Term: fakeTerm, CommitIndex: v.Index, AppliedIndex: v.Index,
		DBSize: v.Used, InUse: v.Used, Quota: v.Settings.Quota,
	}
}

func (n *fakeNode) RenewLease(_ context.Context, id int64) (int64, error) {
	l, ok := n.View().Leases.Lookup(id)
	if !ok {
		return 0, lease.ErrNotFound
	}
	return l.TTL, nil
}

func (n *fakeNode) LeaseRemaining(_ context.Context, id int64) (remaining, granted int64, err error) {
	l, ok := n.View().Leases.Lookup(id)
	if !ok {
		return 0, 0, lease.ErrNotFound
	}
	return l.TTL - 1, l.TTL, nil
}

func (n *fakeNode) change(op membership.Op, m membership.Member) ([]membership.Member, error) {
	if err := n.refuse.Load(); err != nil {
		return nil, *err
	}
	cc, err := machine.ConfChangeContext(machine.Command{Member: fakeID}, membership.Change{Op: op, Member: m})
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	res := n.m.ApplyConfChange(n.index, fakeTerm, cc, nil)
	n.m.EndEntry(n.index, fakeTerm)
	n.view.Store(n.m.Publish())
	return n.View().Members, res.Err
}

func (n *fakeNode) AddMember(_ context.Context, urls []string, learner bool) (membership.Member, []membership.Member, error) {
	m, op := membership.Member{ID: membership.MemberID(urls, "", 1), PeerURLs: urls, IsLearner: learner}, membership.AddVoter
	if learner {
		op = membership.AddLearner
	}
	all, err := n.change(op, m)
	return m, all, err
}

func (n *fakeNode) RemoveMember(_ context.Context, id uint64) ([]membership.Member, error) {
	return n.change(membership.Remove, membership.Member{ID: id})
}

func (n *fakeNode) UpdateMember(_ context.Context, id uint64, urls []string) ([]membership.Member, error) {
	return n.change(membership.UpdatePeer, membership.Member{ID: id, PeerURLs: urls})
}

func (n *fakeNode) PromoteMember(_ context.Context, id uint64) ([]membership.Member, error) {
	return n.change(membership.Promote, membership.Member{ID: id})
}

func (n *fakeNode) TransferLeader(_ context.Context, to uint64) error {
	if err := n.refuse.Load(); err != nil {
		return *err
	}
	if n.Leader() != fakeID {
		return node.ErrNotLeader
	}
	n.leader.Store(to)
	return nil
}

// serve runs a Server over an in-memory listener and returns a connection.
func serve(tb testing.TB, n *fakeNode, change func(*Config)) (*grpc.ClientConn, *Server) {
	tb.Helper()
	cfg := Config{
		Node: n, ClusterID: fakeCluster, MemberID: fakeID,
		Watch: NewWatchServer(WatchConfig{Hub: n.hub, ClusterID: fakeCluster, MemberID: fakeID, Term: n.Term}),
	}
	if change != nil {
		change(&cfg)
	}
	s, err := NewServer(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	lis := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:///in-memory",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Shutdown(ctx)
		if err := <-served; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	return conn, s
}
