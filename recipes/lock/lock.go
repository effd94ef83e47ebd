package lock

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/musterhq/muster/recipes/internal/line"
	"github.com/musterhq/muster/sdk"
)

var (
	// ErrLocked is TryLock's answer when somebody holds the lock or waits for it.
	ErrLocked = errors.New("lock: held by another")
	// ErrNotHeld: the lock was held and isn't any more.
	ErrNotHeld = errors.New("lock: not held any more")
	// ErrUnlocked is the cause of a lock's context after Unlock.
	ErrUnlocked = errors.New("lock: unlocked")
)

// Token fences: see sdk.Token.
type Token = sdk.Token

// Option changes a Mutex.
type Option struct{ apply func(*Mutex) }

// WithEpoch sets the epoch of tokens, for clusters that were restored without raising the revision: one more after
// each such restore, the same in all clients.
func WithEpoch(epoch int64) Option { return Option{func(m *Mutex) { m.epoch = epoch }} }

// WithSessionKey gives all locks of one session the key NAME/LEASE, as etcd's clients do. Then a second Lock on the
// same session succeeds at once, holding the same place; etcd's v3lock service promises that. As there, the place is given
// up for all of them by the first that unlocks it, or whose Lock created it and is cancelled.
func WithSessionKey() Option { return Option{func(m *Mutex) { m.shared = true }} }

// Mutex is a lock by name.
type Mutex struct {
	session *sdk.Session
	prefix  string
	epoch   int64
	shared  bool
}

// NewMutex names a lock; nothing is sent yet. A slash at the end of name makes no difference.
func NewMutex(s *sdk.Session, name string, opts ...Option) *Mutex {
	m := &Mutex{session: s, prefix: strings.TrimSuffix(name, "/") + "/"}
	for _, o := range opts {
		o.apply(m)
	}
	return m
}

// Lock waits for its turn, first come first served. When ctx or the session ends first, it leaves the queue and
// returns the reason; if no member takes that for 5 s, leaving goes on in the background until the session ends.
func (m *Mutex) Lock(ctx context.Context) (*Lock, error) {
	p, err := line.Enter(ctx, m.line())
	return m.held(p, err)
}

// TryLock takes the lock if nobody holds it or waits for it, and returns ErrLocked otherwise.
func (m *Mutex) TryLock(ctx context.Context) (*Lock, error) {
	p, err := line.EnterIfEmpty(ctx, m.line())
	if errors.Is(err, line.ErrTaken) {
		return nil, fmt.Errorf("%w: %s", ErrLocked, m.prefix)
	}
	return m.held(p, err)
}

func (m *Mutex) line() line.Config {
	return line.Config{Session: m.session, Prefix: m.prefix, Shared: m.shared}
}

func (m *Mutex) held(p *line.Place, err error) (*Lock, error) {
	if err != nil {
		return nil, describe(m.prefix, err)
	}
	l := &Lock{place: p, name: m.prefix, token: Token{Epoch: m.epoch, Revision: p.Rev}}
	l.ctx, l.cancel = m.session.Derive()
	return l, nil
}

func describe(name string, err error) error {
	if errors.Is(err, line.ErrGone) {
		return fmt.Errorf("%w: %s: the key was deleted by another", ErrNotHeld, name)
	}
	return fmt.Errorf("lock: %s: %w", name, err)
}

// Lock is a held lock.
type Lock struct {
	place  *line.Place
	name   string
	token  Token
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// Context ends when the lock can no longer be relied on: at the session's local deadline, before the lease can end
// (cause sdk.ErrSessionLost), or with Unlock (cause ErrUnlocked). Do the protected work under it.
func (l *Lock) Context() context.Context { return l.ctx }

// Token is greater than that of every earlier holder.
func (l *Lock) Token() Token { return l.token }

// Key is the own key in the store.
func (l *Lock) Key() string { return l.place.Key }

// Guard gives the compares to put into a transaction's If, so that it does nothing once the lock has passed on.
func (l *Lock) Guard() []sdk.Cmp { return l.place.Guard() }

// Verify asks the quorum whether the lock is still held: nil, ErrNotHeld, sdk.ErrSessionLost, or why it can't tell.
func (l *Lock) Verify(ctx context.Context) error {
	if l.ctx.Err() != nil {
		return fmt.Errorf("%w: %s: %w", ErrNotHeld, l.name, context.Cause(l.ctx))
	}
	if err := l.place.Verify(ctx); err != nil {
		return describe(l.name, err)
	}
	return nil
}

// Unlock ends Context and passes the lock on. It repeats until the outcome is known, or ctx or the session ends; then
// the lock passes on when the lease ends. Calling it again is harmless, and retries what failed.
func (l *Lock) Unlock(ctx context.Context) error {
	l.cancel(fmt.Errorf("%w: %s", ErrUnlocked, l.name))
	if err := l.place.Leave(ctx); err != nil {
		return describe(l.name, err)
	}
	return nil
}
