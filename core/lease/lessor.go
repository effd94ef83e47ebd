package lease

import (
	"container/heap"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/musterhq/muster/core/simbug"
)

// The answers of Renew that are not final.
var (
	// ErrExpiring means that the lease's expiry is on its way through the log: wait
	// for its outcome, then ask again with the same time of receipt.
	ErrExpiring = errors.New("lease is expiring")
	// ErrCheckpointed means that a checkpoint of the lease's remaining time stands, or
	// is on its way through the log. It would shorten the renewed lease after a change
	// of leader, so it has to go first: commit a checkpoint of 0, then ask again with
	// the same time of receipt.
	ErrCheckpointed = errors.New("lease has a checkpointed remaining time")
	// ErrNotLeading means that this lessor is not promoted.
	ErrNotLeading = errors.New("not the leader's lessor")
)

// Config tunes a Lessor. The zero value works.
type Config struct {
	// ExpiryRate is how many leases may run out in one second after a promotion
	// before the rest is put off, so that a cluster that was away for long isn't
	// buried in expiries. 0 means 750.
	ExpiryRate int
	// CheckpointInterval is how often the remaining time of a lease that has longer
	// than this to live is written down. 0 means 5 minutes; negative means never.
	CheckpointInterval time.Duration
}

const (
	defaultExpiryRate         = 750
	defaultCheckpointInterval = 5 * time.Minute
)

// Lessor is the leader's soft clock over all leases. Times are durations since
// an origin of the caller's choice on a monotonic clock.
//
// A deadline that moves later leaves the lease's place in the heap alone; when
// the place comes up too early it is put back where it belongs. So renewing,
// by far the most frequent thing, is one map access.
type Lessor struct {
	cfg    Config
	term   uint64 // 0: not leading
	leases map[int64]clock
	due    dueHeap
	checks dueHeap // next checkpoint times
}

// clock is what a Lessor knows of one lease.
type clock struct {
	ttl       int64         // seconds
	deadline  time.Duration // the lease may be expired from here on
	expiring  bool          // its expiry was handed out and is undecided
	recorded  bool          // the replicated table holds a remaining time
	recording bool          // a checkpoint of it was handed out and is undecided
}

// NewLessor returns a lessor that isn't leading.
func NewLessor(cfg Config) *Lessor {
	if cfg.ExpiryRate <= 0 {
		cfg.ExpiryRate = defaultExpiryRate
	}
	if cfg.CheckpointInterval == 0 {
		cfg.CheckpointInterval = defaultCheckpointInterval
	}
	return &Lessor{cfg: cfg, leases: make(map[int64]clock)}
}

// Term is the term in which this lessor leads, 0 if it doesn't. It goes into
// the expiries it causes.
func (l *Lessor) Term() uint64 { return l.term }

// Len is the number of leases it watches over.
func (l *Lessor) Len() int { return len(l.leases) }

// Promote starts leading in term with the leases of the state as of the term's
// first entry. Every lease gets its whole TTL again (or what a checkpoint says
// was left of it) plus extend, which should be the election time-out: renewals
// that the former leader answered are unknown here.
func (l *Lessor) Promote(now time.Duration, term uint64, leases iter.Seq[Lease], extend time.Duration) {
	l.term, l.leases = term, make(map[int64]clock)
	l.begin(now, leases, extend, nil)
}

// Resume goes on leading after a standstill in which renewals may have been missed:
// every lease gets its time again as by Promote. What was handed out is still on
// its way through the log: those leases stay as they are.
func (l *Lessor) Resume(now time.Duration, leases iter.Seq[Lease], extend time.Duration) {
	before := l.leases
	l.leases = make(map[int64]clock)
	l.begin(now, leases, extend, before)
}

func (l *Lessor) begin(now time.Duration, leases iter.Seq[Lease], extend time.Duration, before map[int64]clock) {
	l.due, l.checks = nil, nil
	perSecond := make(map[int64]int) // expiries by second
	full := make(map[int64]int64)    // a full second → where to look next
	for le := range leases {
		ttl := le.TTL
		if le.Remaining > 0 && le.Remaining < ttl {
			ttl = le.Remaining
		}
		deadline := now + seconds(ttl) + extend
		if simbug.On(simbug.NoExtension) {
			deadline = now + seconds(ttl)/2
		}
		second := int64(deadline / time.Second)
		free := firstFree(full, second)
		if perSecond[free]++; perSecond[free] >= l.cfg.ExpiryRate {
			full[free] = free + 1
		}
		deadline += time.Duration(free-second) * time.Second
		was := before[le.ID]
		c := clock{ttl: le.TTL, deadline: deadline, recorded: le.Remaining > 0, expiring: was.expiring, recording: was.recording}
		l.leases[le.ID] = c
		l.due = append(l.due, due{at: deadline, id: le.ID})
		if at, ok := l.nextCheckpoint(c, now); ok {
			l.checks = append(l.checks, due{at: at, id: le.ID})
		}
	}
	heap.Init(&l.due)
	heap.Init(&l.checks)
}

// firstFree finds the first second from s on that isn't full, and shortens the
// way for those who ask after it.
func firstFree(full map[int64]int64, s int64) int64 {
	free := s
	for next, ok := full[free]; ok; next, ok = full[free] {
		free = next
	}
	for s != free {
		next := full[s]
		full[s] = free
		s = next
	}
	return free
}

// Demote stops leading and forgets all deadlines.
func (l *Lessor) Demote() {
	l.term = 0
	clear(l.leases)
	l.due, l.checks = nil, nil
}

// Granted notes a lease whose grant was applied.
func (l *Lessor) Granted(id, ttl int64, now time.Duration) {
	if l.term == 0 {
		return
	}
	c := clock{ttl: ttl, deadline: now + seconds(ttl)}
	if simbug.On(simbug.ExpireLate) {
		c.deadline += 20 * time.Second
	}
	l.leases[id] = c
	heap.Push(&l.due, due{at: c.deadline, id: id})
	if at, ok := l.nextCheckpoint(c, now); ok {
		heap.Push(&l.checks, due{at: at, id: id})
	}
}

// Revoked notes a lease whose revocation or expiry was applied. Its place in the
// heaps goes when it comes up, or when such places are in the majority.
func (l *Lessor) Revoked(id int64) {
	delete(l.leases, id)
	l.due.sweep(l.leases)
	l.checks.sweep(l.leases)
}

// Checkpointed notes an applied checkpoint of a lease's remaining seconds.
func (l *Lessor) Checkpointed(id, remaining int64) {
	if c, ok := l.leases[id]; ok {
		if remaining > 0 {
			c.recording = false
		}
		c.recorded = remaining > 0
		l.leases[id] = c
	}
}

// Renew gives the lease its whole TTL again, counted from when the request was
// received, and returns that TTL in seconds. The caller has made sure, after
// receiving the request, that this lessor's term is still the current one.
func (l *Lessor) Renew(id int64, receivedAt time.Duration) (ttl int64, err error) {
	if l.term == 0 {
		return 0, ErrNotLeading
	}
	c, ok := l.leases[id]
	switch {
	case !ok:
		return 0, fmt.Errorf("%w: %016x", ErrNotFound, id)
	case c.expiring:
		return 0, fmt.Errorf("%w: %016x", ErrExpiring, id)
	case c.recorded || c.recording:
		return 0, fmt.Errorf("%w: %016x", ErrCheckpointed, id)
	}
	// A promotion may have set a later deadline than this renewal does; it stays.
	if d := receivedAt + seconds(c.ttl); d > c.deadline {
		c.deadline = d
		l.leases[id] = c
	}
	return c.ttl, nil
}

// Expired hands out up to max leases whose deadline has passed, earliest first,
// and marks them expiring. Each stays so until Revoked or ExpiryDone.
func (l *Lessor) Expired(now time.Duration, max int) []int64 {
	var ids []int64
	for len(ids) < max && len(l.due) > 0 && l.due[0].at <= now {
		d := l.due[0]
		c, ok := l.leases[d.id]
		switch {
		case !ok || c.expiring:
			heap.Pop(&l.due)
		case c.deadline > d.at:
			l.due[0].at = c.deadline
			heap.Fix(&l.due, 0)
		default:
			heap.Pop(&l.due)
			c.expiring = true
			l.leases[d.id] = c
			ids = append(ids, d.id)
		}
	}
	return ids
}

// ExpiryDone notes that the proposal to expire the lease came to nothing. If the
// lease is still there it may be renewed again, or be handed out again at once.
func (l *Lessor) ExpiryDone(id int64) {
	c, ok := l.leases[id]
	if !ok || !c.expiring {
		return
	}
	c.expiring = false
	l.leases[id] = c
	heap.Push(&l.due, due{at: c.deadline, id: id})
}

// Remaining is how long the lease has at least to live; 0 if it may expire at
// any moment. The second result says whether there is such a lease.
func (l *Lessor) Remaining(id int64, now time.Duration) (time.Duration, bool) {
	c, ok := l.leases[id]
	if !ok {
		return 0, false
	}
	return max(c.deadline-now, 0), true
}

// NextDeadline is when Expired should be asked next: not later than the first
// deadline, perhaps earlier. False means that there is nothing to wait for.
func (l *Lessor) NextDeadline() (time.Duration, bool) {
	if len(l.due) == 0 {
		return 0, false
	}
	return l.due[0].at, true
}

func seconds(n int64) time.Duration {
	if n > MaxTTL {
		n = MaxTTL
	}
	return time.Duration(n) * time.Second
}

// due is a place in a heap. A lease may have more than one (a lease revoked and
// granted again under the same id); the one that comes up first decides.
type due struct {
	at time.Duration
	id int64
}

// dueHeap orders places by time, then id, so that equal inputs give equal output.
type dueHeap []due

func (h dueHeap) Len() int { return len(h) }
func (h dueHeap) Less(i, j int) bool {
	if h[i].at != h[j].at {
		return h[i].at < h[j].at
	}
	return h[i].id < h[j].id
}
func (h dueHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)   { *h = append(*h, x.(due)) }
func (h *dueHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// sweep reduces the heap to the first place of each lease that is still there,
// once the others are in the majority.
func (h *dueHeap) sweep(leases map[int64]clock) {
	if len(*h) < 2*len(leases)+64 {
		return
	}
	first := make(map[int64]int, len(leases)) // id → index in kept
	kept := (*h)[:0]
	for _, d := range *h {
		if _, ok := leases[d.id]; !ok {
			continue
		}
		if i, ok := first[d.id]; ok {
			kept[i].at = min(kept[i].at, d.at)
			continue
		}
		first[d.id] = len(kept)
		kept = append(kept, d)
	}
	*h = kept
	heap.Init(h)
}
