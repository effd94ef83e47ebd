package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	registers = "reg/"
	// callTime is short, for a call may be in the hands of a stopped process.
	callTime = time.Second
	// slots are the keys that the clients fight over at a time. A key is left
	// for a new one after so many operations or unknown outcomes, or porcupine
	// would never end.
	slots, opsPerKey, unknownsPerKey = 4, 300, 6
	// kept revisions are not compacted.
	kept = 2000
)

// rates are how much the clients do.
type rates struct {
	pace        time.Duration // between a client's operations
	ballast     int           // bytes of a value that makes the log grow; 0 for none
	ballastPace time.Duration
}

// load is clients at work while their servers are maltreated. Everything they
// are promised and told is noted, and compared at the end.
type load struct {
	*cluster
	rates
	seed      uint64
	began     time.Time
	ctx       context.Context // ends first
	stop      context.CancelFunc
	wg        sync.WaitGroup
	watching  sync.WaitGroup // goes on until it was told of everything
	endWatch  context.CancelFunc
	followers []*follower
	leases    *leases
	locks     *locks

	mu struct {
		sync.Mutex
		ops      []op
		slots    [slots]slot
		last     time.Duration // when a write was acknowledged last
		gaps     []gap
		ballast  int // values
		compacts int
	}
}

// slot is the place of a key that is fought over.
type slot struct{ generation, ops, unknowns int }

// gap is a time without any acknowledged write.
type gap struct{ from, to time.Duration }

// shortestGap is what is worth noting.
const shortestGap = 50 * time.Millisecond

func newLoad(c *cluster, seed uint64) *load {
	l := &load{cluster: c, seed: seed, began: time.Now()}
	l.ctx, l.stop = context.WithCancel(c.ctx)
	l.leases, l.locks = newLeases(l), newLocks(l)
	return l
}

// startClients returns once writes are acknowledged.
func (l *load) startClients(r rates) {
	l.t.Helper()
	l.rates = r
	watching, endWatch := context.WithCancel(l.cluster.ctx)
	l.endWatch = endWatch
	l.t.Cleanup(l.end)
	l.follow(watching)
	all := l.endpoints()
	for i, m := range l.members {
		l.client(fmt.Sprintf("etcd-%s", m.name), etcdStore{l.etcdClient(m.client)})
		l.client(fmt.Sprintf("etcd-all-%d", i), etcdStore{l.etcdClient(all...)})
		l.client(fmt.Sprintf("sdk-%d", i), ownStore{l.sdkClient(callTime, all...)})
	}
	l.wg.Go(l.stale)
	if r.ballast > 0 {
		l.wg.Go(l.weigh)
	}
	l.wg.Go(l.compact)
	l.leases.start()
	l.locks.start()
	l.awaitWrites()
}

// end stops everything.
func (l *load) end() {
	l.stop()
	l.wg.Wait()
	l.endWatch()
	l.watching.Wait()
}

func (l *load) now() time.Duration { return time.Since(l.began) }

// random is a generator for one goroutine, the same one for the same seed.
func (l *load) random(of string) *rand.Rand {
	h := l.seed
	for _, b := range []byte(of) {
		h = h*1099511628211 + uint64(b)
	}
	return rand.New(rand.NewPCG(l.seed, h))
}

func (l *load) client(name string, s store) { l.wg.Go(func() { l.work(name, s) }) }

// work is one client's life.
func (l *load) work(name string, s store) {
	rng := l.random(name)
	pace := time.NewTicker(l.pace)
	defer pace.Stop()
	seen := map[string]int64{} // the mod revisions that this client has seen last
	for n := 0; ; n++ {
		select {
		case <-l.ctx.Done():
			return
		case <-pace.C:
		}
		o := op{client: name, kind: choose(rng)}
		o.key = l.key(rng.IntN(slots))
		if o.kind.writes() && o.kind != opDelete {
			o.value = fmt.Sprintf("%s.%d", name, n)
		}
		switch o.kind {
		case opPair:
			if o.other = l.key(rng.IntN(slots)); o.other == o.key {
				o.kind, o.other = opPut, ""
			}
		case opCAS:
			o.expect = seen[o.key]
		}
		l.do(s, &o)
		if o.outcome == known {
			if o.found.mod != 0 || o.kind == opGet {
				seen[o.key] = o.found.mod
			} else if o.took() && o.kind != opDelete {
				seen[o.key] = o.rev
			}
		}
		l.note(o)
	}
}

func choose(rng *rand.Rand) opKind {
	return oneOf(rng, share[opKind]{30, opGet}, share[opKind]{25, opPut}, share[opKind]{10, opPair}, share[opKind]{10, opDelete}, share[opKind]{25, opCAS})
}

// share is how many draws in a hundred give what.
type share[T any] struct {
	percent int
	what    T
}

// oneOf draws by shares, which make a hundred.
func oneOf[T any](rng *rand.Rand, shares ...share[T]) T {
	n := rng.IntN(100)
	for _, s := range shares {
		if n -= s.percent; n < 0 {
			return s.what
		}
	}
	panic("chaos: the shares make less than a hundred")
}

// do asks and fills in the answer.
func (l *load) do(s store, o *op) {
	ctx, cancel := context.WithTimeout(l.ctx, callTime)
	defer cancel()
	var err error
	o.called = l.now()
	switch o.kind {
	case opGet, opStale:
		o.rev, o.found, err = s.get(ctx, o.key, o.kind == opStale)
	case opPut:
		o.rev, err = s.put(ctx, o.key, o.value)
	case opPair:
		o.rev, err = s.pair(ctx, o.key, o.other, o.value)
	case opDelete:
		o.rev, o.changed, err = s.del(ctx, o.key)
	case opCAS:
		o.rev, o.changed, o.found, err = s.cas(ctx, o.key, o.expect, o.value)
	}
	o.returned = l.now()
	switch {
	case err == nil:
	case o.kind.writes() && !s.refused(err):
		o.outcome, o.rev = unknown, 0
	default:
		o.outcome, o.rev = refused, 0
	}
}

func (l *load) key(i int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%s%d/%d", registers, i, l.mu.slots[i].generation)
}

func (l *load) note(o op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.ops = append(l.mu.ops, o)
	if o.took() {
		if o.returned-l.mu.last > shortestGap {
			l.mu.gaps = append(l.mu.gaps, gap{l.mu.last, o.returned})
		}
		l.mu.last = max(l.mu.last, o.returned)
	}
	for i := range l.mu.slots {
		s := &l.mu.slots[i]
		key := fmt.Sprintf("%s%d/%d", registers, i, s.generation)
		if o.key != key && o.other != key || o.kind == opStale {
			continue
		}
		s.ops++
		if o.outcome == unknown {
			s.unknowns++
		}
		if s.ops >= opsPerKey || s.unknowns >= unknownsPerKey {
			*s = slot{generation: s.generation + 1}
		}
	}
}

// stale reads what members have by themselves, whatever became of the others.
func (l *load) stale() {
	var stores []store
	for _, m := range l.members {
		stores = append(stores, etcdStore{l.etcdClient(m.client)})
	}
	rng := l.random("stale")
	pace := time.NewTicker(l.pace)
	defer pace.Stop()
	for n := 0; ; n++ {
		select {
		case <-l.ctx.Done():
			return
		case <-pace.C:
		}
		m := n % len(stores)
		o := op{client: "stale-" + l.members[m].name, kind: opStale, key: l.key(rng.IntN(slots))}
		l.do(stores[m], &o)
		l.note(o)
	}
}

// weigh writes values that make the log grow, and followers that were away
// need a checkpoint. Its values are as unique as its keys are few.
func (l *load) weigh() {
	cl := l.etcdClient(l.endpoints()...)
	pace := time.NewTicker(l.ballastPace)
	defer pace.Stop()
	filling := strings.Repeat("ballast ", l.ballast/8)
	for n := 0; ; n++ {
		select {
		case <-l.ctx.Done():
			return
		case <-pace.C:
		}
		ctx, cancel := context.WithTimeout(l.ctx, callTime)
		_, err := cl.Put(ctx, fmt.Sprintf("ballast/%d", n%64), fmt.Sprintf("%d %s", n, filling))
		cancel()
		if err == nil {
			l.mu.Lock()
			l.mu.ballast++
			l.mu.Unlock()
		}
	}
}

// compact drops the history that every watcher has seen.
func (l *load) compact() {
	cl := l.etcdClient(l.endpoints()...)
	pace := time.NewTicker(2 * time.Second)
	defer pace.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-pace.C:
		}
		rev := l.followers[0].at()
		for _, f := range l.followers {
			rev = min(rev, f.at())
		}
		if rev -= kept; rev < 2 {
			continue
		}
		ctx, cancel := context.WithTimeout(l.ctx, callTime)
		_, err := cl.Compact(ctx, rev)
		cancel()
		if err == nil {
			l.mu.Lock()
			l.mu.compacts++
			l.mu.Unlock()
		}
	}
}

// awaitWrites returns once a few writes are acknowledged that were asked for
// from now on, with how long that took.
func (l *load) awaitWrites() time.Duration {
	l.t.Helper()
	const enough = 6
	from := l.now()
	l.mu.Lock()
	next := len(l.mu.ops)
	l.mu.Unlock()
	n := 0
	return l.await("writes are acknowledged", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for ; next < len(l.mu.ops); next++ {
			if o := l.mu.ops[next]; o.took() && o.called >= from {
				n++
			}
		}
		if n < enough {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
}

// outage is the longest time without an acknowledged write since from.
func (l *load) outage(from time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	longest := l.now() - max(from, l.mu.last)
	for _, g := range slices.Backward(l.mu.gaps) {
		if g.to < from {
			break
		}
		longest = max(longest, g.to-max(from, g.from))
	}
	return longest
}

// verify ends the load, lets all come to rest, and holds what was told against
// what was promised.
func (l *load) verify() *verdict {
	l.t.Helper()
	l.awaitWrites()
	l.awaitReady(l.members...)
	v := newVerdict()
	l.stop()
	l.wg.Wait()
	l.leases.awaitEnd(v)
	last := l.finalPut()
	for _, f := range l.followers {
		l.await(fmt.Sprintf("the watcher %s comes to revision %d", f.name, last), func() error {
			if at := f.at(); at < last {
				return fmt.Errorf("it is at %d", at)
			}
			return nil
		})
	}
	l.endWatch()
	l.watching.Wait()
	h := checkFollowers(v, l.followers)
	checkOps(v, h, l.mu.ops)
	checkRegisters(v, l.mu.ops)
	l.leases.check(v, h)
	l.locks.check(v, h)
	l.checkReplicas(v, h, last)
	return v
}

// judge fails the test if anything is wrong.
func (l *load) judge(v *verdict) {
	l.t.Helper()
	for _, wrong := range v.wrong {
		l.t.Error(wrong)
	}
	for _, kind := range sortedKeys(v.counts) {
		l.t.Errorf("%s: %d of %d are wrong", kind, v.counts[kind], v.checks[kind])
	}
}

// finalPut returns the last revision that there will be.
func (l *load) finalPut() (rev int64) {
	l.await("the last put", func() error {
		ctx, cancel := context.WithTimeout(l.cluster.ctx, callTime)
		defer cancel()
		r, err := l.admin.Put(ctx, "end", "")
		if err == nil {
			rev = r.Header.Revision
		}
		return err
	})
	return rev
}

// checkReplicas looks at what each member has in the end.
func (l *load) checkReplicas(v *verdict, h *history, last int64) {
	ctx := l.cluster.ctx
	hashes := map[uint32][]string{}
	for _, m := range l.members {
		var hash *clientv3.HashKVResponse
		one := l.etcdClient(m.client)
		l.await(m.name+" answers about its hash", func() (err error) {
			hash, err = one.HashKV(ctx, m.client, last)
			return err
		})
		hashes[hash.Hash] = append(hashes[hash.Hash], fmt.Sprintf("%s (compacted at %d)", m.name, hash.CompactRevision))
		st, err := l.status(m)
		v.checked("members without errors", err == nil && len(st.Errors) == 0, "%s: %v, %v", m.name, st, err)
		_, err = m.ask(ctx, "/health")
		v.checked("members healthy", err == nil, "%v", err)

		r, err := one.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithSerializable(), clientv3.WithRev(last))
		v.checked("members' states read", err == nil, "%s: %v", m.name, err)
		if err != nil {
			continue
		}
		for _, kv := range r.Kvs {
			got := version{reading{digest(kv.Value), kv.ModRevision}, kv.ModRevision, kv.CreateRevision, kv.Version}
			want := h.at(string(kv.Key), last)
			v.checked("keys in the members' last state", got == want, "%s at %s is %+v, want %+v", kv.Key, m.name, got, want)
		}
		live := 0
		for key := range h.keys {
			if h.at(key, last).version > 0 {
				live++
			}
		}
		v.checked("members with every key", len(r.Kvs) == live, "%s has %d keys, want %d", m.name, len(r.Kvs), live)
	}
	v.checked("members' hashes equal", len(hashes) == 1, "%v", hashes)
}
