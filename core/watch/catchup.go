package watch

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/simbug"
)

// maxScan is how many events of history one batch looks at, wanted or not. It
// bounds how long a view is held and how long a cancel goes unnoticed.
const maxScan = 4096

// takeOverLocked makes the puller the owner of the watchers that fell behind,
// and lets go of those that were canceled.
func (s *Stream) takeOverLocked() {
	for _, w := range s.mu.fallen {
		if !w.gone {
			s.catching.add(w)
			s.lagging = append(s.lagging, w)
		}
	}
	clear(s.mu.fallen)
	s.mu.fallen = s.mu.fallen[:0]
	if len(s.mu.dropped) == 0 {
		return
	}
	for _, w := range s.mu.dropped {
		if w.home != nil {
			s.catching.remove(w)
		}
	}
	s.lagging = slices.DeleteFunc(s.lagging, func(w *watcher) bool { return w.gone })
	s.mu.dropped = nil
}

// catchUp reads one batch of history for the watchers behind, room bytes or one
// revision, and lets them join the index if that brought them up to the hub. The
// package comment says why no event is lost or repeated on the way. One scan
// serves them all and begins with the oldest: the others come in on the way.
func (s *Stream) catchUp(room int) error {
	if len(s.lagging) == 0 {
		return nil
	}
	target := s.hub.Rev() // before the view: see the hand-over
	view := s.hub.view()
	if view.Rev() < target {
		panic(fmt.Sprintf("watch: the view is at revision %d, the hub at %d: publish before Notify or Reset", view.Rev(), target))
	}
	compacted := view.CompactRev()
	if simbug.On(simbug.CancelEarly) {
		compacted += 3
	}
	s.cancelCompacted(compacted)
	from := int64(math.MaxInt64)
	for _, w := range s.lagging {
		from = min(from, w.next)
	}
	to := target
	if from <= target { // else all were canceled, or fell behind just now
		if simbug.On(simbug.CatchUpGap) {
			from++
		}
		var err error
		if to, err = s.readHistory(view, from, target, room); err != nil {
			return fmt.Errorf("watch: history of revisions %d to %d: %w", from, target, err)
		}
		s.queueHistory(to)
		for _, w := range s.lagging {
			w.next = max(w.next, to+1)
		}
	}
	if to == target || simbug.On(simbug.JoinGap) {
		s.join(target)
	}
	return nil
}

// cancelCompacted cancels the watchers whose next event may be gone.
func (s *Stream) cancelCompacted(compactRev int64) {
	if !slices.ContainsFunc(s.lagging, func(w *watcher) bool { return w.next < compactRev }) {
		return
	}
	canceled := 0
	s.hub.mu.Lock()
	s.mu.Lock()
	slices.SortFunc(s.lagging, func(a, b *watcher) int { return cmp.Compare(a.id, b.id) })
	for _, w := range s.lagging {
		if w.next >= compactRev || w.gone || s.mu.closed {
			continue
		}
		canceled++
		s.removeLocked(w)
		s.controlLocked(nil, Response{WatchID: w.id, CompactRev: compactRev, Canceled: true})
		if len(s.mu.compacted) == maxCompacted {
			s.mu.compacted = slices.Delete(s.mu.compacted, 0, 1)
		}
		s.mu.compacted = append(s.mu.compacted, w.id)
	}
	s.takeOverLocked()
	s.mu.Unlock()
	s.hub.mu.Unlock()
	s.hub.log.Debug("watchers canceled: their history is compacted", "compact_revision", compactRev, "watchers", canceled)
}

// readHistory collects events from revision from on and returns the revision up
// to which it got, target at most. It stops between revisions.
func (s *Stream) readHistory(view *mvcc.View, from, target int64, room int) (to int64, err error) {
	scanned, cost, rev := 0, 0, from
	to = target
	err = view.Events(from, target, func(ev mvcc.Event) bool {
		if ev.Rev != rev {
			if scanned >= maxScan || cost >= room {
				to = ev.Rev - 1
				return false
			}
			rev = ev.Rev
		}
		scanned++
		s.event = ev
		s.encoder = encoder{ev: &s.event}
		s.catching.visit(ev.KV.Key(), func(w *watcher) {
			if !w.wants(&s.event) {
				return
			}
			before := w.cost
			if w.collect(&s.encoder, math.MaxInt) {
				s.touched = append(s.touched, w)
			}
			cost += w.cost - before
		})
		return true
	})
	s.event, s.encoder = mvcc.Event{}, encoder{} // they refer to the view's memory
	return to, err
}

// queueHistory queues what was collected. The last response of each watcher
// says that it has been served up to revision to.
func (s *Stream) queueHistory(to int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	queued := 0
	for _, w := range s.touched {
		evs, _ := w.take()
		if w.gone || s.mu.closed {
			continue
		}
		queued += len(evs)
		w.open = 0 // what waits before these events mustn't take later ones
		for len(evs) > 0 {
			e := entry{w: w, kind: kindHistory, rev: to, cost: entryOverhead}
			n := 0
			for n < len(evs) {
				m, cost := revision(evs[n:])
				if n > 0 && e.cost+cost > maxResponse {
					e.rev = evs[n-1].Rev
					break
				}
				n, e.cost = n+m, e.cost+cost
			}
			e.events, evs = evs[:n:n], evs[n:]
			s.mu.queue.push(e)
			s.mu.history += e.cost
		}
	}
	clear(s.touched)
	s.touched = s.touched[:0]
	s.hub.pending.Add(int64(queued))
	s.hub.events.Add(uint64(queued))
}

// join moves the watchers behind, all of them served up to revision target, into
// the index, as long as the hub is still there.
func (s *Stream) join(target int64) {
	h := s.hub
	for len(s.lagging) > 0 {
		part := s.lagging[:min(chunk, len(s.lagging))]
		h.mu.Lock()
		if h.Rev() != target && !simbug.On(simbug.JoinGap) {
			h.mu.Unlock()
			return
		}
		s.mu.Lock()
		for _, w := range part {
			s.catching.remove(w)
			if w.gone || s.mu.closed {
				continue
			}
			w.synced = true
			h.mu.synced.add(w)
			s.mu.behind--
			h.behind.Add(-1)
		}
		s.mu.Unlock()
		h.mu.Unlock()
		clear(part)
		s.lagging = s.lagging[len(part):]
	}
	s.lagging = nil
}
