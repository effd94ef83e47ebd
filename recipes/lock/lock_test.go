package lock_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
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
		{"LateCopyOfARequestLeavesNoKey", lateCopy},
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

// cutter loses the answers to what it is armed for: the request gets through, then the connection breaks.
type cutter struct {
	net.Conn
	armed *atomic.Int32
}

func (c *cutter) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && strings.Contains(string(p[:n]), "cut/") && c.armed.Add(-1) >= 0 {
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// lostAnswers breaks the connection when the answer to the acquiring transaction arrives: it names the own key.
func lostAnswers(t *testing.T, cluster *mustertest.Cluster, c *sdk.Client) {
	var armed atomic.Int32
	armed.Store(-1 << 20)
	faulty := cluster.Open(sdk.Config{Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", addr)
		return &cutter{Conn: conn, armed: &armed}, err
	}})
	m := lock.NewMutex(session(t, faulty), "cut")
	armed.Store(3)
	l, err := m.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waiters(t, c, "cut", 1)
	if n := armed.Load(); n > 0 {
		t.Errorf("%d answers were not lost", n)
	}
	if err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if err := l.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	armed.Store(2)
	if _, err := m.TryLock(t.Context()); err != nil {
		t.Errorf("try: %v", err)
	}
	waiters(t, c, "cut", 1)
}

// parking holds a request back: when it is armed, what is written from the first mention of the lock on is kept, and
// the connection is dead to the client, while the member's side of it stays open.
type parking struct {
	net.Conn
	armed *atomic.Bool
	held  chan *parking // gets the connection that was parked

	mu     sync.Mutex
	parked bool
	bytes  []byte
}

func (p *parking) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.parked && strings.Contains(string(b), "late/") && p.armed.CompareAndSwap(true, false) {
		p.parked = true
		_ = p.Conn.SetReadDeadline(time.Now()) // wakes the reader, which sees a broken connection
		p.held <- p
	}
	if p.parked {
		p.bytes = append(p.bytes, b...)
		return len(b), nil
	}
	return p.Conn.Write(b)
}

func (p *parking) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parked {
		return nil
	}
	return p.Conn.Close()
}

// deliver lets the member have what was held back, and returns once it has answered.
func (p *parking) deliver(t *testing.T) {
	t.Helper()
	if err := p.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Conn.Write(p.bytes); err != nil {
		t.Fatal(err)
	}
	const data = 0 // HTTP/2's frame type
	for header := make([]byte, 9); ; {
		if _, err := io.ReadFull(p.Conn, header); err != nil {
			t.Fatal(err)
		}
		n := int64(header[0])<<16 | int64(header[1])<<8 | int64(header[2])
		if _, err := io.CopyN(io.Discard, p.Conn, n); err != nil {
			t.Fatal(err)
		}
		if header[3] == data {
			break
		}
	}
	if err := p.Conn.Close(); err != nil {
		t.Error(err)
	}
}

// lateCopy has the acquiring transaction executed once more after everything is over: by a member that was stopped
// with it in hand, say. Its session lives on, so what it leaves would stand in the way of everybody else.
func lateCopy(t *testing.T, cluster *mustertest.Cluster, c *sdk.Client) {
	for name, use := range map[string]func(*testing.T, *lock.Mutex){
		"lock and unlock": func(t *testing.T, m *lock.Mutex) {
			l, err := m.Lock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Unlock(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		"refused try": func(t *testing.T, m *lock.Mutex) {
			holder, err := lock.NewMutex(session(t, c), "late").Lock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.TryLock(t.Context()); !errors.Is(err, lock.ErrLocked) {
				t.Fatalf("try: %v", err)
			}
			if err := holder.Unlock(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var armed atomic.Bool
			held := make(chan *parking, 1)
			faulty := cluster.Open(sdk.Config{Dial: func(ctx context.Context, addr string) (net.Conn, error) {
				var d net.Dialer
				conn, err := d.DialContext(ctx, "tcp", addr)
				return &parking{Conn: conn, armed: &armed, held: held}, err
			}})
			s := session(t, faulty)
			armed.Store(true)
			use(t, lock.NewMutex(s, "late"))
			select {
			case p := <-held:
				p.deliver(t)
			default:
				t.Fatal("no request was held back")
			}
			if r, err := c.Get(t.Context(), "late/", sdk.WithPrefix()); err != nil || r.Count != 0 {
				t.Errorf("the line holds %v, %v; want nothing", r.KVs, err)
			}
			if s.Err() != nil {
				t.Errorf("the session has ended meanwhile: %v", s.Err())
			}
		})
	}
}
