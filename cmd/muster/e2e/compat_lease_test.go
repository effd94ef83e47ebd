package e2e

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func testLease(t *testing.T, c *Cluster, cl *clientv3.Client, p string) {
	ctx := within(t, patience)
	a := must[*clientv3.LeaseGrantResponse](t)(cl.Grant(ctx, 60))
	b := must[*clientv3.LeaseGrantResponse](t)(cl.Grant(ctx, 60))
	if a.ID == 0 || a.ID == b.ID || a.TTL != 60 {
		t.Fatalf("granted %v and %v", a, b)
	}
	put(t, cl, p+"2", "", clientv3.WithLease(a.ID))
	put(t, cl, p+"1", "", clientv3.WithLease(a.ID))
	put(t, cl, p+"moved", "", clientv3.WithLease(a.ID))
	put(t, cl, p+"moved", "", clientv3.WithLease(b.ID))
	put(t, cl, p+"freed", "", clientv3.WithLease(a.ID))
	put(t, cl, p+"freed", "")
	ttl := must[*clientv3.LeaseTimeToLiveResponse](t)(cl.TimeToLive(ctx, a.ID, clientv3.WithAttachedKeys()))
	if ttl.GrantedTTL != 60 || ttl.TTL < 50 || ttl.TTL > 60 || len(ttl.Keys) != 2 || string(ttl.Keys[0]) != p+"1" || string(ttl.Keys[1]) != p+"2" {
		t.Errorf("time to live: %v", ttl)
	}
	c.CatchUp(t) // the list is each member's own
	all := must[*clientv3.LeaseLeasesResponse](t)(cl.Leases(ctx))
	for _, id := range []clientv3.LeaseID{a.ID, b.ID} {
		if !slices.ContainsFunc(all.Leases, func(l clientv3.LeaseStatus) bool { return l.ID == id }) {
			t.Errorf("lease %x isn't listed in %v", id, all.Leases)
		}
	}
	rev := get(t, cl, p).Header.Revision
	must[*clientv3.LeaseRevokeResponse](t)(cl.Revoke(ctx, a.ID))
	r := get(t, cl, p, clientv3.WithPrefix())
	if got := keys(r, p); got != "freedmoved" || r.Header.Revision != rev+1 {
		t.Errorf("after the revocation: %q at %d, want freed and moved at %d", got, r.Header.Revision, rev+1)
	}
	_, err := cl.Revoke(ctx, a.ID)
	requireError(t, "revoked twice", err, rpctypes.ErrLeaseNotFound)
}

func testLeaseExpiry(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	ctx, stop := context.WithCancel(watching(t))
	defer stop()
	l := must[*clientv3.LeaseGrantResponse](t)(cl.Grant(ctx, 2))
	put(t, cl, p+"b", "", clientv3.WithLease(l.ID))
	rev := put(t, cl, p+"a", "", clientv3.WithLease(l.ID)).Header.Revision
	gone := cl.Watch(watching(t), p, clientv3.WithPrefix(), clientv3.WithRev(rev+1))
	alive, err := cl.KeepAlive(ctx, l.ID)
	if err != nil {
		t.Fatal(err)
	}
	began, last := time.Now(), time.Now()
	for time.Since(began) < 3*time.Second {
		r, ok := <-alive
		if !ok || r.TTL != 2 {
			t.Fatalf("keep-alive: %v, %v", r, ok)
		}
		last = time.Now()
	}
	if got := get(t, cl, p, clientv3.WithPrefix()); got.Count != 2 {
		t.Fatalf("the lease was kept alive and still lost its keys: %v", got)
	}
	stop()
	r := <-gone
	// Both keys in one revision, in order.
	if len(r.Events) != 2 || eventText(r.Events[0], p) != "-a" || eventText(r.Events[1], p) != "-b" || r.Events[0].Kv.ModRevision != r.Events[1].Kv.ModRevision {
		t.Errorf("the expiry: %v", r.Events)
	}
	// clientv3 may have sent one more after the last that was seen here.
	if took := time.Since(last); took < 1900*time.Millisecond || took > 6*time.Second {
		t.Errorf("expired %v after the last keep-alive, want 2 s and a bit", took)
	}
	if r, err := cl.TimeToLive(within(t, patience), l.ID); err != nil || r.TTL != -1 {
		t.Errorf("time to live of an expired lease: %v, %v", r, err)
	}
}

func session(t *testing.T, cl *clientv3.Client) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(cl, concurrency.WithTTL(10))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func testMutex(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	const contenders, rounds = 4, 5
	var inside, entered atomic.Int32
	var wg sync.WaitGroup
	for range contenders {
		m := concurrency.NewMutex(session(t, cl), p+"lock")
		wg.Go(func() {
			for range rounds {
				if err := m.Lock(within(t, patience)); err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two hold the lock")
				}
				entered.Add(1)
				inside.Add(-1)
				if err := m.Unlock(within(t, patience)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := entered.Load(); n != contenders*rounds {
		t.Errorf("locked %d times", n)
	}
	// What a dead holder held, its lease gives up.
	dead, heir := session(t, cl), session(t, cl)
	held := concurrency.NewMutex(dead, p+"lock")
	if err := held.Lock(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	next := concurrency.NewMutex(heir, p+"lock")
	if err := next.TryLock(within(t, patience)); !errors.Is(err, concurrency.ErrLocked) {
		t.Errorf("try lock: %v, want %v", err, concurrency.ErrLocked)
	}
	must[*clientv3.LeaseRevokeResponse](t)(cl.Revoke(within(t, patience), dead.Lease()))
	if err := next.Lock(within(t, patience)); err != nil {
		t.Error(err)
	}
}

func testElection(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	one, two := session(t, cl), session(t, cl)
	first, second := concurrency.NewElection(one, p+"e"), concurrency.NewElection(two, p+"e")
	if err := first.Campaign(within(t, patience), "first"); err != nil {
		t.Fatal(err)
	}
	observed := second.Observe(watching(t))
	leader := func(want string) {
		t.Helper()
		select {
		case r := <-observed:
			if len(r.Kvs) != 1 || string(r.Kvs[0].Value) != want {
				t.Errorf("observed %v, want %s", r.Kvs, want)
			}
		case <-within(t, patience).Done():
			t.Fatalf("%s wasn't observed", want)
		}
	}
	leader("first")
	won := make(chan error, 1)
	go func() { won <- second.Campaign(within(t, patience), "second") }()
	if err := first.Proclaim(within(t, patience), "first again"); err != nil {
		t.Fatal(err)
	}
	leader("first again")
	if err := first.Resign(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	if err := <-won; err != nil {
		t.Fatal(err)
	}
	leader("second")
	r, err := first.Leader(within(t, patience))
	if err != nil || string(r.Kvs[0].Value) != "second" {
		t.Errorf("leader: %v, %v", r, err)
	}
}
