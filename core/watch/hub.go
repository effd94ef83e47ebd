package watch

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/simbug"
)

// Errors a Stream answers with or gives as a Response's Err.
var (
	ErrClosed           = errors.New("watch stream is closed: open a new one")
	ErrNegativeRevision = errors.New("start revision is negative: use 0 for now, or a revision")
	ErrDuplicateID      = errors.New("watch id is in use on this stream: cancel it first or let the server pick one")
	ErrEmptyRange       = errors.New("watched range is empty: its end must be greater than its key")
	ErrTooManyWatchers  = errors.New("this member has as many watchers as it allows: watch ranges, or raise the limit")
)

const (
	defaultStreamBudget = 4 << 20
	minStreamBudget     = 4 << 10
	defaultMaxWatchers  = 1 << 20
)

// Config adjusts a Hub. The zero Config works.
type Config struct {
	Logger *slog.Logger // nil: discard

	// StreamBudget bounds the bytes of undelivered events one stream holds.
	// Three quarters are for events as they happen: past that the watcher reads
	// history later. The rest is what is read from history at a time. 0: 4 MiB,
	// at least 4 KiB.
	StreamBudget int

	// MaxWatchers bounds the watchers of the whole hub. 0: 1,048,576.
	MaxWatchers int
}

// Stats is a snapshot of the hub's gauges and counters.
type Stats struct {
	Streams       int64
	Watchers      int64
	Behind        int64  // watchers that read history now ("slow" in etcd's metrics)
	PendingEvents int64  // events queued, not yet pulled
	Events        uint64 // events queued ever, one per watcher
	Demotions     uint64 // times a watcher fell behind
}

// Hub fans events out. See the package comment for its invariants.
type Hub struct {
	view        func() *mvcc.View
	log         *slog.Logger
	liveBudget  int // of a stream's events from Notify
	catchBudget int // of a stream's events from history
	maxWatchers int

	rev atomic.Int64 // written under mu

	mu struct {
		sync.Mutex
		synced   group
		streams  []*Stream
		watchers int // synced and behind
		closed   bool
		touched  []*watcher // scratch of Notify
		encoder  encoder    // likewise
	}

	pending   atomic.Int64
	events    atomic.Uint64
	demotions atomic.Uint64
	behind    atomic.Int64
}

// NewHub makes the hub of a store at revision rev. view returns the store's
// newest published view, which must be at or past every revision the hub has
// been told of; it is called without locks held.
func NewHub(rev int64, view func() *mvcc.View, cfg Config) *Hub {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.StreamBudget == 0 {
		cfg.StreamBudget = defaultStreamBudget
	}
	cfg.StreamBudget = max(cfg.StreamBudget, minStreamBudget)
	if cfg.MaxWatchers == 0 {
		cfg.MaxWatchers = defaultMaxWatchers
	}
	h := &Hub{
		view:        view,
		log:         cfg.Logger,
		catchBudget: cfg.StreamBudget / 4,
		liveBudget:  cfg.StreamBudget - cfg.StreamBudget/4,
		maxWatchers: cfg.MaxWatchers,
	}
	h.rev.Store(rev)
	return h
}

// Rev is the revision up to which the hub has been notified.
func (h *Hub) Rev() int64 { return h.rev.Load() }

// Notify queues events for their watchers and raises the hub's revision to rev.
// The applier calls it after publishing the view that holds the events. They
// rise in revision, lie above the hub's revision and not above rev. It blocks on
// no stream; the events' memory isn't kept.
func (h *Hub) Notify(rev int64, events []mvcc.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := h.rev.Load()
	if rev < last || len(events) > 0 && (events[0].Rev <= last || events[len(events)-1].Rev > rev) {
		panic(fmt.Sprintf("watch: notified of revision %d (%d events) when at %d: the applier must notify once, in order", rev, len(events), last))
	}
	if h.mu.synced.size > 0 {
		h.fanOutLocked(events)
	}
	h.rev.Store(rev)
}

func (h *Hub) fanOutLocked(events []mvcc.Event) {
	touched := h.mu.touched[:0]
	for i := range events {
		ev := &events[i]
		h.mu.encoder = encoder{ev: ev}
		h.mu.synced.visit(ev.KV.Key(), func(w *watcher) {
			if w.wants(ev) && w.collect(&h.mu.encoder, h.liveBudget) {
				touched = append(touched, w)
			}
		})
	}
	h.mu.encoder = encoder{} // it refers to the store's memory
	queued := 0
	for _, w := range touched {
		queued += h.deliverLocked(w)
	}
	h.pending.Add(int64(queued))
	h.events.Add(uint64(queued))
	clear(touched)
	h.mu.touched = touched[:0]
	if cap(touched) > 1<<16 {
		h.mu.touched = nil
	}
}

// deliverLocked queues what w has collected, as many whole revisions as its
// stream has room for. If that isn't all, w falls behind.
func (h *Hub) deliverLocked(w *watcher) (queued int) {
	evs, overflow := w.take()
	s := w.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return 0 // its watchers are on their way out of the index
	}
	for len(evs) > 0 {
		n, cost := revision(evs)
		if s.mu.live+cost > h.liveBudget {
			overflow = evs[0].Rev
			if simbug.On(simbug.OverflowGap) {
				overflow++
			}
			break
		}
		s.queueLiveLocked(w, evs[:n:n], cost)
		queued += n
		evs = evs[n:]
	}
	if overflow != 0 {
		h.demoteLocked(w, overflow)
	}
	s.wakeLocked()
	return queued
}

// demoteLocked takes w out of the index; history from next on is its own
// stream's business. Hub.mu and the stream's mu are held.
func (h *Hub) demoteLocked(w *watcher, next int64) {
	h.mu.synced.remove(w)
	w.next = next
	h.demotions.Add(1)
	w.stream.fallBehindLocked(w)
}

// Reset tells the hub that the store was replaced by one at revision rev, a
// checkpoint sent by the leader, without the events in between. Watchers read
// them from history, or are canceled where it is compacted; those whose start
// still lies in the future stay as they are.
func (h *Hub) Reset(rev int64) {
	last, fallen := h.reset(rev)
	h.log.Info("watchers continue from history after a checkpoint", "from_revision", last, "to_revision", rev, "watchers", fallen)
}

func (h *Hub) reset(rev int64) (last int64, fallen int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last = h.rev.Load()
	if rev < last {
		panic(fmt.Sprintf("watch: reset to revision %d when at %d: a store never goes back", rev, last))
	}
	for _, s := range h.mu.streams {
		s.mu.Lock()
		for _, w := range s.sortedLocked() {
			if !w.synced {
				continue
			}
			next := max(w.next, last+1)
			if simbug.On(simbug.ReplayOld) {
				next = w.start
			}
			if next <= rev {
				h.demoteLocked(w, next)
				fallen++
			}
		}
		s.wakeLocked()
		s.mu.Unlock()
	}
	h.rev.Store(rev)
	return last, fallen
}

// Stats reports the hub's gauges and counters.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	streams, watchers := len(h.mu.streams), h.mu.watchers
	h.mu.Unlock()
	return Stats{
		Streams:       int64(streams),
		Watchers:      int64(watchers),
		Behind:        h.behind.Load(),
		PendingEvents: h.pending.Load(),
		Events:        h.events.Load(),
		Demotions:     h.demotions.Load(),
	}
}

// Close closes every stream, so that their Next returns ErrClosed.
func (h *Hub) Close() {
	h.mu.Lock()
	h.mu.closed = true
	streams := append([]*Stream(nil), h.mu.streams...)
	h.mu.Unlock()
	for _, s := range streams {
		s.Close()
	}
}
