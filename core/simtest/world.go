package simtest

import (
	"container/heap"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"
	"testing/cryptotest"
	"time"
)

// Options choose what a run is like. The zero value of each field but Seed has
// a default.
type Options struct {
	Seed     uint64
	Members  int           // 1, 3 or 5; default drawn from the seed
	Duration time.Duration // virtual, default 60 s
	Clients  int           // default 5
	NoFaults bool

	// LoseSyncs reintroduces a bug: the log acknowledges writes it has not
	// synced. A run must notice.
	LoseSyncs bool
	Verbose   bool // log every member's log to stderr
}

// Stats says what a run did.
type Stats struct {
	Simulated time.Duration
	Steps     int64
	Messages  int64
	Ops       int64 // client operations, of them
	Unknown   int64 // without a known outcome
	Events    int64 // delivered to watchers
	Faults    map[string]int64
}

func (s *Stats) add(o Stats) {
	s.Simulated += o.Simulated
	s.Steps += o.Steps
	s.Messages += o.Messages
	s.Ops += o.Ops
	s.Unknown += o.Unknown
	s.Events += o.Events
	if s.Faults == nil {
		s.Faults = map[string]int64{}
	}
	for k, v := range o.Faults {
		s.Faults[k] += v
	}
}

// World is one simulated cluster with its surroundings.
type World struct {
	opts    Options
	rng     *rand.Rand
	now     time.Duration
	events  eventHeap
	seq     uint64
	members []*member
	net     network
	clients []*client
	watches []*watcher
	truth   truth
	history []*call
	leases  leaseBook
	log     *slog.Logger
	stats   Stats
	failure error
	calm    bool // faults are over
}

// Run plays one seed. The error names the first violated promise.
func Run(t *testing.T, opts Options) (Stats, error) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, opts.Seed)
	w := newWorld(opts)
	w.play()
	for _, m := range w.members {
		m.close()
	}
	w.stats.Simulated = w.now
	if w.failure == nil {
		w.failure = w.checkHistories()
	}
	return w.stats, w.failure
}

func newWorld(opts Options) *World {
	w := &World{opts: opts, rng: rand.New(rand.NewPCG(opts.Seed, 0x6d7573746572))}
	w.stats.Faults = map[string]int64{}
	if w.opts.Members == 0 {
		w.opts.Members = []int{1, 3, 3, 3, 5}[w.rng.IntN(5)]
	}
	if w.opts.Duration == 0 {
		w.opts.Duration = 60 * time.Second
	}
	if w.opts.Clients == 0 {
		w.opts.Clients = 5
	}
	w.log = slog.New(slog.DiscardHandler)
	if opts.Verbose {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	w.truth.init()
	w.leases.init()
	w.net.init(w)
	for i := range w.opts.Members {
		w.members = append(w.members, newMember(w, i))
	}
	for _, m := range w.members {
		m.start()
	}
	for i := range w.opts.Clients {
		w.clients = append(w.clients, newClient(w, i))
	}
	for i := range 3 {
		w.watches = append(w.watches, newWatcher(w, i))
	}
	return w
}

// play runs the faulty part, then a calm one in which everything must recover.
func (w *World) play() {
	if !w.opts.NoFaults {
		w.after(w.between(500*time.Millisecond, 3*time.Second), w.nextFault)
	}
	w.until(w.opts.Duration)
	w.calm = true
	w.heal()
	for _, c := range w.clients {
		c.finish()
	}
	// Long enough for elections, checkpoints and the last leases to run out.
	deadline := w.now + calmTime
	for w.failure == nil && w.now < deadline && !w.settled() {
		w.until(w.now + time.Second)
	}
	if w.failure == nil && !w.settled() {
		w.fail("not settled %v after the faults ended: %s", calmTime, w.unsettled())
	}
}

const calmTime = 60 * time.Second

// until handles events up to a point in virtual time.
func (w *World) until(end time.Duration) {
	for w.failure == nil && len(w.events) > 0 && w.events[0].at <= end {
		e := heap.Pop(&w.events).(simEvent)
		w.now = e.at
		w.stats.Steps++
		e.do()
	}
	w.now = max(w.now, end)
}

// after schedules do; equal times keep the order of scheduling.
func (w *World) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.events, simEvent{at: w.now + d, seq: w.seq, do: do})
}

// between draws a duration.
func (w *World) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)+1))
}

// chance is true with probability p.
func (w *World) chance(p float64) bool { return w.rng.Float64() < p }

func (w *World) fail(format string, args ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf("at %v: %s", w.now.Round(time.Microsecond), fmt.Sprintf(format, args...))
	}
}

type simEvent struct {
	at  time.Duration
	seq uint64
	do  func()
}

type eventHeap []simEvent

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if h[i].at != h[j].at {
		return h[i].at < h[j].at
	}
	return h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(simEvent)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = simEvent{}
	*h = old[:len(old)-1]
	return e
}
