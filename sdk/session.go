package sdk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

const defaultTTL = 10 * time.Second

// SessionOption changes a new session.
type SessionOption struct{ apply func(*sessionConfig) }

type sessionConfig struct {
	ttl   time.Duration
	lease int64
}

// WithTTL sets how long the lease outlives its holder: 10 s unless set. Renewals are sent every third of it, and beside one that is slow every sixth.
func WithTTL(d time.Duration) SessionOption {
	return SessionOption{func(c *sessionConfig) { c.ttl = d }}
}

// WithSessionLease takes over a lease that exists instead of granting one.
func WithSessionLease(id int64) SessionOption {
	return SessionOption{func(c *sessionConfig) { c.lease = id }}
}

// Session is a lease kept alive, and a context that ends before the lease can: when it has ended, or Deadline has passed,
// nothing bound to the lease may be relied on any more. A lost session stays lost.
type Session struct {
	keeper leaseKeeper
	client *Client
	id     int64
	log    *slog.Logger
	now    func() time.Duration

	ctx    context.Context
	cancel context.CancelCauseFunc
	owners sync.WaitGroup // the goroutines that renew and that watch the deadline

	mu struct {
		sync.Mutex
		term     term
		orphaned bool
		revoked  bool
	}
}

// leaseKeeper is the part of Client a session works with.
type leaseKeeper interface {
	Grant(ctx context.Context, ttl time.Duration, opts ...Option) (Lease, error)
	KeepAliveOnce(ctx context.Context, id int64) (Lease, error)
	Revoke(ctx context.Context, id int64) error
}

// NewSession grants a lease, or takes one over, and keeps it alive until Close. ctx bounds the opening only.
func NewSession(ctx context.Context, c *Client, opts ...SessionOption) (*Session, error) {
	ctx, cancel := c.conn.bounded(ctx)
	defer cancel()
	return newSession(ctx, c, c, c.log, newClock(), opts)
}

func newSession(
	ctx context.Context, c *Client, k leaseKeeper, log *slog.Logger, now func() time.Duration, opts []SessionOption,
) (*Session, error) {
	cfg := sessionConfig{ttl: defaultTTL}
	for _, o := range opts {
		o.apply(&cfg)
	}
	if cfg.ttl < time.Second {
		return nil, fmt.Errorf("%w: session TTL %v; use at least 1s", ErrInvalid, cfg.ttl)
	}
	s := &Session{keeper: k, client: c, id: cfg.lease, log: log, now: now}
	sent, lease, err := s.open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("sdk: open session: %w", err)
	}
	s.id = lease.ID
	s.mu.term.renewed(sent, lease.TTL)
	if s.mu.term.over(now()) {
		return nil, fmt.Errorf("%w: lease %x took longer to open than its TTL of %v; use a longer one", ErrSessionLost, s.id, lease.TTL)
	}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	s.owners.Go(s.renew)
	s.owners.Go(s.expire)
	return s, nil
}

// open gets the lease. The id is chosen here, so that a grant whose outcome is unknown can be repeated.
func (s *Session) open(ctx context.Context, cfg sessionConfig) (sent time.Duration, l Lease, err error) {
	if cfg.lease != 0 {
		sent = s.now()
		l, err = s.keeper.KeepAliveOnce(ctx, cfg.lease)
		return sent, l, err
	}
	id := rand.Int64N(1<<62) + 1
	for maybe := false; ; {
		sent = s.now()
		l, err = s.keeper.Grant(ctx, cfg.ttl, WithLeaseID(id))
		switch {
		case maybe && errors.Is(err, ErrLeaseExists):
			// The earlier grant had happened. It is renewed to know how long it lives.
			sent = s.now()
			l, err = s.keeper.KeepAliveOnce(ctx, id)
			return sent, l, err
		case errors.Is(err, ErrUnknownOutcome) && wait(ctx, 20*time.Millisecond, nil) == nil:
			maybe = true
			continue
		}
		return sent, l, err
	}
}

// Client is the client the session was made with.
func (s *Session) Client() *Client { return s.client }

// Lease is the id to bind keys to.
func (s *Session) Lease() int64 { return s.id }

// Context ends at the local deadline, at the latest, with ErrSessionLost as its cause, or with ErrSessionClosed. Its Err
// looks at the clock itself, as Session.Err does: a process that was stopped for longer than its lease lives may run on
// before any timer of its own, and must not believe for that moment that nothing has happened.
func (s *Session) Context() context.Context { return vigilant{s.ctx, s} }

// Derive gives a context within Context, for what is held by the session: it ends with it, or by cancel with a cause of
// its own. Its Err looks at the clock, too.
func (s *Session) Derive() (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(s.ctx)
	return vigilant{ctx, s}, cancel
}

// vigilant is a context of a session. To be lost cancels all that is derived from it, before Err answers.
type vigilant struct {
	context.Context
	s *Session
}

func (v vigilant) Err() error {
	_ = v.s.Err() // ends the context if it is time
	return v.Context.Err()
}

// vigilantKey finds the vigilant context that another is derived from.
type vigilantKey struct{}

func (v vigilant) Value(key any) any {
	if key == (vigilantKey{}) {
		return v
	}
	return v.Context.Value(key)
}

// lookAtClock is ctx.Err, also right if ctx is derived from a session's and the session has just found out.
func lookAtClock(ctx context.Context) error {
	if v, ok := ctx.Value(vigilantKey{}).(vigilant); ok {
		_ = v.s.Err()
	}
	return ctx.Err()
}

// Done is closed when Context ends.
func (s *Session) Done() <-chan struct{} { return s.ctx.Done() }

// Deadline is the local deadline as it stands: when the last answered renewal was sent, plus the TTL, less a margin.
// Renewals move it on.
func (s *Session) Deadline() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.mu.term.deadline - s.now())
}

// TTL is the lease's time to live as the member last told it.
func (s *Session) TTL() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.term.ttl
}

// Err is nil while the session can be relied on, and else why not: ErrSessionLost or ErrSessionClosed. It looks at the
// clock itself, so it is right even just after the machine was suspended.
func (s *Session) Err() error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	s.mu.Lock()
	over := s.mu.term.over(s.now())
	s.mu.Unlock()
	if over {
		s.lose("its deadline has passed")
		return context.Cause(s.ctx)
	}
	return nil
}

// Heed takes the error of a call that put something under the lease: if the lease is gone, the session is lost at once
// rather than at its next renewal.
func (s *Session) Heed(err error) {
	if errors.Is(err, ErrLeaseNotFound) {
		s.lose("a member says that it is gone")
	}
}

func (s *Session) lose(why string) {
	if s.ctx.Err() == nil {
		s.log.Warn("sdk: session lost", "lease", fmt.Sprintf("%x", s.id), "because", why)
	}
	s.cancel(fmt.Errorf("%w: lease %x: %s", ErrSessionLost, s.id, why))
}

// expire ends the context at the deadline, wherever renewals have moved it meanwhile.
func (s *Session) expire() {
	for s.Err() == nil {
		s.mu.Lock()
		d := s.mu.term.check(s.now())
		s.mu.Unlock()
		if wait(s.ctx, d, nil) != nil {
			return
		}
	}
}

// maxRenewals is how many renewals may be under way beside each other.
const maxRenewals = 3

// renewal is what became of one.
type renewal struct {
	sent  time.Duration
	lease Lease
	err   error
}

// renew keeps the lease alive until the session ends.
func (s *Session) renew() {
	for s.ctx.Err() == nil {
		s.renewOnce()
	}
}

// renewOnce has the lease renewed when it is due, once, or returns when the session ends. A renewal that is not answered
// soon is not given up, for an overloaded member does answer, but late; others are sent beside it, and the first answer counts.
func (s *Session) renewOnce() {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	answers := make(chan renewal, maxRenewals) // those that come too late find room
	for under := 0; ; {
		var due <-chan time.Time
		if under < maxRenewals {
			s.mu.Lock()
			due = time.After(s.mu.term.next - s.now())
			s.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-due:
			under++
			s.send(ctx, answers)
		case a := <-answers:
			under--
			if s.take(a) {
				return
			}
		}
	}
}

func (s *Session) send(ctx context.Context, answers chan<- renewal) {
	s.mu.Lock()
	sent := s.now()
	limit := s.mu.term.attempt(sent)
	s.mu.Unlock()
	s.owners.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		l, err := s.keeper.KeepAliveOnce(ctx, s.id)
		answers <- renewal{sent, l, err}
	})
}

// take reports whether the lease was renewed. If it can't be any more, the session ends.
func (s *Session) take(a renewal) bool {
	switch {
	case errors.Is(a.err, ErrLeaseNotFound):
		s.lose("the member says that it is gone")
	case errors.Is(a.err, ErrClosed):
		s.lose("the client was closed")
	case a.err != nil:
		s.log.Debug("sdk: renewal without answer", "lease", fmt.Sprintf("%x", s.id), "err", a.err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.err != nil {
		s.mu.term.failed(s.now())
		return false
	}
	s.mu.term.renewed(a.sent, a.lease.TTL)
	return true
}

// Close ends the session and revokes its lease, so that what is bound to it is deleted at once. It repeats until the
// outcome is known or ctx ends; then the lease ends by itself within its TTL. It may be called again.
func (s *Session) Close(ctx context.Context) error {
	s.end()
	s.mu.Lock()
	done := s.mu.orphaned || s.mu.revoked
	s.mu.Unlock()
	if done {
		return nil
	}
	for {
		err := s.keeper.Revoke(ctx, s.id)
		if errors.Is(err, ErrUnknownOutcome) && ctx.Err() == nil && wait(ctx, 20*time.Millisecond, nil) == nil {
			continue
		}
		if err != nil && !errors.Is(err, ErrLeaseNotFound) {
			return fmt.Errorf("sdk: revoke lease %x: %w", s.id, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mu.revoked = true
		return nil
	}
}

// Orphan ends the session but leaves the lease to whoever else keeps it alive, or to its TTL.
func (s *Session) Orphan() {
	s.mu.Lock()
	s.mu.orphaned = true
	s.mu.Unlock()
	s.end()
}

// end waits for the session's goroutines.
func (s *Session) end() {
	s.cancel(fmt.Errorf("%w: lease %x", ErrSessionClosed, s.id))
	s.owners.Wait()
}
