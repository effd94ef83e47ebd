package watch

import (
	"github.com/musterhq/muster/core/interval"
	"github.com/musterhq/muster/core/mvcc"
)

// Request asks for a watcher.
type Request struct {
	ID       int64  // 0: the stream picks one
	Key      []byte // empty: the smallest key, "\x00"
	End      []byte // empty: Key alone; "\x00": everything from Key on; else [Key, End)
	StartRev int64  // 0: from the revision after the hub's present one

	PrevKV   bool // events carry the pair they replaced, where it isn't compacted
	Progress bool // periodic progress notifications (Stream.Tick)
	Fragment bool // the client puts split responses together again
	NoPut    bool // leave out puts
	NoDelete bool // leave out deletes
}

// Response is one message owed to a stream's client.
type Response struct {
	WatchID int64 // -1 for refused requests and for progress of the whole stream
	// Rev is the store's revision as of this response: of events, the last
	// one's, or a later one up to which the watcher has been served.
	Rev        int64
	Created    bool
	Canceled   bool
	CompactRev int64      // > 0: canceled because history before it is gone
	Err        error      // why a request was refused (Created and Canceled)
	Fragment   bool       // the watcher accepts fragments
	Events     []*Encoded // in order; shared, never to be written to
}

// InvalidID stands where no single watcher is meant.
const InvalidID = -1

// watcher is one registration. Its owner is whoever may touch the fields below
// the line: the hub (under Hub.mu) while it is synced, the goroutine that pulls
// the stream while it is behind. It changes hands under Stream.mu.
type watcher struct {
	stream   *Stream
	id       int64
	keys     interval.Range
	start    int64
	prevKV   bool
	progress bool
	fragment bool
	noPut    bool
	noDelete bool

	// Guarded by Stream.mu.
	gone   bool   // canceled: nothing more may be delivered
	sent   bool   // events went out since the last Tick
	ticked bool   // a progress response of Tick waits in the queue
	open   uint64 // number of the queue entry that may take more live events
	// Written with both mutexes held, read with either.
	synced bool

	// --- the owner's ---
	next     int64   // see the package's hand-over invariant
	home     *bucket // place in the owner's group
	slot     int
	gather   []*Encoded // events collected from one batch, not yet queued
	cost     int        // of gather
	overflow int64      // first revision of the batch that is not to be queued, 0 if none
}

// wants tells whether the event is this watcher's business; that its key
// matches is known.
func (w *watcher) wants(ev *mvcc.Event) bool {
	if ev.Delete {
		return !w.noDelete && ev.Rev >= w.next
	}
	return !w.noPut && ev.Rev >= w.next
}

// collect adds an event to gather, and tells whether it is the first thing of
// this batch that concerns the watcher. Once limit is passed, the revision that
// did it and all later ones are left to history.
func (w *watcher) collect(c *encoder, limit int) (first bool) {
	if w.overflow != 0 {
		return false
	}
	first = len(w.gather) == 0
	e := c.form(w.prevKV)
	w.cost += e.cost()
	if w.cost > limit {
		w.overflow = e.Rev
		return first
	}
	if first {
		w.gather = e.alone()
	} else {
		w.gather = append(w.gather, e)
	}
	return first
}

// take empties gather. What it returns holds whole revisions only, all below
// overflow.
func (w *watcher) take() (evs []*Encoded, overflow int64) {
	evs, overflow = w.gather, w.overflow
	w.gather, w.cost, w.overflow = nil, 0, 0
	if overflow != 0 {
		for len(evs) > 0 && evs[len(evs)-1].Rev >= overflow {
			evs = evs[:len(evs)-1]
		}
	}
	return evs, overflow
}
