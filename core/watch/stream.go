package watch

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/musterhq/muster/core/interval"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/simbug"
)

// Stream is one client's set of watchers and what they are owed.
//
// Watch, Cancel, RequestProgress, Tick and Refuse queue responses and never
// wait; a caller that passes on a client's requests calls Admit before each, so
// that a client that asks without reading is held back.
type Stream struct {
	hub  *Hub
	slot int // place in Hub.mu.streams, guarded by Hub.mu

	wake chan struct{} // capacity 1: there may be something to pull
	room chan struct{} // capacity 1: controls fell below maxControls

	mu struct {
		sync.Mutex
		watchers map[int64]*watcher
		nextID   int64
		closed   bool

		queue    queue
		barrier  uint64 // entries up to this number take no more events
		live     int    // cost of queued live entries
		history  int    // cost of queued history entries
		controls int    // queued control entries

		behind  int        // watchers that aren't synced
		fallen  []*watcher // behind, not yet taken over by the puller
		dropped []*watcher // canceled while behind

		compacted []int64 // the last ids canceled by compaction, at most maxCompacted

		waiting bool // the puller waits on wake
	}

	// Owned by the goroutine that calls Next.
	lagging  []*watcher // watchers behind
	catching group      // the same by key
	touched  []*watcher // scratch of a history batch
	event    mvcc.Event // likewise
	encoder  encoder    // likewise
}

// maxControls is how many created, canceled and progress responses may wait
// before Admit holds the client's next request back.
const maxControls = 256

// maxCompacted is how many ids canceled by compaction a stream remembers.
const maxCompacted = 256

// chunk is how many watchers are handled under one hold of Hub.mu when there
// may be very many, so that the applier gets its turn.
const chunk = 512

// NewStream opens a stream. On a closed hub it is closed from the start.
func (h *Hub) NewStream() *Stream {
	s := &Stream{hub: h, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	s.mu.watchers = make(map[int64]*watcher)
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.closed = h.mu.closed
	if !s.mu.closed {
		s.slot = len(h.mu.streams)
		h.mu.streams = append(h.mu.streams, s)
	}
	return s
}

// Watch registers a watcher. The stream answers with a Created response, which
// is also Canceled and carries Err if the request is refused.
func (s *Stream) Watch(r Request) {
	if len(r.Key) == 0 {
		r.Key = []byte{0}
	}
	fromKey := len(r.End) == 1 && r.End[0] == 0
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return
	}
	switch {
	case r.StartRev < 0:
		s.refuseLocked(ErrNegativeRevision)
		return
	case len(r.End) > 0 && !fromKey && bytes.Compare(r.Key, r.End) >= 0:
		s.refuseLocked(ErrEmptyRange)
		return
	case r.ID != 0 && s.takenLocked(r.ID):
		s.refuseLocked(ErrDuplicateID)
		return
	case h.mu.watchers >= h.maxWatchers:
		s.refuseLocked(ErrTooManyWatchers)
		return
	}
	if r.ID == 0 {
		r.ID = s.freeIDLocked()
	}
	rev := h.rev.Load()
	w := &watcher{
		stream: s, id: r.ID, keys: interval.Of(r.Key, r.End), next: r.StartRev,
		start: r.StartRev, prevKV: r.PrevKV, progress: r.Progress, fragment: r.Fragment, noPut: r.NoPut, noDelete: r.NoDelete,
	}
	s.mu.watchers[w.id] = w
	h.mu.watchers++
	s.controlLocked(nil, Response{WatchID: w.id, Rev: rev, Created: true})
	if r.StartRev == 0 || r.StartRev > rev {
		w.next = max(r.StartRev, rev+1)
		if simbug.On(simbug.FutureGetsOld) {
			w.next = rev + 1
		}
		w.synced = true
		h.mu.synced.add(w)
		return
	}
	s.fallBehindLocked(w)
}

func (s *Stream) freeIDLocked() int64 {
	for s.takenLocked(s.mu.nextID) {
		s.mu.nextID++
	}
	s.mu.nextID++
	return s.mu.nextID - 1
}

// takenLocked tells whether an id is in use. One that compaction has canceled is
// until the client cancels it too: that cancel, which may be on its way, must not
// hit another watcher.
func (s *Stream) takenLocked(id int64) bool {
	return s.mu.watchers[id] != nil || slices.Contains(s.mu.compacted, id)
}

// Refuse answers a request that never reaches the hub, in its turn: with a
// Created and Canceled response that carries err.
func (s *Stream) Refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.closed {
		s.refuseLocked(err)
	}
}

func (s *Stream) refuseLocked(err error) {
	s.controlLocked(nil, Response{WatchID: InvalidID, Rev: s.hub.Rev(), Created: true, Canceled: true, Err: err})
}

// Cancel ends a watcher: a Canceled response follows what is already queued for
// it. (Dropping that would put a hole before progress responses that are queued
// too.) An unknown id is ignored, but one that compaction canceled is confirmed
// once more: etcd's client cancels it then and notes it until told.
func (s *Stream) Cancel(id int64) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return
	}
	if w := s.mu.watchers[id]; w != nil {
		s.removeLocked(w)
	} else if i := slices.Index(s.mu.compacted, id); i >= 0 {
		s.mu.compacted = slices.Delete(s.mu.compacted, i, i+1)
	} else {
		return
	}
	s.controlLocked(nil, Response{WatchID: id, Rev: h.Rev(), Canceled: true})
}

// removeLocked forgets w. Hub.mu and the stream's mu are held.
func (s *Stream) removeLocked(w *watcher) {
	h := s.hub
	delete(s.mu.watchers, w.id)
	h.mu.watchers--
	w.gone = true
	if w.synced && simbug.On(simbug.AfterCancel) {
		return
	}
	if w.synced {
		w.synced = false
		h.mu.synced.remove(w)
		return
	}
	s.mu.behind--
	h.behind.Add(-1)
	s.mu.dropped = append(s.mu.dropped, w)
}

// RequestProgress asks where the whole stream stands. It is answered, with id
// -1, only if all the stream's watchers are synced and past their start
// revisions, and there is at least one.
func (s *Stream) RequestProgress() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	rev := h.Rev()
	if s.mu.closed || s.mu.behind > 0 && !simbug.On(simbug.ProgressAhead) || len(s.mu.watchers) == 0 {
		return
	}
	for _, w := range s.mu.watchers {
		if w.start > rev {
			return
		}
	}
	s.controlLocked(nil, Response{WatchID: InvalidID, Rev: rev})
}

// Tick queues a progress response for each watcher that asked for them, is
// synced, and was sent no events since the last Tick.
func (s *Stream) Tick() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return
	}
	rev := h.Rev()
	for _, w := range s.sortedLocked() {
		if !w.progress {
			continue
		}
		// One notification that waits says all that two would: without this a
		// client that doesn't read would be owed one more every interval.
		if !w.sent && !w.ticked && w.synced && w.start <= rev {
			w.ticked = true
			s.controlLocked(w, Response{WatchID: w.id, Rev: rev})
		}
		w.sent = false
	}
}

func (s *Stream) sortedLocked() []*watcher {
	ws := make([]*watcher, 0, len(s.mu.watchers))
	for _, w := range s.mu.watchers {
		ws = append(ws, w)
	}
	slices.SortFunc(ws, func(a, b *watcher) int { return cmp.Compare(a.id, b.id) })
	return ws
}

// controlLocked queues a response that isn't about events. Nothing that happens
// later may overtake it, nor may it overtake what happened before. w is given
// for Tick's responses.
func (s *Stream) controlLocked(w *watcher, r Response) {
	s.mu.barrier = s.mu.queue.push(entry{kind: kindControl, w: w, ctl: &r})
	s.mu.controls++
	s.wakeLocked()
}

// queueLiveLocked appends one revision's events to w's open entry, or to a new
// one if there is none or it would make too large a response.
func (s *Stream) queueLiveLocked(w *watcher, evs []*Encoded, cost int) {
	rev := evs[len(evs)-1].Rev
	if w.open > s.mu.barrier {
		if e := s.mu.queue.at(w.open); e != nil && e.cost+cost <= maxResponse {
			e.events = append(e.events, evs...)
			e.cost += cost
			e.rev = rev
			s.mu.live += cost
			return
		}
	}
	cost += entryOverhead
	w.open = s.mu.queue.push(entry{w: w, events: evs, cost: cost, rev: rev})
	s.mu.live += cost
}

// maxResponse is the cost at which a response takes no more revisions. Clients
// with grpc's default limit refuse messages past 4 MiB.
const maxResponse = 1 << 20

// fallBehindLocked hands w, which is in no group, to the puller.
func (s *Stream) fallBehindLocked(w *watcher) {
	w.synced = false
	s.mu.fallen = append(s.mu.fallen, w)
	s.mu.behind++
	s.hub.behind.Add(1)
	s.wakeLocked()
}

func (s *Stream) wakeLocked() {
	if s.mu.waiting {
		s.mu.waiting = false
		signal(s.wake)
	}
}

// signal leaves a token in a channel of capacity one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Admit waits until the stream has room for the answer to one more request.
func (s *Stream) Admit(ctx context.Context) error {
	for {
		s.mu.Lock()
		full, closed := s.mu.controls >= maxControls, s.mu.closed
		s.mu.Unlock()
		switch {
		case closed:
			return ErrClosed
		case !full:
			return nil
		}
		select {
		case <-s.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Next returns the next response, waiting for one. It returns ErrClosed once
// the stream or its hub is closed, or ctx's error. One goroutine at a time.
func (s *Stream) Next(ctx context.Context) (Response, error) {
	for {
		r, ok, err := s.poll(ctx, true)
		if ok || err != nil {
			return r, err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Response{}, ctx.Err()
		}
	}
}

// Poll is Next without the wait: ok tells whether there was a response.
func (s *Stream) Poll(ctx context.Context) (r Response, ok bool, err error) {
	return s.poll(ctx, false)
}

func (s *Stream) poll(ctx context.Context, wait bool) (Response, bool, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Response{}, false, err
		}
		s.mu.Lock()
		if s.mu.closed {
			s.mu.Unlock()
			return Response{}, false, ErrClosed
		}
		// One batch of history at a time, beside what the synced watchers are
		// owed: neither kind can keep the other waiting.
		if (s.mu.behind > 0 || len(s.mu.dropped) > 0) && s.mu.history < s.hub.catchBudget/2 {
			room := s.hub.catchBudget - s.mu.history
			s.takeOverLocked()
			s.mu.Unlock()
			if err := s.catchUp(room); err != nil {
				return Response{}, false, err
			}
			s.mu.Lock()
		}
		r, ok := s.popLocked()
		more := s.mu.behind > 0
		s.mu.waiting = wait && !ok && !more
		s.mu.Unlock()
		if ok || !more {
			return r, ok, nil
		}
	}
}

func (s *Stream) popLocked() (Response, bool) {
	if s.mu.queue.n == 0 {
		return Response{}, false
	}
	e := s.mu.queue.pop()
	switch e.kind {
	case kindControl:
		if e.w != nil {
			e.w.ticked = false
		}
		if s.mu.controls--; s.mu.controls == maxControls-1 {
			signal(s.room)
		}
		return *e.ctl, true
	case kindHistory:
		s.mu.history -= e.cost
	default:
		s.mu.live -= e.cost
	}
	s.hub.pending.Add(-int64(len(e.events)))
	e.w.sent = true
	return Response{WatchID: e.w.id, Rev: e.rev, Fragment: e.w.fragment, Events: e.events}, true
}

// Close ends the stream: Next returns ErrClosed, whatever was queued is dropped.
func (s *Stream) Close() {
	h := s.hub
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return
	}
	s.mu.closed = true
	for s.mu.queue.n > 0 {
		h.pending.Add(-int64(len(s.mu.queue.pop().events)))
	}
	watchers := s.sortedLocked()
	s.wakeLocked()
	signal(s.room)
	s.mu.Unlock()

	for part := range slices.Chunk(watchers, chunk) {
		h.mu.Lock()
		s.mu.Lock()
		for _, w := range part {
			s.removeLocked(w)
		}
		s.mu.Unlock()
		h.mu.Unlock()
	}
	h.mu.Lock()
	last := len(h.mu.streams) - 1
	moved := h.mu.streams[last]
	h.mu.streams[s.slot], moved.slot = moved, s.slot
	h.mu.streams[last] = nil
	h.mu.streams = h.mu.streams[:last]
	h.mu.Unlock()
}
