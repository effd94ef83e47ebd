package simtest

import (
	"maps"
	"slices"
	"time"

	"github.com/musterhq/muster/core/node"
)

// leaseBook holds what clients were told about leases against when they went.
type leaseBook struct{ leases map[int64]*leaseFate }

type leaseFate struct {
	ttl time.Duration
	// kept is the latest moment up to which some client was promised the
	// lease: call time of an answered grant or renewal, plus TTL.
	kept    time.Duration
	lastTry time.Duration // when a client last asked for a renewal
	gone    time.Duration // when a member first had it gone; 0: it lives
	revoked bool          // somebody asked for that
}

// leastLife is how long a TTL lasts at least, by the fastest clock there may be.
func (w *World) leastLife(ttl time.Duration) time.Duration {
	return time.Duration(float64(ttl)/(1+w.shape.drift)) - time.Millisecond
}

func (b *leaseBook) init() { b.leases = map[int64]*leaseFate{} }

func (b *leaseBook) of(id int64) *leaseFate {
	f := b.leases[id]
	if f == nil {
		f = &leaseFate{}
		b.leases[id] = f
	}
	return f
}

// promised notes an answered grant or renewal whose call was made at called.
func (b *leaseBook) promised(w *World, id int64, ttl time.Duration, called time.Duration) {
	f := b.of(id)
	f.ttl = ttl
	f.kept = max(f.kept, called+w.leastLife(ttl))
	b.judge(w, id, f)
}

func (b *leaseBook) judge(w *World, id int64, f *leaseFate) {
	if f.gone != 0 && !f.revoked && f.gone < f.kept {
		w.fail("lease %x was gone at %v but promised until %v", id, f.gone, f.kept)
	}
}

// applied notes leases that an apply ended.
func (b *leaseBook) applied(w *World, d node.ApplyDone) {
	for _, e := range d.Leases {
		if e.Granted || e.Checkpointed {
			continue
		}
		f := b.of(e.ID)
		if f.gone == 0 {
			f.gone = w.now
		}
		b.judge(w, e.ID, f)
	}
}

// check fails if a lease lives on although nobody has renewed it for long, in a
// cluster that has had a leader since led: twice its time, as for one change of
// leader, and some for elections (four seconds beyond once were the most in 600 seeds).
func (b *leaseBook) check(w *World, led time.Duration) {
	for _, id := range slices.Sorted(maps.Keys(b.leases)) {
		f := b.leases[id]
		if _, lives := w.truth.spec.Lease(id); lives && w.now > max(led, f.lastTry)+2*f.ttl+10*time.Second {
			w.fail("lease %x of %v, asked for at %v, lives on", id, f.ttl, f.lastTry)
		}
	}
}
