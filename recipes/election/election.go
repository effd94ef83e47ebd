package election

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/musterhq/muster/recipes/internal/line"
	"github.com/musterhq/muster/sdk"
)

var (
	// ErrNotLeader: the leadership was held and isn't any more.
	ErrNotLeader = errors.New("election: not the leader any more")
	// ErrResigned is the cause of a leadership's context after Resign.
	ErrResigned = errors.New("election: resigned")
)

// Token fences: see sdk.Token.
type Token = sdk.Token

// Option changes an Election or Observer.
type Option struct{ apply func(*config) }

type config struct {
	epoch  int64
	shared bool
}

// WithEpoch sets the epoch of tokens, for clusters that were restored without raising the revision: one more after
// each such restore, the same in all clients.
func WithEpoch(epoch int64) Option { return Option{func(c *config) { c.epoch = epoch }} }

// WithSessionKey gives all campaigns of one session the key NAME/LEASE, as etcd's clients do: a second Campaign on the
// same session is the same candidate, with the first one's value, until the first of them resigns, or the one that created
// the key is cancelled.
func WithSessionKey() Option { return Option{func(c *config) { c.shared = true }} }

// Election is an election by name, seen by somebody with a session to stand in it.
type Election struct {
	*Observer
	session *sdk.Session
	shared  bool
}

// New names an election; nothing is sent yet. A slash at the end of name makes no difference.
func New(s *sdk.Session, name string, opts ...Option) *Election {
	c := configure(opts)
	return &Election{Observer: &Observer{client: s.Client(), prefix: prefix(name), epoch: c.epoch}, session: s, shared: c.shared}
}

func configure(opts []Option) config {
	var c config
	for _, o := range opts {
		o.apply(&c)
	}
	return c
}

func prefix(name string) string { return strings.TrimSuffix(name, "/") + "/" }

// Campaign stands as a candidate with the value and waits to be elected. When ctx or the session ends first, it
// withdraws and returns the reason; if no member takes that for 5 s, withdrawing goes on in the background until the
// session ends.
func (e *Election) Campaign(ctx context.Context, value []byte) (*Leadership, error) {
	p, err := line.Enter(ctx, line.Config{Session: e.session, Prefix: e.prefix, Value: value, Shared: e.shared})
	if err != nil {
		return nil, describe(e.prefix, err)
	}
	l := &Leadership{place: p, name: e.prefix, token: Token{Epoch: e.epoch, Revision: p.Rev}, turn: make(chan struct{}, 1)}
	l.ctx, l.cancel = e.session.Derive()
	return l, nil
}

func describe(name string, err error) error {
	if errors.Is(err, line.ErrGone) {
		return fmt.Errorf("%w: %s: the key was deleted by another", ErrNotLeader, name)
	}
	return fmt.Errorf("election: %s: %w", name, err)
}

// Leadership is won and not yet resigned.
type Leadership struct {
	place  *line.Place
	name   string
	token  Token
	ctx    context.Context
	cancel context.CancelCauseFunc
	turn   chan struct{} // held while proclaiming: one change at a time
}

// Context ends when the leadership can no longer be relied on: at the session's local deadline, before the lease can
// end (cause sdk.ErrSessionLost), or with Resign (cause ErrResigned). Lead under it.
func (l *Leadership) Context() context.Context { return l.ctx }

// Token is greater than that of every earlier leader.
func (l *Leadership) Token() Token { return l.token }

// Key is the own key in the store.
func (l *Leadership) Key() string { return l.place.Key }

// Guard gives the compares to put into a transaction's If, so that it does nothing once another leads.
func (l *Leadership) Guard() []sdk.Cmp { return l.place.Guard() }

// Verify asks the quorum: nil, ErrNotLeader, sdk.ErrSessionLost, or why it can't tell.
func (l *Leadership) Verify(ctx context.Context) error {
	if err := l.over(); err != nil {
		return err
	}
	if err := l.place.Verify(ctx); err != nil {
		return describe(l.name, err)
	}
	return nil
}

// Proclaim changes the leader's value, if the leadership is still held. A Proclaim that returned before another began
// can't overwrite it, not even if its outcome was unknown.
func (l *Leadership) Proclaim(ctx context.Context, value []byte) error {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return fmt.Errorf("election: %s: %w", l.name, context.Cause(ctx))
	}
	if err := l.over(); err != nil {
		return err
	}
	if err := l.place.Update(ctx, value); err != nil {
		return describe(l.name, err)
	}
	return nil
}

func (l *Leadership) over() error {
	if l.ctx.Err() != nil {
		return fmt.Errorf("%w: %s: %w", ErrNotLeader, l.name, context.Cause(l.ctx))
	}
	return nil
}

// Resign ends Context and lets the next candidate lead. It repeats until the outcome is known, or ctx or the session
// ends; then the next one leads when the lease ends. Calling it again is harmless, and retries what failed.
func (l *Leadership) Resign(ctx context.Context) error {
	l.cancel(fmt.Errorf("%w: %s", ErrResigned, l.name))
	if err := l.place.Leave(ctx); err != nil {
		return describe(l.name, err)
	}
	return nil
}
