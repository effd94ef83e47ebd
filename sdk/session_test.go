package sdk

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestDeadlineCountsFromTheSendTimeOfTheLastAnswer(t *testing.T) {
	var tm term
	tm.renewed(100*time.Second, 10*time.Second)
	if want := 109 * time.Second; tm.deadline != want {
		t.Errorf("deadline %v; want %v: send time + TTL − margin", tm.deadline, want)
	}
	if tm.next <= 103*time.Second || tm.next >= 104*time.Second {
		t.Errorf("next renewal at %v; want a third of the TTL on", tm.next)
	}
	tm.renewed(90*time.Second, 10*time.Second)
	if want := 109 * time.Second; tm.deadline != want {
		t.Errorf("an answer to an older renewal moved the deadline to %v; want %v", tm.deadline, want)
	}
	tm.renewed(103*time.Second, 2*time.Second)
	if want := 104800 * time.Millisecond; tm.deadline != want || tm.over(want-1) || !tm.over(want) {
		t.Errorf("a shorter TTL gives deadline %v; want %v", tm.deadline, want)
	}
}

func TestRenewalsWithoutAnswerComeSoonAndStopAtTheDeadline(t *testing.T) {
	var tm term
	tm.renewed(0, 6*time.Second)
	now := tm.next
	for _, want := range []time.Duration{50, 100, 200, 400, 800, 1000, 1000} {
		tm.failed(now)
		if got := tm.next - now; got != want*time.Millisecond {
			t.Errorf("after %d failures the next comes in %v; want %v", tm.failures, got, want*time.Millisecond)
		}
		now = tm.next
	}
	now = tm.deadline - 3*time.Second
	if got := tm.attempt(now); got != 3*time.Second || tm.next != now+time.Second {
		t.Errorf("a renewal may take %v, and the next comes %v later; want 3s, half the TTL, and 1s", got, tm.next-now)
	}
	if got := tm.attempt(tm.deadline - time.Millisecond); got != time.Millisecond {
		t.Errorf("a renewal just before the deadline may take %v; want what is left, 1ms", got)
	}
	if got := tm.attempt(tm.deadline + time.Second); got != 0 {
		t.Errorf("a renewal after the deadline may take %v; want 0", got)
	}
}

func TestMarginIsATenthWithinBounds(t *testing.T) {
	for ttl, want := range map[time.Duration]time.Duration{
		time.Second: 100 * time.Millisecond, 10 * time.Second: time.Second, time.Hour: 3 * time.Second,
	} {
		if got := margin(ttl); got != want {
			t.Errorf("margin of %v is %v; want %v", ttl, got, want)
		}
	}
}

// fakeKeeper grants one lease and answers renewals while answer says so.
type fakeKeeper struct {
	mu      sync.Mutex
	grants  []error
	ids     []int64
	renewed []time.Time
	revoked []error
	answer  func(ctx context.Context) error
	ttl     time.Duration
}

func (k *fakeKeeper) Grant(_ context.Context, ttl time.Duration, opts ...Option) (Lease, error) {
	r, err := newRequest(onGrant, "", nil, opts)
	if err != nil {
		return Lease{}, err
	}
	k.ids = append(k.ids, r.lease)
	k.ttl = ttl
	if len(k.grants) > 0 {
		err, k.grants = k.grants[0], k.grants[1:]
	}
	return Lease{ID: r.lease, TTL: ttl}, err
}

func (k *fakeKeeper) KeepAliveOnce(ctx context.Context, id int64) (Lease, error) {
	k.mu.Lock()
	k.renewed = append(k.renewed, time.Now())
	k.mu.Unlock()
	if k.answer != nil {
		if err := k.answer(ctx); err != nil {
			return Lease{}, err
		}
	}
	return Lease{ID: id, TTL: k.ttl}, nil
}

func (k *fakeKeeper) Revoke(context.Context, int64) error {
	if len(k.revoked) == 0 {
		return nil
	}
	err := k.revoked[0]
	k.revoked = k.revoked[1:]
	return err
}

func openSession(t *testing.T, k *fakeKeeper, now func() time.Duration, opts ...SessionOption) *Session {
	t.Helper()
	s, err := newSession(t.Context(), nil, k, slog.New(slog.DiscardHandler), now, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.WithoutCancel(t.Context())) })
	return s
}

func since(start time.Time) func() time.Duration {
	return func() time.Duration { return time.Since(start) }
}

func TestSessionLivesWhileRenewalsAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKeeper{}
		s := openSession(t, k, since(time.Now()), WithTTL(9*time.Second))
		time.Sleep(time.Hour)
		if s.Err() != nil || s.Context().Err() != nil {
			t.Fatalf("session ended: %v", s.Err())
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if n := len(k.renewed); n < 1199 || n > 1201 {
			t.Errorf("%d renewals in an hour; want one every 3s", n)
		}
	})
}

func TestSessionContextEndsAtTheLocalDeadlineBeforeTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		k := &fakeKeeper{answer: func(ctx context.Context) error {
			<-ctx.Done() // members that never answer
			return ctx.Err()
		}}
		s := openSession(t, k, since(start), WithTTL(10*time.Second))
		if got := s.Deadline().Sub(start); got != 9*time.Second {
			t.Errorf("deadline in %v; want 9s", got)
		}
		<-s.Done()
		if took := time.Since(start); took != 9*time.Second {
			t.Errorf("context ended after %v; want 9s, a second before the lease can end", took)
		}
		if cause := context.Cause(s.Context()); !errors.Is(cause, ErrSessionLost) {
			t.Errorf("cause %v; want ErrSessionLost", cause)
		}
		if !errors.Is(s.Err(), ErrSessionLost) {
			t.Errorf("Err() is %v; want ErrSessionLost", s.Err())
		}
	})
}

func TestSlowAnswerCountsFromItsSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var first atomic.Bool
		k := &fakeKeeper{answer: func(ctx context.Context) error {
			if first.CompareAndSwap(false, true) {
				return wait(ctx, 2*time.Second, nil) // sent at 10/3 s
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		s := openSession(t, k, since(start), WithTTL(10*time.Second))
		<-s.Done()
		if took := time.Since(start).Round(time.Millisecond); took != 12333*time.Millisecond {
			t.Errorf("context ended after %v; want 12.333s, 9s from the sending", took)
		}
	})
}

func TestSessionThatSleptThroughItsLeaseEndsSoonAfterWaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var asleep time.Duration // what CLOCK_BOOTTIME counts and timers don't
		var mu sync.Mutex
		now := func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return time.Since(start) + asleep
		}
		k := &fakeKeeper{}
		s := openSession(t, k, now, WithTTL(10*time.Second))
		time.Sleep(time.Second)
		mu.Lock()
		asleep = time.Minute
		mu.Unlock()
		woke := time.Now()
		<-s.Done()
		if took := time.Since(woke); took > 500*time.Millisecond {
			t.Errorf("context ended %v after waking; want within half of the margin", took)
		}
	})
}

func TestErrLooksAtTheClockItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		jump := time.Duration(0)
		var mu sync.Mutex
		s := openSession(t, &fakeKeeper{}, func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return time.Since(start) + jump
		})
		mu.Lock()
		jump = time.Minute
		mu.Unlock()
		if err := s.Err(); !errors.Is(err, ErrSessionLost) || s.Context().Err() == nil {
			t.Errorf("just after a suspension Err() is %v; want ErrSessionLost and the context ended", err)
		}
	})
}

func TestContextsOfASessionLookAtTheClockThemselves(t *testing.T) {
	for name, of := range map[string]func(*Session) context.Context{
		"its own":    (*Session).Context,
		"a handle's": func(s *Session) context.Context { ctx, _ := s.Derive(); return ctx },
		"used by call": func(s *Session) context.Context {
			ctx, cancel := context.WithTimeout(s.Context(), time.Hour)
			t.Cleanup(cancel)
			return ctx
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			var jump atomic.Int64
			s := openSession(t, &fakeKeeper{}, func() time.Duration { return time.Since(start) + time.Duration(jump.Load()) })
			ctx := of(s)
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			if ctx.Err() != nil {
				t.Fatalf("%s: %v from the start", name, ctx.Err())
			}
			jump.Store(int64(time.Minute))
			if name == "used by call" {
				err := (&failover{}).Invoke(ctx, pb.KV_Put_FullMethodName, nil, nil) // has no member to send to
				if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrSessionLost) || errors.Is(err, ErrUnknownOutcome) {
					t.Errorf("call: %v; want it canceled for the lost session", err)
				}
				return
			}
			// No timer has had its turn yet.
			if ctx.Err() == nil || !errors.Is(context.Cause(ctx), ErrSessionLost) || child.Err() == nil {
				t.Errorf("%s: Err() is %v, cause %v, a child's %v; want all ended by ErrSessionLost", name, ctx.Err(), context.Cause(ctx), child.Err())
			}
		})
	}
}

func TestSessionIsLostAtOnceWhenTheLeaseIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		k := &fakeKeeper{answer: func(context.Context) error { return ErrLeaseNotFound }}
		s := openSession(t, k, since(start), WithTTL(9*time.Second))
		<-s.Done()
		if took := time.Since(start); took != 3*time.Second || !errors.Is(s.Err(), ErrSessionLost) {
			t.Errorf("ended after %v with %v; want 3s, the first renewal, and ErrSessionLost", took, s.Err())
		}
	})
}

func TestSessionOutlivesAnswersThatStayAwayForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		k := &fakeKeeper{answer: func(context.Context) error {
			if d := time.Since(start); d > 3*time.Second && d < 8*time.Second {
				return status.Error(codes.Unavailable, "etcdserver: no leader")
			}
			return nil
		}}
		s := openSession(t, k, since(start), WithTTL(9*time.Second))
		time.Sleep(time.Minute)
		if err := s.Err(); err != nil {
			t.Error(err)
		}
	})
}

// An overloaded cluster answers, but late: to give a renewal up and ask again
// would put it at the end of the line each time.
func TestSessionLivesOnAnswersThatTakeHalfItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKeeper{answer: func(ctx context.Context) error { return wait(ctx, 4*time.Second, nil) }}
		s := openSession(t, k, since(time.Now()), WithTTL(9*time.Second))
		time.Sleep(time.Minute)
		if err := s.Err(); err != nil {
			t.Error(err)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if n := len(k.renewed); n > 46 {
			t.Errorf("%d renewals in a minute; want no flood: two or three beside each other", n)
		}
	})
}

func TestGrantOfUnknownOutcomeIsRepeatedUnderTheSameID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKeeper{grants: []error{ErrUnknownOutcome, ErrLeaseExists}}
		s := openSession(t, k, since(time.Now()))
		if len(k.ids) != 2 || k.ids[0] != k.ids[1] || s.Lease() != k.ids[0] || k.ids[0] <= 0 {
			t.Errorf("granted under %v, session has %d; want one id", k.ids, s.Lease())
		}
		k = &fakeKeeper{grants: []error{ErrLeaseExists}}
		if _, err := newSession(t.Context(), nil, k, nil, since(time.Now()), nil); !errors.Is(err, ErrLeaseExists) {
			t.Errorf("lease of somebody else: got %v; want ErrLeaseExists", err)
		}
	})
}

func TestCloseRevokesUntilTheOutcomeIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKeeper{revoked: []error{ErrUnknownOutcome, ErrUnknownOutcome, ErrLeaseNotFound, errors.New("called once more")}}
		s := openSession(t, k, since(time.Now()))
		for range 2 {
			if err := s.Close(t.Context()); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		if cause := context.Cause(s.Context()); !errors.Is(cause, ErrSessionClosed) {
			t.Errorf("cause %v; want ErrSessionClosed", cause)
		}
	})
}

func TestOrphanLeavesTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKeeper{revoked: []error{errors.New("revoked")}, ttl: 5 * time.Second}
		s := openSession(t, k, since(time.Now()), WithSessionLease(42))
		if s.Lease() != 42 || s.TTL() != 5*time.Second {
			t.Errorf("lease %d with TTL %v; want 42 and 5s", s.Lease(), s.TTL())
		}
		s.Orphan()
		if err := s.Close(t.Context()); err != nil || !errors.Is(s.Err(), ErrSessionClosed) {
			t.Errorf("close after orphan: %v, session %v", err, s.Err())
		}
	})
}

func TestSessionRefusesATTLBelowASecond(t *testing.T) {
	if _, err := newSession(t.Context(), nil, nil, nil, nil, []SessionOption{WithTTL(time.Millisecond)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v; want ErrInvalid", err)
	}
}
