package election_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/recipes/election"
	"github.com/musterhq/muster/sdk"
	"github.com/musterhq/muster/sdk/mustertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func session(t *testing.T, c *sdk.Client, opts ...sdk.SessionOption) *sdk.Session {
	t.Helper()
	s, err := sdk.NewSession(t.Context(), c, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.WithoutCancel(t.Context())) })
	return s
}

// candidates waits until n keys stand under the election's name.
func candidates(t *testing.T, c *sdk.Client, name string, n int64) {
	t.Helper()
	for _, err := range c.Watch(t.Context(), name+"/", sdk.WithPrefix(), sdk.WithCreatedNotify()) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Get(t.Context(), name+"/", sdk.WithPrefix(), sdk.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		if r.Count == n {
			return
		}
	}
}

func TestElection(t *testing.T) {
	cluster := mustertest.Start(t, 1)
	c := cluster.Client()
	for _, tc := range []struct {
		name string
		test func(*testing.T, *mustertest.Cluster, *sdk.Client)
	}{
		{"CandidatesLeadInOrderWithRisingTokens", order},
		{"LostSessionPassesLeadershipOn", failover},
		{"CandidateWhoseLeaseEndedIsNoPhantomLeader", phantom},
		{"ProclaimChangesTheValueOnlyWhileLeading", proclaim},
		{"ObserveYieldsNoneLeaderValueAndNext", observe},
		{"ObserveSurvivesCompaction", observeCompacted},
		{"ObserveEndsWithItsContext", observeCanceled},
		{"EtcdsOwnClientsStandInTheSameElection", interop},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, cluster, c) })
	}
}

type won struct {
	l   *election.Leadership
	err error
}

func campaign(ctx context.Context, e *election.Election, value string) <-chan won {
	out := make(chan won, 1)
	go func() {
		l, err := e.Campaign(ctx, []byte(value))
		out <- won{l, err}
	}()
	return out
}

func order(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	e := election.New(session(t, c), "order")
	if _, ok, err := e.Leader(t.Context()); ok || err != nil {
		t.Errorf("leader before anybody stood: %v, %v", ok, err)
	}
	var waiting []<-chan won
	for i := range 3 {
		waiting = append(waiting, campaign(t.Context(), e, fmt.Sprint(i)))
		candidates(t, c, "order", int64(i)+1)
	}
	var last election.Token
	for i, ch := range waiting {
		w := <-ch
		if w.err != nil {
			t.Fatal(w.err)
		}
		leader, ok, err := e.Leader(t.Context())
		if err != nil || !ok || string(leader.Value) != fmt.Sprint(i) || leader.Token != w.l.Token() || leader.Key != w.l.Key() {
			t.Errorf("leader %+v, %v, %v; want candidate %d with token %v", leader, ok, err, i, w.l.Token())
		}
		if !last.Less(w.l.Token()) {
			t.Errorf("token %v after %v; want it to rise", w.l.Token(), last)
		}
		last = w.l.Token()
		if err := w.l.Verify(t.Context()); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := w.l.Resign(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if !errors.Is(context.Cause(w.l.Context()), election.ErrResigned) {
			t.Errorf("cause %v; want ErrResigned", context.Cause(w.l.Context()))
		}
	}
}

func failover(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	s := session(t, c, sdk.WithTTL(2*time.Second))
	first := <-campaign(t.Context(), election.New(s, "failover"), "a")
	if first.err != nil {
		t.Fatal(first.err)
	}
	second := campaign(t.Context(), election.New(session(t, c), "failover"), "b")
	candidates(t, c, "failover", 2)
	if err := c.Revoke(t.Context(), s.Lease()); err != nil {
		t.Fatal(err)
	}
	if w := <-second; w.err != nil || !first.l.Token().Less(w.l.Token()) {
		t.Errorf("second: %v", w.err)
	}
	<-first.l.Context().Done()
	if err := first.l.Proclaim(t.Context(), nil); !errors.Is(err, election.ErrNotLeader) || !errors.Is(err, sdk.ErrSessionLost) {
		t.Errorf("proclaim after the loss: %v; want ErrNotLeader because of ErrSessionLost", err)
	}
}

// phantom: etcd's own Campaign never looks at its key again and believes itself elected.
func phantom(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	first := <-campaign(t.Context(), election.New(session(t, c), "phantom"), "a")
	if first.err != nil {
		t.Fatal(first.err)
	}
	s := session(t, c, sdk.WithTTL(time.Hour)) // the next renewal is far: only the check of the key can tell
	second := campaign(t.Context(), election.New(s, "phantom"), "b")
	candidates(t, c, "phantom", 2)
	if err := c.Revoke(t.Context(), s.Lease()); err != nil {
		t.Fatal(err)
	}
	if err := first.l.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w := <-second; !errors.Is(w.err, election.ErrNotLeader) {
		t.Errorf("got %v; want ErrNotLeader", w.err)
	}
}

func proclaim(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	e := election.New(session(t, c), "proclaim")
	w := <-campaign(t.Context(), e, "a")
	if w.err != nil {
		t.Fatal(w.err)
	}
	for _, v := range []string{"b", "c"} {
		if err := w.l.Proclaim(t.Context(), []byte(v)); err != nil {
			t.Fatal(err)
		}
		if l, _, err := e.Leader(t.Context()); err != nil || string(l.Value) != v || l.Token != w.l.Token() {
			t.Errorf("leader %+v, %v; want value %s under the same token", l, err, v)
		}
	}
	// A change behind the leader's back is overwritten, not mistaken for the own.
	if _, err := c.Put(t.Context(), w.l.Key(), []byte("x"), sdk.WithIgnoreLease()); err != nil {
		t.Fatal(err)
	}
	if err := w.l.Proclaim(t.Context(), []byte("d")); err != nil {
		t.Error(err)
	}
	if l, _, err := e.Leader(t.Context()); err != nil || string(l.Value) != "d" || l.Lease == 0 {
		t.Errorf("leader %+v, %v; want value d, bound to the lease", l, err)
	}
	if _, err := c.Delete(t.Context(), w.l.Key()); err != nil {
		t.Fatal(err)
	}
	if err := w.l.Proclaim(t.Context(), []byte("e")); !errors.Is(err, election.ErrNotLeader) {
		t.Errorf("proclaim without the key: %v; want ErrNotLeader", err)
	}
}

func observe(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	e := election.New(session(t, c), "observe")
	var got []string
	var a, b *election.Leadership
	lead := func(v string) *election.Leadership {
		w := <-campaign(t.Context(), e, v)
		if w.err != nil {
			t.Fatal(w.err)
		}
		return w.l
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for ev, err := range election.NewObserver(c, "observe").Observe(t.Context()) {
		must(err)
		v := "none"
		if ev.Leader != nil {
			v = string(ev.Leader.Value)
		}
		got = append(got, v)
		switch len(got) {
		case 1:
			a = lead("a")
		case 2:
			must(a.Proclaim(t.Context(), []byte("a2")))
		case 3:
			must(a.Resign(t.Context()))
		case 4:
			b = lead("b")
		}
		if len(got) == 5 {
			break
		}
	}
	if want := []string{"none", "a", "a2", "none", "b"}; !slices.Equal(got, want) {
		t.Errorf("observed %v; want %v", got, want)
	}
	must(b.Resign(t.Context()))
}

func observeCompacted(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	var got []string
	for ev, err := range election.NewObserver(c, "compacted").Observe(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Leader == nil {
			// While the observer is here the history it would watch from is dropped.
			if w := <-campaign(t.Context(), election.New(session(t, c), "compacted"), "a"); w.err != nil {
				t.Fatal(w.err)
			}
			var rev int64
			for range 3 {
				r, err := c.Put(t.Context(), "elsewhere", nil)
				if err != nil {
					t.Fatal(err)
				}
				rev = r.Header.Revision
			}
			if err := c.Compact(t.Context(), rev); err != nil {
				t.Fatal(err)
			}
			got = append(got, "none")
			continue
		}
		got = append(got, string(ev.Leader.Value))
		break
	}
	if want := []string{"none", "a"}; !slices.Equal(got, want) {
		t.Errorf("observed %v; want %v", got, want)
	}
}

func observeCanceled(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for _, err := range election.NewObserver(c, "nobody").Observe(ctx) {
		if n++; n == 1 {
			cancel()
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v; want context.Canceled", err)
		}
	}
	if n != 2 {
		t.Errorf("yielded %d times; want the state and the error", n)
	}
}

func interop(t *testing.T, cluster *mustertest.Cluster, c *sdk.Client) {
	ec, err := clientv3.New(clientv3.Config{Endpoints: cluster.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer ec.Close()
	es, err := concurrency.NewSession(ec)
	if err != nil {
		t.Fatal(err)
	}
	defer es.Close()
	theirs, ours := concurrency.NewElection(es, "interop"), election.New(session(t, c), "interop")
	if err := theirs.Campaign(t.Context(), "theirs"); err != nil {
		t.Fatal(err)
	}
	next := campaign(t.Context(), ours, "ours")
	candidates(t, c, "interop", 2)
	if l, ok, err := ours.Leader(t.Context()); err != nil || !ok || string(l.Value) != "theirs" {
		t.Errorf("leader %+v, %v, %v; want etcd's candidate", l, ok, err)
	}
	if err := theirs.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w := <-next; w.err != nil {
		t.Fatal(w.err)
	}
	if r, err := theirs.Leader(t.Context()); err != nil || string(r.Kvs[0].Value) != "ours" {
		t.Errorf("etcd's client sees leader %v, %v; want ours", r, err)
	}
}
