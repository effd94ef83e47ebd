package simtest

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"math/bits"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Options choose what a run is like. The zero value of each field but Seed has
// a default, most of them drawn from the seed. Equal options give equal runs.
type Options struct {
	Seed     uint64
	Members  int           // 1, 3 or 5
	Duration time.Duration // virtual, default 60 s
	Clients  int           // default 5
	Watchers int           // default 3
	NoFaults bool
	Without  []string // kinds of fault to leave out
	Faults   []int    // only these of the faults there would be, by their numbers; nil: all

	// LoseSyncs reintroduces a bug: the log acknowledges writes it has not
	// synced. A run must notice.
	LoseSyncs bool
	Verbose   bool // log every member's log to stderr

	// script replaces the random faults by a plan.
	script func(*World)
	think  time.Duration // see shape
	shape  *shape
	// leasesOnly has clients do little but grant and renew.
	leasesOnly bool
	// kinds of fault to draw from, if not from all.
	kinds []string
	trace bool // see Stats.Trace
}

// shape is the part of a cluster's configuration that differs from seed to
// seed, so that some runs cut segments, send checkpoints and drift more than others,
// and are under more load.
type shape struct {
	think        time.Duration // the longest pause of a client between two operations
	segmentBytes int64
	keepBytes    int
	checkpoints  float64 // chance of one after an apply
	drift        float64 // clock rates lie within 1 ± drift
	streamBudget int
	leaseTTL     int64 // the longest, seconds
	learners     int64 // at most
	churn        bool  // the members change all the time
	lax          bool  // changes of the members are not held against etcd's strict rules
}

func (w *World) drawShape() shape {
	return shape{
		think:        []time.Duration{200, 400, 400, 800, 800, 800, 800, 800, 800, 800, 800, 800}[w.rng.IntN(12)] * time.Millisecond, // see DESIGN.md, "Hours"
		segmentBytes: []int64{4 << 10, 16 << 10, 64 << 10}[w.rng.IntN(3)],
		keepBytes:    []int{1, 1 << 10, 8 << 10}[w.rng.IntN(3)],
		checkpoints:  []float64{0.001, 0.003, 0.03}[w.rng.IntN(3)],
		drift:        []float64{0.001, 0.02, 0.15}[w.rng.IntN(3)],
		streamBudget: []int{4 << 10, 16 << 10}[w.rng.IntN(2)],
		leaseTTL:     7,
		learners:     1 + w.rng.Int64N(2),
		lax:          w.chance(0.2),
		churn:        w.chance(0.25),
	}
}

// Stats says what a run did.
type Stats struct {
	Simulated time.Duration
	Steps     int64
	Messages  int64
	Ops       int64            // client operations, of them
	Unknown   int64            // without a known outcome
	Events    int64            // delivered to watchers
	Reads     int64            // of them held to the committed history
	Replayed  int64            // log entries held to the specification
	States    int64            // whole states held to the specification's
	Histories int64            // of single keys, held to linearizability
	Faults    map[string]int64 // inflicted, by kind
	Seen      map[string]int64 // other things worth telling that happened
	Trace     uint64           // hash over all that happened, if the options ask for it
}

func (s *Stats) add(o Stats) {
	s.Simulated += o.Simulated
	s.Steps += o.Steps
	s.Messages += o.Messages
	s.Ops += o.Ops
	s.Unknown += o.Unknown
	s.Events += o.Events
	s.Reads += o.Reads
	s.Replayed += o.Replayed
	s.States += o.States
	s.Histories += o.Histories
	s.Faults, s.Seen = sums(s.Faults, o.Faults), sums(s.Seen, o.Seen)
}

func sums(a, b map[string]int64) map[string]int64 {
	all := map[string]int64{}
	maps.Copy(all, a)
	for k, n := range b {
		all[k] += n
	}
	return all
}

// World is one simulated cluster with its surroundings.
type World struct {
	opts      Options
	shape     shape
	rng       *rand.Rand
	now       time.Duration
	agenda    agenda
	members   []*member
	net       network
	urls      int // given out to hosts that were added
	operator  operator
	frames    frames
	kinds     []faultKind // what drawFault draws from
	changes   []faultKind // of the members alone
	clients   []*client
	watches   []*watcher
	faults    int // that were drawn
	inflicted []inflicted
	truth     truth
	history   []*call
	leases    leaseBook
	log       *slog.Logger
	stats     Stats
	trace     uint64
	acked     int64 // highest revision that a client was told of
	shown     int64 // highest one that a linearizable read showed
	failure   error
	calm      bool // faults are over

	mode      *crashMode    // a plan's: how every crash is
	onMember  func(*member) // before it is started for the first time
	transfer  time.Duration // how long it takes to send a checkpoint, if not random
	noBreaks  bool          // no such transfer breaks off
	onInstall func(*member) // a plan's: a checkpoint is on disk, raft has not heard of it
}

// Run plays one seed. The error names the first violated promise.
func Run(t *testing.T, opts Options) (Stats, error) {
	t.Helper()
	w := newWorld(t, opts)
	w.guard(w.init)
	w.guard(w.play)
	return w.finished()
}

func newWorld(t *testing.T, opts Options) *World {
	cryptotest.SetGlobalRandom(t, opts.Seed)
	return &World{opts: opts, rng: rand.New(rand.NewPCG(opts.Seed, 0x6d7573746572))}
}

// finished ends a run and judges it.
func (w *World) finished() (Stats, error) {
	for _, m := range w.members {
		m.close()
	}
	w.stats.Simulated = w.now
	w.stats.Trace = w.trace
	if w.failure == nil {
		w.failure = w.checkHistories()
	}
	return w.stats, w.failure
}

// guard makes a panic of the members' code a failure of the run.
func (w *World) guard(f func()) {
	defer func() {
		if r := recover(); r != nil {
			w.fail("panic: %v\n%s", r, debug.Stack())
		}
	}()
	f()
}

func (w *World) init() {
	w.stats.Faults, w.stats.Seen = map[string]int64{}, map[string]int64{}
	if w.opts.Members == 0 {
		w.opts.Members = []int{1, 3, 3, 3, 5}[w.rng.IntN(5)]
	}
	if w.opts.Duration == 0 {
		w.opts.Duration = 60 * time.Second
	}
	if w.opts.Clients == 0 {
		w.opts.Clients = 5
	}
	if w.opts.Watchers == 0 {
		w.opts.Watchers = 3
	}
	w.shape = w.drawShape()
	if w.opts.shape != nil {
		w.shape = *w.opts.shape
	}
	w.shape.think = cmp.Or(w.opts.think, w.shape.think)
	w.log = slog.New(slog.DiscardHandler)
	if w.opts.Verbose {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	w.truth.init()
	w.leases.init()
	w.net.init(w)
	w.operator.init(w)
	w.found()
	for _, m := range w.members {
		if w.onMember != nil {
			w.onMember(m)
		}
		m.start()
	}
	for i := range w.opts.Clients {
		w.clients = append(w.clients, newClient(w, i))
	}
	for i := range w.opts.Watchers {
		w.watches = append(w.watches, newWatcher(w, i))
	}
}

// play runs the faulty part, then a calm one in which everything must recover.
func (w *World) play() {
	switch {
	case w.opts.script != nil:
		w.opts.script(w)
	case !w.opts.NoFaults:
		w.after(w.between(500*time.Millisecond, 3*time.Second), w.nextFault)
	}
	w.until(w.opts.Duration)
	w.calm = true
	w.heal()
	for _, c := range w.clients {
		c.finish()
	}
	w.operator.tidy()
	// Long enough for elections, checkpoints and the last leases to run out.
	deadline, led := w.now+calmTime, w.now
	for w.failure == nil && w.now < deadline && !w.settled() {
		w.until(w.now + time.Second)
		if w.leader() == nil {
			led = w.now
		}
		w.leases.check(w, led)
	}
	w.operator.judge()
	if w.failure == nil && !w.settled() {
		w.fail("not settled %v after the faults ended: %s", calmTime, w.unsettled())
	}
}

const (
	calmTime = 60 * time.Second
	maxSteps = 250_000 // ten times what the busiest run takes
)

// until handles events up to a point in virtual time.
func (w *World) until(end time.Duration) {
	for w.failure == nil {
		e, ok := w.agenda.next(end)
		if !ok {
			break
		}
		w.now = e.at
		if w.stats.Steps++; w.stats.Steps > maxSteps {
			w.fail("more than %d steps: the members keep each other busy", maxSteps)
			return
		}
		e.do()
	}
	w.now = max(w.now, end)
}

// after schedules do; equal times keep the order of scheduling.
func (w *World) after(d time.Duration, do func()) { w.agenda.add(w.now+d, do) }

// note takes something that happened into the trace, by which two runs are compared.
func (w *World) note(kind byte, slot int, bytes []byte) {
	if !w.opts.trace {
		return
	}
	w.trace = mix(mix(mix(w.trace, uint64(kind)<<8|uint64(slot)), uint64(w.now)), xxhash.Sum64(bytes))
}

// mix is a bijection of either argument for a given other one.
func mix(h, x uint64) uint64 {
	const odd, odder = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F
	return bits.RotateLeft64(h+x*odder, 31) * odd
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
