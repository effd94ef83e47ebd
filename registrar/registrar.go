package registrar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/probe"
)

// Options are what a Registrar needs besides its Config. Store is needed.
type Options struct {
	Store  Store
	Logger *slog.Logger
	// Probe replaces the network of the checks.
	Probe func(context.Context, discovery.Check) probe.Result
	// Random gives numbers in [0,1) for jitter; math/rand if nil. It must be safe for concurrent use.
	Random func() float64
	// Parallel bounds the probes running at once; 64 if 0.
	Parallel int
}

// ErrClosed is returned by methods of a Registrar that was closed.
var ErrClosed = errors.New("registrar is closed")

// ErrRestart: a reload changed something that only a restart can.
var ErrRestart = errors.New("can't be changed by a reload: restart the registrar")

// Registrar keeps instances registered. See the package comment.
type Registrar struct {
	store  Store
	logger *slog.Logger
	runner *probe.Runner
	file   *leaseFile
	agent  *agent
	wake   chan struct{}
	cancel context.CancelFunc
	ended  chan struct{} // closed when the agent's goroutine has ended

	// These belong to the agent's goroutine: where addresses come from, and which were found out when.
	resolver   *resolver
	resolved   map[string]string
	resolvedAt time.Time

	closing sync.Mutex // serializes Close and Abandon; taken before mu

	mu struct { // guards what the agent's goroutine and the methods share
		sync.Mutex
		cfg      Config
		defs     map[discovery.Ref]definition
		draining bool
		closed   bool
		drained  chan struct{} // closed when the draining state is stored
		status   Status
	}
}

// Status tells how a registrar stands.
type Status struct {
	// Lease is 0 if none is held.
	Lease int64 `json:"lease"`
	// Registered are the instances stored under the lease, Pending those waiting for their first pass, Blocked those in
	// another registrar's hands; each as ns/svc/id, sorted.
	Registered []string `json:"registered"`
	Pending    []string `json:"pending"`
	Blocked    []string `json:"blocked"`
	Draining   bool     `json:"draining"`
	// Ready tells that all instances are registered and pass or warn.
	Ready bool `json:"ready"`
	// Error is what the store said last, empty if all is well.
	Error string `json:"error,omitempty"`
}

// Open starts registering. It fails only for what trying again can't help: a bad configuration, an unusable lease file.
// ctx bounds nothing after Open has returned.
func Open(ctx context.Context, cfg Config, opts Options) (*Registrar, error) {
	if opts.Store == nil {
		return nil, fmt.Errorf("%w: Options.Store is needed", ErrConfig)
	}
	if err := cfg.Normalize(); err != nil {
		return nil, err
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Random == nil {
		opts.Random = rand.Float64
	}
	file, mem, err := openLeaseFile(cfg.Lease.File, cfg.Node.Name)
	if err != nil {
		return nil, err
	}
	r := &Registrar{store: opts.Store, logger: opts.Logger, file: file, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	r.mu.cfg = cfg
	r.resolver = newResolver(cfg.Store.Endpoints)
	r.agent = &agent{
		store: opts.Store, file: file, logger: opts.Logger, random: opts.Random, ttl: cfg.Lease.TTL, owner: cfg.Node.Name,
		// Later incarnations have greater epochs, also if the file was lost.
		epoch:  max(mem.Epoch+1, uint64(max(0, time.Now().UnixMilli()))),
		stored: map[discovery.Ref]held{}, blocked: map[discovery.Ref]bool{}, adopted: map[discovery.Ref]bool{}, tallies: map[discovery.Ref]*tally{},
	}
	r.agent.remember(mem)
	r.runner, err = probe.Open(ctx, probe.Config{
		Logger: opts.Logger, Parallel: opts.Parallel, Probe: opts.Probe, Random: opts.Random,
		OnChange: func(probe.Key, probe.State) { r.poke() },
	})
	if err != nil {
		file.close()
		return nil, err
	}
	actx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.cancel = cancel
	go r.run(actx)
	return r, nil
}

// poke wakes the agent.
func (r *Registrar) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run is the agent's goroutine.
func (r *Registrar) run(ctx context.Context) {
	defer close(r.ended)
	for ctx.Err() == nil {
		// The checks run whether or not the store is there.
		defs, draining, rerr := r.define() //nolint:contextcheck // checks end with the Registrar, not with this round
		next, done := r.agent.step(ctx, func() map[discovery.Ref]wish {
			return desire(defs, r.runner.States(), r.agent.adopted, r.agent.tallies, draining, r.agent.epoch, time.Now())
		}, time.Now)
		if rerr != nil { // an address that isn't there yet
			next = minTime(next, time.Now().Add(time.Second))
		}
		r.publish(draining && done, rerr)
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// addressAge is how long an address that was found out is taken for granted.
const addressAge = 30 * time.Second

// define brings definitions and checks up to date: the address of an interface may come late and may change. Where it
// can't be found out, what was defined before stays, and what wasn't waits.
func (r *Registrar) define() (defs map[discovery.Ref]definition, draining bool, err error) {
	r.mu.Lock()
	cfg, old := r.mu.cfg, r.mu.defs
	r.mu.Unlock()
	if time.Since(r.resolvedAt) > addressAge {
		r.resolvedAt, r.resolved = time.Now(), map[string]string{}
	}
	defs, err = cfg.definitions(func(spec string) (string, error) {
		if addr, ok := r.resolved[spec]; ok {
			return addr, nil
		}
		addr, err := r.resolver.resolve(spec)
		if err == nil {
			r.resolved[spec] = addr
		}
		return addr, err
	})
	if err != nil {
		var verr error
		if defs, verr = cfg.definitions(anyAddress); verr != nil {
			return old, false, verr // validated, so this can't be
		}
		for ref, d := range defs {
			if o, ok := old[ref]; ok {
				defs[ref] = o
				continue
			}
			d.unresolved, d.checks = true, nil
			defs[ref] = d
		}
	}
	if serr := r.runner.Set(checksOf(defs)); serr != nil {
		return old, false, serr
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.defs = defs
	return defs, r.mu.draining, err
}

func checksOf(defs map[discovery.Ref]definition) map[probe.Key]discovery.Check {
	out := map[probe.Key]discovery.Check{}
	for ref, d := range defs {
		for id, c := range d.checks {
			out[probe.Key{Instance: ref, Check: id}] = c
		}
	}
	return out
}

// publish makes the agent's state visible, and tells Drain.
func (r *Registrar) publish(drained bool, rerr error) {
	a := r.agent
	s := Status{Lease: a.lease, Registered: names(a.stored), Blocked: names(a.blocked), Error: errorText(errors.Join(rerr, a.lastErr))}
	r.mu.Lock()
	defer r.mu.Unlock()
	ready := len(s.Blocked) == 0 && s.Error == "" && r.mu.defs != nil
	for ref, d := range r.mu.defs {
		h, ok := a.stored[ref]
		if !ok && !a.blocked[ref] {
			s.Pending = append(s.Pending, ref.String())
		}
		ready = ready && ok && (len(d.checks) == 0 || h.health != nil && h.health.Status.Serving())
	}
	slices.Sort(s.Pending)
	s.Draining = r.mu.draining
	s.Ready = ready && !s.Draining
	r.mu.status = s
	if drained && r.mu.drained != nil {
		close(r.mu.drained)
		r.mu.drained = nil
	}
}

func names[V any](m map[discovery.Ref]V) []string {
	out := make([]string, 0, len(m))
	for ref := range m {
		out = append(out, ref.String())
	}
	slices.Sort(out)
	return out
}

// Status returns how the registrar stands.
func (r *Registrar) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.status
}

// Checks returns how the checks stand.
func (r *Registrar) Checks() map[probe.Key]probe.State { return r.runner.States() }

// Report tells a ttl check its status.
func (r *Registrar) Report(k probe.Key, s discovery.Status, output string) error {
	return r.runner.Report(k, s, output)
}

// Config returns the configuration in force.
func (r *Registrar) Config() Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.cfg
}

// Reload replaces the configuration. All of it is validated first; on an error nothing has changed. The lease stays,
// and with it everything that is the same. Store, node name, lease and API can't be changed without a restart.
func (r *Registrar) Reload(cfg Config) error {
	if err := cfg.Normalize(); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.closed {
		return ErrClosed
	}
	old := r.mu.cfg
	for _, f := range []struct {
		name string
		same bool
	}{
		{"store.endpoints", slices.Equal(old.Store.Endpoints, cfg.Store.Endpoints)},
		{"store.tls", old.Store.TLS == cfg.Store.TLS},
		{"store.user", old.Store.User == cfg.Store.User && old.Store.PasswordFile == cfg.Store.PasswordFile},
		{"node.name", old.Node.Name == cfg.Node.Name},
		{"lease", old.Lease == cfg.Lease},
		{"api", old.API == cfg.API},
	} {
		if !f.same {
			return fmt.Errorf("%w: %s %w", ErrConfig, f.name, ErrRestart)
		}
	}
	r.mu.cfg = cfg
	r.poke()
	return nil
}

// Drain takes the instances out of traffic: they are stored as DRAINING, so that DNS and watchers leave them out, and
// Drain returns after the configured delay from then. It waits no longer than drain.timeout for the store. If ctx ends
// it returns at once; the instances stay draining.
func (r *Registrar) Drain(ctx context.Context) error {
	r.mu.Lock()
	if r.mu.closed {
		r.mu.Unlock()
		return ErrClosed
	}
	delay, timeout := *r.mu.cfg.Drain.Delay, r.mu.cfg.Drain.Timeout
	if r.mu.drained == nil {
		r.mu.drained = make(chan struct{})
	}
	r.mu.draining = true
	drained := r.mu.drained
	r.mu.Unlock()
	r.poke()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
		return fmt.Errorf("draining was not stored within %v: %w", timeout, context.DeadlineExceeded)
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ended:
		return ErrClosed
	}
	if len(r.Status().Registered) == 0 {
		return nil // nobody was sent here
	}
	timer.Reset(delay)
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close deregisters, ends the lease and stops. ctx bounds what is asked of the store; if that fails, the error says so
// and the lease ends the registrations by itself. It may be called again.
func (r *Registrar) Close(ctx context.Context) error {
	if !r.halt() {
		return nil
	}
	err := r.agent.leave(ctx)
	r.file.close()
	return err
}

// Abandon stops without a word to the store: the registrations stay until the lease ends, or a registrar with the same
// lease file adopts it.
func (r *Registrar) Abandon() {
	if r.halt() {
		r.file.close()
	}
}

// halt stops the goroutines and reports whether this call did.
func (r *Registrar) halt() bool {
	r.closing.Lock()
	defer r.closing.Unlock()
	r.mu.Lock()
	first := !r.mu.closed
	r.mu.closed = true
	r.mu.Unlock()
	if !first {
		return false
	}
	r.cancel()
	<-r.ended
	_ = r.runner.Close()
	return true
}

func hex(id int64) string { return strconv.FormatInt(id, 16) }
