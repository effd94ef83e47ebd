package lock_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/recipes/lock"
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

// waiters waits until n keys stand under the lock's name.
func waiters(t *testing.T, c *sdk.Client, name string, n int64) {
	t.Helper()
	for b, err := range c.Watch(t.Context(), name+"/", sdk.WithPrefix(), sdk.WithCreatedNotify()) {
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
		_ = b
	}
}

func TestLock(t *testing.T) {
	cluster := mustertest.Start(t, 1)
	c := cluster.Client()
	for _, tc := range []struct {
		name string
		test func(*testing.T, *mustertest.Cluster, *sdk.Client)
	}{
		{"AdmitsOneAtATimeWithRisingTokens", exclusion},
		{"ServesInOrderOfArrival", fifo},
		{"TryLockDoesNotWait", tryLock},
		{"CanceledWaiterLeavesTheQueue", canceledWaiter},
		{"LostSessionNeverYieldsALock", lostSession},
		{"HolderIsToldOfALostSession", holderTold},
		{"DeletedKeyFailsVerifyAndGuard", deletedKey},
		{"WaiterWhoseKeyWasDeletedGetsNoLock", deletedWaiter},
		{"UnlockIsIdempotent", unlockTwice},
		{"SessionKeyIsReentrant", sessionKey},
		{"ExcludesEtcdsOwnClients", interop},
		{"SurvivesLostAnswers", lostAnswers},
		{"IsGivenBackWithoutSpace", noSpace},
		{"LateCopyOfARequestLeavesNoKey", lateCopy},
		{"WaiterThatCannotGiveUpInTimeGoesOnTrying", lateGivingUp},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, cluster, c) })
	}
}

// exclusion adds to a counter without a transaction, from goroutines on shared and on separate sessions.
func exclusion(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	const sessions, goroutines, rounds = 3, 3, 4
	var inside atomic.Int32
	var last lock.Token
	var wg sync.WaitGroup
	for range sessions {
		m := lock.NewMutex(session(t, c), "exclusion")
		for range goroutines {
			wg.Go(func() {
				for range rounds {
					l, err := m.Lock(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					if n := inside.Add(1); n != 1 {
						t.Errorf("%d holders at once", n)
					}
					if !last.Less(l.Token()) {
						t.Errorf("token %v after %v; want it to rise", l.Token(), last)
					}
					last = l.Token()
					if err := add(t.Context(), c, "counter", l); err != nil {
						t.Error(err)
					}
					inside.Add(-1)
					if err := l.Unlock(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	r, err := c.Get(t.Context(), "counter")
	if kv, _ := r.First(); err != nil || string(kv.Value) != fmt.Sprint(sessions*goroutines*rounds) {
		t.Errorf("counter is %q, %v; want %d", kv.Value, err, sessions*goroutines*rounds)
	}
}

func add(ctx context.Context, c *sdk.Client, key string, l *lock.Lock) error {
	r, err := c.Get(ctx, key)
	if err != nil {
		return err
	}
	n := 0
	if kv, ok := r.First(); ok {
		if n, err = strconv.Atoi(string(kv.Value)); err != nil {
			return err
		}
	}
	out, err := c.Txn(ctx, sdk.Txn{If: l.Guard(), Then: []sdk.Op{sdk.OpPut(key, []byte(strconv.Itoa(n+1)))}})
	if err == nil && !out.Succeeded {
		return errors.New("guard refused the holder")
	}
	return err
}

func fifo(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	m := lock.NewMutex(session(t, c), "fifo/")
	l, err := m.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var order []int
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			l, err := m.Lock(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			order = append(order, i)
			if err := l.Unlock(t.Context()); err != nil {
				t.Error(err)
			}
		})
		waiters(t, c, "fifo", int64(i)+2)
	}
	if err := l.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if got := fmt.Sprint(order); got != "[0 1 2 3 4]" {
		t.Errorf("served in order %s", got)
	}
}

func tryLock(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	m := lock.NewMutex(session(t, c), "try")
	l, err := m.TryLock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.TryLock(t.Context()); !errors.Is(err, lock.ErrLocked) {
		t.Errorf("second: %v; want ErrLocked", err)
	}
	waiters(t, c, "try", 1) // the refused one left no key
	if err := l.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.TryLock(t.Context()); err != nil {
		t.Errorf("after unlock: %v", err)
	}
}

func canceledWaiter(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	m := lock.NewMutex(session(t, c), "cancel")
	if _, err := m.Lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := m.Lock(ctx)
		failed <- err
	}()
	waiters(t, c, "cancel", 2)
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want context.Canceled", err)
	}
	waiters(t, c, "cancel", 1)
}

func lostSession(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	if _, err := lock.NewMutex(session(t, c), "lost").Lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := session(t, c, sdk.WithTTL(2*time.Second))
	m := lock.NewMutex(s, "lost")
	failed := make(chan error)
	go func() {
		_, err := m.Lock(t.Context())
		failed <- err
	}()
	waiters(t, c, "lost", 2)
	if err := c.Revoke(t.Context(), s.Lease()); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, sdk.ErrSessionLost) {
		t.Errorf("waiting: %v; want ErrSessionLost", err)
	}
	if _, err := m.TryLock(t.Context()); !errors.Is(err, sdk.ErrSessionLost) {
		t.Errorf("afterwards: %v; want ErrSessionLost", err)
	}

	// The next renewal is far away: it is the refused lock that shows it.
	s = session(t, c, sdk.WithTTL(time.Hour))
	if err := c.Revoke(t.Context(), s.Lease()); err != nil {
		t.Fatal(err)
	}
	if _, err := lock.NewMutex(s, "lost").Lock(t.Context()); !errors.Is(err, sdk.ErrSessionLost) || !errors.Is(s.Err(), sdk.ErrSessionLost) {
		t.Errorf("between renewals: %v, session %v; want ErrSessionLost", err, s.Err())
	}
}

func holderTold(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	s := session(t, c, sdk.WithTTL(2*time.Second))
	l, err := lock.NewMutex(s, "told").Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Revoke(t.Context(), s.Lease()); err != nil {
		t.Fatal(err)
	}
	<-l.Context().Done()
	if cause := context.Cause(l.Context()); !errors.Is(cause, sdk.ErrSessionLost) {
		t.Errorf("cause %v; want ErrSessionLost", cause)
	}
	if err := l.Verify(t.Context()); !errors.Is(err, lock.ErrNotHeld) || !errors.Is(err, sdk.ErrSessionLost) {
		t.Errorf("verify: %v; want ErrNotHeld because of ErrSessionLost", err)
	}
}

func deletedKey(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	l, err := lock.NewMutex(session(t, c), "deleted").Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Verify(t.Context()); err != nil {
		t.Errorf("verify of a held lock: %v", err)
	}
	if _, err := c.Delete(t.Context(), l.Key()); err != nil {
		t.Fatal(err)
	}
	if err := l.Verify(t.Context()); !errors.Is(err, lock.ErrNotHeld) {
		t.Errorf("verify: %v; want ErrNotHeld", err)
	}
	if r, err := c.Txn(t.Context(), sdk.Txn{If: l.Guard(), Then: []sdk.Op{sdk.OpPut("x", nil)}}); err != nil || r.Succeeded {
		t.Errorf("guarded write: %+v, %v; want it refused", r, err)
	}
}

func deletedWaiter(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	m := lock.NewMutex(session(t, c), "phantom")
	holder, err := m.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		_, err := m.Lock(t.Context())
		failed <- err
	}()
	waiters(t, c, "phantom", 2)
	r, err := c.Get(t.Context(), "phantom/", sdk.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range r.KVs {
		if kv.Key != holder.Key() {
			if _, err := c.Delete(t.Context(), kv.Key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := holder.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, lock.ErrNotHeld) {
		t.Errorf("got %v; want ErrNotHeld", err)
	}
}

func unlockTwice(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	m := lock.NewMutex(session(t, c), "unlock")
	first, err := m.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(context.Cause(first.Context()), lock.ErrUnlocked) {
		t.Errorf("cause %v; want ErrUnlocked", context.Cause(first.Context()))
	}
	second, err := m.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Unlock(t.Context()); err != nil {
		t.Errorf("second unlock: %v", err)
	}
	if err := second.Verify(t.Context()); err != nil {
		t.Errorf("unlocking the first again harmed the second: %v", err)
	}
}

func sessionKey(t *testing.T, _ *mustertest.Cluster, c *sdk.Client) {
	s := session(t, c)
	m := lock.NewMutex(s, "shared", lock.WithSessionKey(), lock.WithEpoch(3))
	a, err := m.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.Lock(t.Context())
	if err != nil || a.Token() != b.Token() || a.Token().Epoch != 3 || b.Key() != fmt.Sprintf("shared/%x", s.Lease()) {
		t.Errorf("second lock: token %v, key %s, error %v; want the first's", b.Token(), b.Key(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Lock(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if err := a.Verify(t.Context()); err != nil {
		t.Errorf("a canceled lock took the held one away: %v", err)
	}
}

// interop has etcd's client wait for ours, and ours for etcd's.
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
	theirs, ours := concurrency.NewMutex(es, "interop"), lock.NewMutex(session(t, c), "interop")

	l, err := ours.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.TryLock(t.Context()); !errors.Is(err, concurrency.ErrLocked) {
		t.Errorf("etcd's TryLock while we hold: %v", err)
	}
	locked := make(chan error)
	go func() { locked <- theirs.Lock(t.Context()) }()
	waiters(t, c, "interop", 2)
	if err := l.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-locked; err != nil {
		t.Fatal(err)
	}
	if _, err := ours.TryLock(t.Context()); !errors.Is(err, lock.ErrLocked) {
		t.Errorf("our TryLock while etcd's client holds: %v", err)
	}
	go func() {
		_, err := ours.Lock(t.Context())
		locked <- err
	}()
	waiters(t, c, "interop", 2)
	if err := theirs.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-locked; err != nil {
		t.Fatal(err)
	}
}
