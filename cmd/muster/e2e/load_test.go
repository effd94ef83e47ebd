package e2e

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// load is clients at work while their servers are maltreated: writers, readers,
// a watcher on every endpoint from the first revision on, a lease that is kept
// alive and a lock that several want. What they are promised and told is
// compared at the end.
type load struct {
	t       *testing.T
	cluster *Cluster
	client  *clientv3.Client
	ctx     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup
	// Watchers go on when the rest has stopped, until they were told of it all.
	watching    sync.WaitGroup
	stopWatches context.CancelFunc

	watchers []*follower
	lease    *clientv3.LeaseGrantResponse
	leaseRev int64 // where its key was created

	mu struct {
		sync.Mutex
		acked  []written
		newest map[string]written // by key, the last acknowledged
		reads  int
		// renewals of the lease
		renewals int
		inside   map[*concurrency.Session]bool // who holds the lock
		locks    []int64                       // create revisions of its holders' keys, in order
	}
}

// written is a put that was acknowledged.
type written struct {
	key   string
	value int
	rev   int64
}

const (
	loadWriters, loadReaders, loadLockers = 4, 2, 3
	// callTime is short, for a call may be in the hands of a stopped process.
	callTime  = time.Second
	leasedKey = "load/leased"
)

func startLoad(t *testing.T, c *Cluster) *load {
	t.Helper()
	l := &load{t: t, cluster: c, client: connect(t, c.Endpoints()...)}
	l.mu.newest, l.mu.inside = map[string]written{}, map[*concurrency.Session]bool{}
	l.ctx, l.stop = context.WithCancel(t.Context())
	watching, stopWatches := context.WithCancel(t.Context())
	l.stopWatches = stopWatches
	t.Cleanup(l.end)

	l.lease = must[*clientv3.LeaseGrantResponse](t)(l.client.Grant(within(t, patience), 5))
	l.leaseRev = put(t, l.client, leasedKey, "", clientv3.WithLease(l.lease.ID)).Header.Revision
	alive, err := l.client.KeepAlive(l.ctx, l.lease.ID)
	if err != nil {
		t.Fatal(err)
	}
	l.wg.Go(func() {
		for range alive {
			l.mu.Lock()
			l.mu.renewals++
			l.mu.Unlock()
		}
		if l.ctx.Err() == nil {
			t.Error("the lease that was kept alive is lost")
		}
	})
	for _, m := range c.Members {
		w := &follower{name: m.Name, client: connect(t, m.Client)}
		l.watchers = append(l.watchers, w)
		l.watching.Go(func() { w.follow(watching) })
	}
	for i := range loadWriters {
		l.wg.Go(func() { l.write(i) })
	}
	for range loadReaders {
		l.wg.Go(l.read)
	}
	for range loadLockers {
		l.wg.Go(l.lock)
	}
	l.AwaitWrites()
	return l
}

// end stops everything.
func (l *load) end() {
	l.stop()
	l.stopWatches()
	l.wg.Wait()
	l.watching.Wait()
}

// write counts upwards in a key of its own. A put whose outcome is unknown may
// still happen, so that key is left as it is and another one is begun.
func (l *load) write(writer int) {
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	generation := 0
	for n := 1; ; n++ {
		select {
		case <-l.ctx.Done():
			return
		case <-pace.C:
		}
		key := fmt.Sprintf("load/w%d/%d", writer, generation)
		ctx, cancel := context.WithTimeout(l.ctx, callTime)
		r, err := l.client.Put(ctx, key, strconv.Itoa(n))
		cancel()
		if err != nil {
			generation++
			continue
		}
		l.mu.Lock()
		w := written{key, n, r.Header.Revision}
		l.mu.acked = append(l.mu.acked, w)
		l.mu.newest[key] = w
		l.mu.Unlock()
	}
}

// read checks that a linearizable read has all that was acknowledged before it.
func (l *load) read() {
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-pace.C:
		}
		l.mu.Lock()
		var floor written
		for _, floor = range l.mu.newest { // a map's order is random enough
			break
		}
		l.mu.Unlock()
		if floor.key == "" {
			continue
		}
		ctx, cancel := context.WithTimeout(l.ctx, callTime)
		r, err := l.client.Get(ctx, floor.key)
		cancel()
		if err != nil {
			continue
		}
		if len(r.Kvs) != 1 || number(r.Kvs[0].Value) < floor.value || r.Header.Revision < floor.rev {
			l.t.Errorf("a read after %+v was acknowledged returned %v at revision %d", floor, r.Kvs, r.Header.Revision)
		}
		l.mu.Lock()
		l.mu.reads++
		l.mu.Unlock()
	}
}

func number(value []byte) int {
	n, err := strconv.Atoi(string(value))
	if err != nil {
		return -1
	}
	return n
}

// lock takes the lock and leaves it again. A session whose calls had an unknown
// outcome is given up: what they do later must not hit the next turn.
func (l *load) lock() {
	for l.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(l.ctx, callTime)
		grant, err := l.client.Grant(ctx, 5)
		cancel()
		if err != nil {
			continue
		}
		s, err := concurrency.NewSession(l.client, concurrency.WithContext(l.ctx), concurrency.WithLease(grant.ID))
		if err != nil {
			continue
		}
		for l.turn(s) {
		}
		s.Orphan()
		ctx, cancel = context.WithTimeout(context.WithoutCancel(l.ctx), callTime)
		_, _ = l.client.Revoke(ctx, grant.ID) // or it expires
		cancel()
	}
}

// turn is one time in the lock; false if the session is of no more use.
func (l *load) turn(s *concurrency.Session) bool {
	m := concurrency.NewMutex(s, "load/lock")
	ctx, cancel := context.WithTimeout(l.ctx, 3*time.Second)
	defer cancel()
	if err := m.Lock(ctx); err != nil {
		return false
	}
	l.mu.Lock()
	for other := range l.mu.inside {
		select {
		case <-other.Done(): // it knows that it has lost the lock
		default:
			l.t.Errorf("two hold the lock: leases %x and %x", other.Lease(), s.Lease())
		}
	}
	l.mu.inside[s] = true
	l.mu.locks = append(l.mu.locks, m.Header().Revision)
	l.mu.Unlock()
	select { // work
	case <-time.After(10 * time.Millisecond):
	case <-l.ctx.Done():
	}
	l.mu.Lock()
	delete(l.mu.inside, s)
	l.mu.Unlock()
	ctx, cancel = context.WithTimeout(l.ctx, callTime)
	defer cancel()
	return m.Unlock(ctx) == nil
}

// AwaitWrites returns once a few more writes are acknowledged, with how long
// that took.
func (l *load) AwaitWrites() time.Duration {
	l.t.Helper()
	began := time.Now()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.mu.acked)
	}
	from := count()
	eventually(l.t, "writes are acknowledged", func() bool { return count() >= from+2*loadWriters })
	return time.Since(began)
}

// AwaitRenewal returns once the lease was kept alive again. etcd's client tries
// twice a second, and may find nobody home each time if the whole cluster is
// away more often than that.
func (l *load) AwaitRenewal() {
	l.t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.mu.renewals
	}
	from := count()
	eventually(l.t, "the lease is kept alive", func() bool { return count() > from })
}

// Verify ends the load and holds what watchers and readers see now against
// what was promised.
func (l *load) Verify() {
	t := l.t
	t.Helper()
	l.AwaitWrites()
	if r, err := l.client.TimeToLive(within(t, patience), l.lease.ID); err != nil || r.TTL <= 0 {
		t.Errorf("the lease that was kept alive: %v, %v", r, err)
	}
	if kv := get(t, l.client, leasedKey).Kvs; len(kv) != 1 || kv[0].CreateRevision != l.leaseRev {
		t.Errorf("its key: %v, want it as created at %d", kv, l.leaseRev)
	}
	l.stop()
	l.wg.Wait()
	last := put(t, l.client, "load/end", "").Header.Revision
	for _, w := range l.watchers {
		eventually(t, fmt.Sprintf("the watcher of %s has come to revision %d", w.name, last), func() bool { return w.at() >= last })
	}
	l.end()

	first := l.watchers[0]
	for _, w := range l.watchers {
		for _, complaint := range w.complaints {
			t.Errorf("watcher of %s: %s", w.name, complaint)
		}
		for i := range min(last, w.at(), first.at()) - 1 {
			if w.told[i] != first.told[i] {
				t.Fatalf("revision %d is %s to the watcher of %s, %s to that of %s", i+2, w.told[i], w.name, first.told[i], first.name)
			}
		}
	}
	lost, at := 0, map[string]written{}
	for _, a := range l.mu.acked {
		if told := first.told[a.rev-2]; told != fmt.Sprintf("+%s=%d", a.key, a.value) {
			if lost++; lost < 5 {
				t.Errorf("%+v was acknowledged, its revision is %s", a, told)
			}
		}
		if before := at[a.key]; before.value >= a.value || before.rev >= a.rev {
			t.Errorf("%+v was acknowledged after %+v", a, before)
		}
		at[a.key] = a
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged writes are lost", lost, len(l.mu.acked))
	}
	for key, a := range at {
		kv := get(t, l.client, key).Kvs
		// One more may have happened, whose answer was lost.
		if len(kv) != 1 || kv[0].ModRevision != a.rev && number(kv[0].Value) <= a.value {
			t.Errorf("in the end %s is %v, want what was acknowledged as %+v", key, kv, a)
		}
	}
	for i := 1; i < len(l.mu.locks); i++ {
		if l.mu.locks[i] < l.mu.locks[i-1] {
			t.Errorf("the lock was taken at revision %d after %d", l.mu.locks[i], l.mu.locks[i-1])
		}
	}
	resumed := 0
	for _, w := range l.watchers {
		resumed += w.resumed
	}
	t.Logf("%d writes acknowledged in %d keys, %d reads, lock taken %d times, %d revisions watched on %d endpoints (%d streams begun anew by hand)",
		len(l.mu.acked), len(at), l.mu.reads, len(l.mu.locks), first.at(), len(l.watchers), resumed)
	if len(l.mu.acked) < 30 || l.mu.reads < 15 || len(l.mu.locks) < 2 {
		t.Error("that is too little to have proved anything")
	}
}

// follower watches everything on one endpoint from the first revision on.
type follower struct {
	name   string
	client *clientv3.Client

	resumed    int
	complaints []string
	mu         sync.Mutex // guards told while the load runs
	told       []string   // told[i] is what happened at revision i+2, the first there can be
}

// at is the last revision that the watcher was told of.
func (w *follower) at() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int64(len(w.told)) + 1
}

func (w *follower) follow(ctx context.Context) {
	for ; ctx.Err() == nil; w.resumed++ {
		// From key 0 on: every revision is of some key, so none may be missing.
		ch := w.client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(w.at()+1))
		for r := range ch {
			if r.CompactRevision != 0 {
				w.complaints = append(w.complaints, fmt.Sprint("compacted: ", r.CompactRevision))
				return
			}
			w.take(r)
		}
	}
}

// take checks that responses hold whole revisions, each once and in order.
func (w *follower) take(r clientv3.WatchResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	begun := len(w.told)
	for _, e := range r.Events {
		next := int64(len(w.told)) + 2
		rev, text := e.Kv.ModRevision, eventText(e, "")
		switch {
		case rev == next:
			w.told = append(w.told, text)
		case rev == next-1 && len(w.told) > begun:
			w.told[len(w.told)-1] += " " + text
		default:
			w.complaints = append(w.complaints, fmt.Sprintf("told of %s at revision %d when %d was due", text, rev, next))
			return
		}
	}
}
