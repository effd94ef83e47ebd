package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery"
)

// DefaultParallel is how many probes run at the same time unless told otherwise.
const DefaultParallel = 64

// firstWithin bounds the wait for a check's first probe.
const firstWithin = time.Second

// Errors of Runner.Report.
var (
	ErrNoCheck = errors.New("no such check")
	ErrNotTTL  = errors.New("only a ttl check can be told its status")
	ErrClosed  = errors.New("probe runner is closed")
)

// Key names a check of an instance.
type Key struct {
	Instance discovery.Ref
	Check    string
}

func (k Key) String() string { return k.Instance.String() + "/" + k.Check }

// State is how a check stands.
type State struct {
	Status discovery.Status
	// Served tells that a result was good at least once: the first pass has been.
	Served bool
	// Decided tells that Status is more than the assumption it began with: a result was good, or Fall were bad.
	Decided bool
	// Output is the last result's.
	Output string
	// Last is the last result before thresholds, StatusUnknown if there is none yet; At is when it came.
	Last discovery.Status
	At   time.Time
	// Since is when Status was entered.
	Since time.Time
}

// Config configures a Runner; the zero Config works.
type Config struct {
	Logger *slog.Logger
	// Parallel bounds the probes running at the same time.
	Parallel int
	// OnChange is called when a check's status changes, and when it gets Decided.
	OnChange func(Key, State)
	// Probe replaces the network.
	Probe func(context.Context, discovery.Check) Result
	// Random gives numbers in [0,1) for the jitter; math/rand if nil. It must be safe for concurrent use.
	Random func() float64
}

// Runner runs checks. See the package comment.
type Runner struct {
	cfg   Config
	slots chan struct{}
	ctx   context.Context //nolint:containedctx // the owner's root, ended by Close
	stop  context.CancelFunc
	setMu sync.Mutex // serializes Set and Close; taken before mu

	mu struct { // guards the fields below and each running's state
		sync.Mutex
		checks map[Key]*running
		closed bool
	}
}

// running is one check and its goroutine.
type running struct {
	key     Key
	check   discovery.Check
	cancel  context.CancelFunc
	done    chan struct{}
	reports chan Result

	tracker *Tracker
	state   State // guarded by Runner.mu
}

// Open starts a runner without checks.
func Open(ctx context.Context, cfg Config) (*Runner, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = DefaultParallel
	}
	if cfg.Probe == nil {
		cfg.Probe = new(Prober).Probe
	}
	if cfg.Random == nil {
		cfg.Random = rand.Float64
	}
	r := &Runner{cfg: cfg, slots: make(chan struct{}, cfg.Parallel)}
	r.ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	r.mu.checks = map[Key]*running{}
	return r, nil
}

// Close stops all checks and waits for them. It may be called again.
func (r *Runner) Close() error {
	r.setMu.Lock()
	defer r.setMu.Unlock()
	r.mu.Lock()
	r.mu.closed = true
	all := r.mu.checks
	r.mu.checks = map[Key]*running{}
	r.mu.Unlock()
	r.stop()
	for _, c := range all {
		<-c.done
	}
	return nil
}

// Set makes the given checks the ones that run: those that are the same go on with their state, changed ones start
// anew, others stop. Nothing changes if one is invalid. Checks are normalized first.
func (r *Runner) Set(checks map[Key]discovery.Check) error {
	want := make(map[Key]discovery.Check, len(checks))
	for k, c := range checks {
		c.ID = k.Check
		c.Normalize()
		if err := c.Validate(); err != nil {
			return fmt.Errorf("check %s: %w", k, err)
		}
		want[k] = c
	}
	r.setMu.Lock()
	defer r.setMu.Unlock()
	var stopped []*running
	r.mu.Lock()
	if r.mu.closed {
		r.mu.Unlock()
		return ErrClosed
	}
	for k, c := range r.mu.checks {
		if want[k] != c.check {
			delete(r.mu.checks, k)
			stopped = append(stopped, c)
			c.cancel()
		}
	}
	for k, c := range want {
		if r.mu.checks[k] == nil {
			r.mu.checks[k] = r.start(k, c)
		}
	}
	r.mu.Unlock()
	for _, c := range stopped {
		<-c.done
	}
	return nil
}

func (r *Runner) start(k Key, c discovery.Check) *running {
	ctx, cancel := context.WithCancel(r.ctx)
	run := &running{key: k, check: c, cancel: cancel, done: make(chan struct{}), reports: make(chan Result), tracker: NewTracker(c.Rise, c.Fall)}
	run.state = State{Status: run.tracker.Status(), Since: time.Now()}
	go func() {
		defer close(run.done)
		defer cancel()
		if c.Kind == discovery.CheckTTL {
			r.listen(ctx, run)
		} else {
			r.poll(ctx, run)
		}
	}()
	return run
}

// poll probes at the check's interval.
func (r *Runner) poll(ctx context.Context, run *running) {
	c := run.check
	// First soon, so that a service gets registered soon; then at a random phase of the interval.
	wait := time.Duration(r.cfg.Random() * float64(min(c.Interval, firstWithin)))
	phase := time.Duration(r.cfg.Random() * float64(c.Interval))
	next := time.Now().Add(wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		select {
		case <-ctx.Done():
			return
		case r.slots <- struct{}{}:
		}
		pctx, cancel := context.WithTimeout(ctx, c.Timeout)
		res := r.cfg.Probe(pctx, c)
		cancel()
		<-r.slots
		if ctx.Err() != nil {
			return // stopped meanwhile: what failed is the stop, not the service
		}
		r.observe(run, res)
		if phase > 0 {
			next, phase = next.Add(phase), 0
		} else {
			next = next.Add(c.Interval)
		}
		if now := time.Now(); next.Before(now) { // held up: don't catch up
			next = now
		}
		timer.Reset(time.Until(next))
	}
}

// listen waits to be told, and turns critical when it isn't.
func (r *Runner) listen(ctx context.Context, run *running) {
	timer := time.NewTimer(run.check.TTL)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case res := <-run.reports:
			r.observe(run, res)
			timer.Reset(run.check.TTL)
		case <-timer.C:
			r.observe(run, Result{Status: discovery.StatusCritical, Output: fmt.Sprintf("nothing reported for %v", run.check.TTL)})
			timer.Reset(run.check.TTL)
		}
	}
}

func (r *Runner) observe(run *running, res Result) {
	res.Output = Clip(res.Output, MaxOutput)
	changed := run.tracker.Observe(res.Status)
	now := time.Now()
	r.mu.Lock()
	s := &run.state
	s.Last, s.At, s.Output, s.Served = res.Status, now, res.Output, run.tracker.Served()
	decided := !s.Decided && (s.Served || run.tracker.Failing())
	s.Decided = s.Decided || decided
	if changed {
		s.Status, s.Since = run.tracker.Status(), now
	}
	state := *s
	r.mu.Unlock()
	if changed {
		r.cfg.Logger.Info("check changed", "check", run.key.String(), "status", state.Status.String(), "output", Clip(state.Output, discovery.MaxReason))
	}
	if r.cfg.OnChange != nil && (changed || decided) {
		r.cfg.OnChange(run.key, state)
	}
}

// Report tells a ttl check its status.
func (r *Runner) Report(k Key, s discovery.Status, output string) error {
	switch s {
	case discovery.StatusPassing, discovery.StatusWarning, discovery.StatusCritical:
	default:
		return fmt.Errorf("check %s: %w: status %v: report passing, warning or critical", k, discovery.ErrInvalid, s)
	}
	r.mu.Lock()
	run := r.mu.checks[k]
	r.mu.Unlock()
	if run == nil {
		return fmt.Errorf("check %s: %w", k, ErrNoCheck)
	}
	if run.check.Kind != discovery.CheckTTL {
		return fmt.Errorf("check %s is a %s check: %w", k, run.check.Kind, ErrNotTTL)
	}
	select {
	case run.reports <- Result{Status: s, Output: output}:
		return nil
	case <-run.done:
		return fmt.Errorf("check %s: %w", k, ErrNoCheck)
	}
}

// State returns how a check stands, and false if it isn't run.
func (r *Runner) State(k Key) (State, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run := r.mu.checks[k]
	if run == nil {
		return State{}, false
	}
	return run.state, true
}

// States returns how all checks stand.
func (r *Runner) States() map[Key]State {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[Key]State, len(r.mu.checks))
	for k, run := range r.mu.checks {
		out[k] = run.state
	}
	return out
}
