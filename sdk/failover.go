package sdk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// headStart is how long a connecting member is waited for before the next one is dialed too.
	headStart = 250 * time.Millisecond
	// grudge is how long a member that failed a call is passed over while others serve.
	grudge = 3 * time.Second
)

// failover chooses a member for each call. It is the grpc.ClientConnInterface behind Client.
//
// Locks: mu guards what is grouped with it and is never held across a call.
type failover struct {
	cfg  Config
	log  *slog.Logger
	root context.Context // parent of the members' watching goroutines; never ends by itself
	auth authenticator

	mu struct {
		sync.Mutex
		members []*member
		side    map[string]*member // asked for by ConnTo only
		current int                // preferred member
		changed chan struct{}      // closed and replaced when any connection changes state
		closed  bool
	}
}

func newFailover(root context.Context, cfg Config, log *slog.Logger) (*failover, error) {
	f := &failover{cfg: cfg, log: log, root: root}
	f.auth.slot = make(chan struct{}, 1)
	f.mu.changed = make(chan struct{})
	f.mu.side = make(map[string]*member)
	if err := f.setEndpoints(cfg.Endpoints); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *failover) signal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.mu.changed)
	f.mu.changed = make(chan struct{})
}

func (f *failover) close() error {
	f.mu.Lock()
	f.mu.closed = true
	all := f.mu.members
	for _, m := range f.mu.side {
		all = append(all, m)
	}
	f.mu.members, f.mu.side = nil, nil
	f.mu.Unlock()
	f.signal()
	var errs []error
	for _, m := range all {
		errs = append(errs, m.close())
	}
	return errors.Join(errs...)
}

func (f *failover) endpoints() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]string, 0, len(f.mu.members))
	for _, m := range f.mu.members {
		out = append(out, m.name)
	}
	return out
}

// setEndpoints starts from a random one, so that many clients with one configuration spread over the members.
func (f *failover) setEndpoints(names []string) error {
	if len(names) == 0 {
		return ErrNoEndpoints
	}
	parsed := make([]endpoint, 0, len(names))
	for _, n := range names {
		e, err := parseEndpoint(n, f.cfg.TLS != nil)
		if err != nil {
			return err
		}
		if !slices.Contains(parsed, e) {
			parsed = append(parsed, e)
		}
	}
	gone, err := f.swap(parsed)
	f.signal()
	for _, m := range gone {
		err = errors.Join(err, m.close())
	}
	return err
}

// swap installs the members and returns those to close.
func (f *failover) swap(parsed []endpoint) (gone []*member, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.closed {
		return nil, ErrClosed
	}
	gone = f.mu.members
	var fresh []*member // closed again if a later one can't be made
	next := make([]*member, 0, len(parsed))
	for _, e := range parsed {
		if i := slices.IndexFunc(gone, func(m *member) bool { return m.endpoint == e }); i >= 0 {
			next = append(next, gone[i])
			gone = slices.Delete(slices.Clone(gone), i, i+1)
			continue
		}
		m, err := newMember(f.root, e, f.cfg, f.log, f.signal)
		if err != nil {
			return fresh, err
		}
		next, fresh = append(next, m), append(fresh, m)
	}
	f.mu.members = next
	f.mu.current = rand.IntN(len(next))
	return gone, nil
}

// memberFor finds or makes the member of one endpoint.
func (f *failover) memberFor(name string) (*member, error) {
	e, err := parseEndpoint(name, f.cfg.TLS != nil)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.closed {
		return nil, ErrClosed
	}
	for _, m := range f.mu.members {
		if m.endpoint == e {
			return m, nil
		}
	}
	if m := f.mu.side[name]; m != nil {
		return m, nil
	}
	m, err := newMember(f.root, e, f.cfg, f.log, f.signal)
	if err == nil {
		f.mu.side[name] = m
	}
	return m, err
}

// demote passes the member over for a while, since it failed a call.
func (f *failover) demote(m *member, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.avoid = time.Now().Add(grudge)
	if len(f.mu.members) > 1 && f.mu.members[f.mu.current] == m {
		f.mu.current = (f.mu.current + 1) % len(f.mu.members)
		f.log.Debug("sdk: preferring another member", "left", m.name, "for", f.mu.members[f.mu.current].name, "because", why)
	}
}

// pick waits for a member to send to: the preferred one if it is connected, else the first to be. If all connections
// fail it gives one of them, so that the call fails with the connection's own error.
func (f *failover) pick(ctx context.Context) (*member, error) {
	start := time.Now()
	for {
		m, changed, err := f.choose(time.Since(start))
		if m != nil || err != nil {
			return m, err
		}
		if err := wait(ctx, headStart, changed); err != nil {
			return nil, err
		}
	}
}

// choose decides for pick; it returns the channel to wait on if the decision has to wait.
func (f *failover) choose(waited time.Duration) (*member, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.closed {
		return nil, nil, ErrClosed
	}
	now, n := time.Now(), len(f.mu.members)
	var second, failing *member
	pending := false
	for i := range n {
		at := (f.mu.current + i) % n
		m := f.mu.members[at]
		switch {
		case m.ready() && !now.Before(m.avoid):
			f.mu.current = at
			return m, nil, nil
		case m.ready():
			if second == nil {
				second = m
			}
		case m.pending(!pending || waited >= time.Duration(i)*headStart):
			pending = true
		case failing == nil:
			failing = m
		}
	}
	switch {
	case pending && (second == nil || waited < headStart):
		return nil, f.mu.changed, nil
	case second != nil:
		return second, nil, nil
	}
	f.mu.current = (f.mu.current + 1) % n
	return failing, nil, nil
}

// waitReady waits until any member is connected.
func (f *failover) waitReady(ctx context.Context) error {
	for {
		f.mu.Lock()
		changed, members := f.mu.changed, f.mu.members
		f.mu.Unlock()
		for _, m := range members {
			if m.ready() {
				return nil
			}
			m.pending(true)
		}
		if err := wait(ctx, time.Second, changed); err != nil {
			return fmt.Errorf("%w: none of %q accepted a connection: %w", ErrUnavailable, f.endpoints(), err)
		}
	}
}

// backoff waits before the next attempt, less if a connection comes up; false if ctx ended.
func (f *failover) backoff(ctx context.Context, attempt int) bool {
	f.mu.Lock()
	changed, n := f.mu.changed, len(f.mu.members)
	f.mu.Unlock()
	d := backoffDelay(attempt, n, rand.Float64())
	if d == 0 {
		return ctx.Err() == nil
	}
	// A connection that flaps must not turn the wait into a spin.
	floor := min(d, 10*time.Millisecond)
	return wait(ctx, floor, nil) == nil && wait(ctx, d-floor, changed) == nil
}

// wait returns nil after d or when changed is closed, and the context's error if it ends first.
func wait(ctx context.Context, d time.Duration, changed <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
