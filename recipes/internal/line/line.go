package line

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/sdk"
)

// ErrGone: the own key doesn't stand any more.
var ErrGone = errors.New("the key was deleted")

// cleanupTime bounds how long a caller whose context has ended is kept, and one attempt later.
const cleanupTime = 5 * time.Second

// Config names a place.
type Config struct {
	Session *sdk.Session
	Prefix  string // ends in a slash
	Value   []byte
	// Shared gives all acquisitions of one session one key, as etcd's clients do: whoever stands there, stands for all.
	Shared bool
}

// Place is one key in the line.
type Place struct {
	cfg Config
	Key string
	Rev int64 // create revision; the order in the line
	Mod int64 // revision of the key's last change as known here

	front bool // the answer to the creation showed this key first
	found bool // the key stood before, so for a shared key it is somebody else's to delete

	// doubt: the outcome of a creation was unknown when it was repeated, so a copy of it may still be on its way, in the
	// hands of a member that was stopped, say. Executed after the key was deleted, it would put a place into the line that
	// nobody knows of, for as long as the session lives. So whoever leaves with a doubt leaves the fence behind, a key
	// that no creation is executed beside. It goes with the lease. A shared key has none: its name is used again.
	doubt bool
	fence string
}

func newPlace(c Config) *Place {
	if c.Shared {
		return &Place{cfg: c, Key: fmt.Sprintf("%s%x", c.Prefix, c.Session.Lease())}
	}
	name := fmt.Sprintf("%x-%016x", c.Session.Lease(), rand.Uint64())
	return &Place{cfg: c, Key: c.Prefix + name, fence: strings.TrimSuffix(c.Prefix, "/") + "\x00" + name}
}

// Enter joins the line at its end and waits for the front. If it fails, the place is given up.
func Enter(ctx context.Context, c Config) (*Place, error) {
	p := newPlace(c)
	return p.acquire(ctx, func(ctx context.Context) error {
		first := sdk.OpGet(c.Prefix, sdk.WithPrefix(), sdk.WithSort(sdk.SortByCreate, sdk.Ascending), sdk.WithLimit(1))
		if err := p.create(ctx, sdk.CmpCreate(p.Key, "=", 0), first); err != nil {
			return err
		}
		if p.front {
			return nil
		}
		return p.wait(ctx)
	})
}

// ErrTaken: the line isn't empty.
var ErrTaken = errors.New("the line is not empty")

// EnterIfEmpty takes the place only if nobody stands in the line, else it returns ErrTaken and has changed nothing.
func EnterIfEmpty(ctx context.Context, c Config) (*Place, error) {
	p := newPlace(c)
	return p.acquire(ctx, func(ctx context.Context) error {
		first := sdk.OpGet(c.Prefix, sdk.WithPrefix(), sdk.WithSort(sdk.SortByCreate, sdk.Ascending), sdk.WithLimit(1))
		if err := p.create(ctx, sdk.CmpCreate(c.Prefix, "=", 0).WithPrefix(), first); err != nil {
			return err
		}
		if !p.front {
			return ErrTaken
		}
		return nil
	})
}

// acquire runs get under both the caller's context and the session's, and cleans up if it fails.
func (p *Place) acquire(ctx context.Context, get func(context.Context) error) (*Place, error) {
	s := p.cfg.Session
	ctx, cancel := Join(ctx, s)
	defer cancel()
	err := s.Err()
	if err == nil {
		err = get(ctx)
		s.Heed(err)
	}
	// A session that ended meanwhile makes a success worthless and an error beside the point.
	if lost := s.Err(); lost != nil {
		return nil, lost
	}
	if err != nil {
		p.cleanUp(ctx)
		return nil, err
	}
	return p, nil
}

// Join gives a context that ends with ctx or the session, whichever is first.
func Join(ctx context.Context, s *sdk.Session) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.Context(), func() { cancel(context.Cause(s.Context())) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// create puts the key if the condition holds, and learns from the same answer who is first. Repeating it gives the
// same key and the same answer, whichever try was executed.
func (p *Place) create(ctx context.Context, when sdk.Cmp, first sdk.Op) error {
	t := sdk.Txn{
		If:   []sdk.Cmp{when},
		Then: []sdk.Op{sdk.OpPut(p.Key, p.cfg.Value, sdk.WithLease(p.cfg.Session.Lease())), first},
		Else: []sdk.Op{sdk.OpGet(p.Key), first},
	}
	if p.fence != "" {
		t.If = append(t.If, sdk.CmpCreate(p.fence, "=", 0))
	}
	r, err := settled(ctx, p.cfg.Session, t, func(err error) bool {
		p.doubt = p.doubt || unknown(err)
		return unknown(err)
	})
	if err != nil {
		return err
	}
	if r.Succeeded {
		p.Rev, p.Mod = r.Header.Revision, r.Header.Revision
	} else if kv, ok := r.Results[0].Get.First(); ok {
		p.Rev, p.Mod, p.found = kv.CreateRevision, kv.ModRevision, true
	}
	head, ok := r.Results[1].Get.First()
	p.front = ok && head.Key == p.Key
	return nil
}

// wait stands behind the immediate predecessor, and the one before it once that is gone, until there is none.
func (p *Place) wait(ctx context.Context) error {
	c := p.cfg.Session.Client()
	for {
		r, err := c.Get(ctx, p.cfg.Prefix, sdk.WithPrefix(), sdk.WithMaxCreateRev(p.Rev-1), sdk.WithKeysOnly(),
			sdk.WithSort(sdk.SortByCreate, sdk.Descending), sdk.WithLimit(1))
		if err != nil {
			return err
		}
		ahead, ok := r.First()
		if !ok {
			return p.Verify(ctx)
		}
		if err := untilDeleted(ctx, c, ahead.Key, r.Header.Revision+1); err != nil && !errors.Is(err, sdk.ErrCompacted) {
			return err
		}
	}
}

func untilDeleted(ctx context.Context, c *sdk.Client, key string, from int64) error {
	for b, err := range c.Watch(ctx, key, sdk.WithRev(from), sdk.WithFilterPut()) {
		if err != nil {
			return err
		}
		if len(b.Events) > 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}

// Guard is the condition that the place is still held, for transactions.
func (p *Place) Guard() []sdk.Cmp { return []sdk.Cmp{sdk.CmpCreate(p.Key, "=", p.Rev)} }

// Verify asks the quorum whether the key stands; ErrGone if not.
func (p *Place) Verify(ctx context.Context) error {
	// The read makes it a transaction that has to be current: one without operations may be answered by a stale member.
	r, err := p.cfg.Session.Client().Txn(ctx, sdk.Txn{If: p.Guard(), Then: []sdk.Op{sdk.OpGet(p.Key, sdk.WithKeysOnly())}})
	if err != nil {
		return err
	}
	if lost := p.cfg.Session.Err(); lost != nil {
		return lost
	}
	if !r.Succeeded {
		return ErrGone
	}
	return nil
}

// Update sets the key's value if the place is still held. Repeats can't bring an older value back: each is tied to the
// last change.
func (p *Place) Update(ctx context.Context, value []byte) error {
	for {
		r, err := settled(ctx, p.cfg.Session, sdk.Txn{
			If:   append(p.Guard(), sdk.CmpMod(p.Key, "=", p.Mod)),
			Then: []sdk.Op{sdk.OpPut(p.Key, value, sdk.WithLease(p.cfg.Session.Lease()))},
			Else: []sdk.Op{sdk.OpGet(p.Key)},
		}, unknown)
		if err != nil {
			return err
		}
		if r.Succeeded {
			p.Mod = r.Header.Revision
			return nil
		}
		kv, ok := r.Results[0].Get.First()
		if !ok || kv.CreateRevision != p.Rev {
			return ErrGone
		}
		p.Mod = kv.ModRevision
		if string(kv.Value) == string(value) {
			return nil // this or an earlier try had been executed
		}
	}
}

// Leave deletes the key if it is still the own one; it is no error if it isn't. It repeats until the outcome is known,
// and while members are too busy: a place that stays blocks everybody behind it.
func (p *Place) Leave(ctx context.Context) error {
	return p.gone(ctx, p.doubt && p.fence != "", sdk.Txn{If: p.Guard(), Then: []sdk.Op{sdk.OpDelete(p.Key)}})
}

// gone deletes the key, as t does, and leaves the fence behind in any case. Where there is no space for that, there is none
// for a late copy either, as long as that lasts; and a place that stays is worse.
func (p *Place) gone(ctx context.Context, fenced bool, t sdk.Txn) error {
	again := func(err error) bool { return unknown(err) || errors.Is(err, sdk.ErrTooManyRequests) }
	err := sdk.ErrNoSpace
	if fenced {
		with, fence := t, sdk.OpPut(p.fence, nil, sdk.WithLease(p.cfg.Session.Lease()))
		with.Then = append(slices.Clone(t.Then), fence)
		with.Else = []sdk.Op{fence}
		_, err = settled(ctx, p.cfg.Session, with, again)
	}
	if errors.Is(err, sdk.ErrNoSpace) {
		_, err = settled(ctx, p.cfg.Session, t, again)
	}
	if errors.Is(err, sdk.ErrLeaseNotFound) {
		return nil // the key has gone with the lease, and none can come any more
	}
	return err
}

// cleanUp gives the place up after ctx has ended. What can't be deleted in time is deleted later: the session may live on,
// and with it a place that nobody knows of and everybody waits for. (Not a shared one: it may have been entered again.)
func (p *Place) cleanUp(ctx context.Context) {
	s := p.cfg.Session
	if p.Rev == 0 && !p.doubt || p.cfg.Shared && (p.found || p.Rev == 0) {
		return
	}
	try := func() (over bool) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		ctx, end := Join(ctx, s)
		defer end()
		return p.abandon(ctx) == nil || s.Err() != nil
	}
	if try() || p.cfg.Shared {
		return
	}
	go func() {
		const pause = time.Second
		for over := false; !over; over = try() {
			select {
			case <-time.After(pause):
			case <-s.Done():
				return
			}
		}
	}()
}

func (p *Place) abandon(ctx context.Context) error {
	if p.Rev != 0 {
		return p.Leave(ctx)
	}
	// Whether the key was created isn't known, so it is deleted by name; the name is used once only.
	return p.gone(ctx, true, sdk.Txn{Then: []sdk.Op{sdk.OpDelete(p.Key)}})
}

func unknown(err error) bool { return errors.Is(err, sdk.ErrUnknownOutcome) }

// settled repeats an idempotent transaction while its error is one to repeat it for, until ctx or the session ends.
func settled(ctx context.Context, s *sdk.Session, t sdk.Txn, again func(error) bool) (sdk.TxnResult, error) {
	const pause = 20 * time.Millisecond
	for {
		r, err := s.Client().Txn(ctx, t)
		if err == nil || !again(err) {
			return r, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return r, err
		case <-s.Done():
			timer.Stop()
			return r, context.Cause(s.Context())
		}
	}
}
