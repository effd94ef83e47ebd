package chaos

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/recipes/lock"
	"github.com/musterhq/muster/sdk"
)

const (
	lockers    = 3
	guardedKey = "lock/guarded"
)

// locks is a lock that several want. Its holders must not overlap, and what
// they write under its guard must be in the order of their tokens.
type locks struct {
	load *load
	mu   struct {
		sync.Mutex
		holder *holder
		last   sdk.Token
		turns  int
		writes []int64 // revisions of acknowledged guarded writes
	}
}

type holder struct {
	session *sdk.Session
	lock    *lock.Lock
}

func newLocks(l *load) *locks { return &locks{load: l} }

func (s *locks) start() {
	for i := range lockers {
		s.load.wg.Go(func() { s.want(fmt.Sprintf("locker-%d", i)) })
	}
}

// want takes the lock again and again, with a new session when one is lost.
func (s *locks) want(name string) {
	cl, ctx := s.load.sdkClient(callTime, s.load.endpoints()...), s.load.ctx
	rng := s.load.random(name)
	for ctx.Err() == nil {
		opening, cancel := context.WithTimeout(ctx, 3*time.Second)
		session, err := sdk.NewSession(opening, cl, sdk.WithTTL(4*time.Second))
		cancel()
		if err != nil {
			continue
		}
		for n := rng.IntN(200); n > 0 && ctx.Err() == nil && session.Err() == nil; n-- {
			s.turn(cl, session)
			s.load.leases.rest(10 * time.Millisecond)
		}
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
		_ = session.Close(closing) // or its lease expires
		cancel()
	}
}

func (s *locks) turn(cl *sdk.Client, session *sdk.Session) {
	waiting, cancel := context.WithTimeout(s.load.ctx, 10*time.Second)
	defer cancel()
	l, err := lock.NewMutex(session, "lock/mutex").Lock(waiting)
	if err != nil {
		return
	}
	me := &holder{session, l}
	s.enter(me)
	token := strconv.FormatInt(l.Token().Revision, 10)
	for i := range 2 {
		r, err := cl.Txn(l.Context(), sdk.Txn{If: l.Guard(), Then: []sdk.Op{sdk.OpPut(guardedKey, fmt.Appendf(nil, "%s.%d", token, i))}})
		if err != nil {
			break
		}
		if r.Succeeded {
			s.mu.Lock()
			s.mu.writes = append(s.mu.writes, r.Header.Revision)
			s.mu.Unlock()
		} else if l.Context().Err() == nil && session.Err() == nil {
			s.load.fail("the holder of %s, whose session is alive, doesn't hold the lock", l.Key())
		}
	}
	s.leave(me)
	leaving, cancel := context.WithTimeout(context.WithoutCancel(s.load.ctx), 3*time.Second)
	defer cancel()
	_ = l.Unlock(leaving) // or its lease expires
}

func (s *locks) enter(me *holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.mu.holder; h != nil && h.lock.Context().Err() == nil && h.session.Err() == nil {
		s.load.fail("two hold the lock: %s and %s", h.lock.Key(), me.lock.Key())
	}
	if token := me.lock.Token(); token.Revision <= s.mu.last.Revision {
		s.load.fail("the lock's token %v came after %v", token, s.mu.last)
	}
	s.mu.holder, s.mu.last = me, me.lock.Token()
	s.mu.turns++
}

func (s *locks) leave(me *holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.holder == me {
		s.mu.holder = nil
	}
}

// check looks at the guarded writes.
func (s *locks) check(v *verdict, h *history) {
	last := int64(0)
	for _, w := range h.keys[guardedKey] {
		text, _, _ := strings.Cut(w.value, ".")
		token, err := strconv.ParseInt(text, 10, 64)
		v.checked("guarded writes in the order of tokens", err == nil && token >= last, "%s at %d, after token %d", w.value, w.rev, last)
		last = token
	}
	for _, rev := range s.mu.writes {
		v.checked("acknowledged guarded writes are there", len(h.of(rev)) == 1 && h.of(rev)[0].key == guardedKey, "at %d are %v", rev, h.of(rev))
	}
}

func (s *locks) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("lock taken %d times, %d guarded writes", s.mu.turns, len(s.mu.writes))
}
