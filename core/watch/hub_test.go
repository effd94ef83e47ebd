package watch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/mvcc"
)

// event makes a put that no store knows of.
func event(t testing.TB, rev int64, key, value string) mvcc.Event {
	t.Helper()
	b, err := proto.Marshal(&mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), CreateRevision: 2, ModRevision: rev, Version: rev - 1})
	if err != nil {
		t.Fatal(err)
	}
	return mvcc.Event{Rev: rev, KV: b}
}

func TestOneEncodingIsSharedByAllWatchers(t *testing.T) {
	s := newStore(t, Config{})
	st := s.hub.NewStream()
	for _, prev := range []bool{false, true, false, true} {
		st.Watch(Request{Key: []byte("k"), PrevKV: prev})
	}
	s.put("k", "1")
	s.put("k", "2")
	got := map[*byte]int{}
	for {
		r, ok, err := st.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		for _, e := range r.Events {
			got[&e.Wire[0]]++
		}
	}
	counts := map[int]int{}
	for _, n := range got {
		counts[n]++
	}
	// The first put has no previous pair: one form for all four. The second has two.
	if counts[4] != 1 || counts[2] != 2 || len(got) != 3 {
		t.Errorf("encodings by number of watchers: %v, want one for four watchers and two for two each", counts)
	}
}

func TestNextWaitsForAnEventAndEndsWithContextStreamAndHub(t *testing.T) {
	s := newStore(t, Config{})
	results := make(chan string)
	next := func(ctx context.Context, st *Stream) {
		r, err := st.Next(ctx)
		if err != nil {
			results <- err.Error()
		} else {
			results <- show(t, r)
		}
	}
	expect := func(want string) {
		t.Helper()
		if got := <-results; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	st := s.hub.NewStream()
	go next(t.Context(), st)
	st.Watch(Request{Key: []byte("k")})
	expect("id=0 rev=1 created")

	go next(t.Context(), st)
	s.put("k", "1")
	expect("id=0 rev=2\n  2 put k=1")

	ctx, cancel := context.WithCancel(t.Context())
	go next(ctx, st)
	cancel()
	expect("context canceled")

	go next(t.Context(), st)
	st.Close()
	st.Close()
	expect(ErrClosed.Error())

	st = s.hub.NewStream()
	go next(t.Context(), st)
	s.hub.Close()
	expect(ErrClosed.Error())

	go next(t.Context(), s.hub.NewStream())
	expect(ErrClosed.Error())
}

func TestClientThatAsksWithoutReadingIsHeldBack(t *testing.T) {
	s := newStore(t, Config{})
	st := s.hub.NewStream()
	for range maxControls {
		if err := st.Admit(t.Context()); err != nil {
			t.Fatal(err)
		}
		st.Cancel(-7) // unknown: no answer, no room taken
		st.Watch(Request{Key: []byte("k")})
	}
	held := make(chan error)
	go func() { held <- st.Admit(t.Context()) }()
	select {
	case err := <-held:
		t.Fatalf("admitted past %d unread answers: %v", maxControls, err)
	default:
	}
	if _, err := st.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-held; err != nil {
		t.Fatalf("not admitted with room for one: %v", err)
	}
	st.Watch(Request{Key: []byte("k")})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { held <- st.Admit(ctx) }()
	cancel()
	if err := <-held; !errors.Is(err, context.Canceled) {
		t.Fatalf("held back until canceled: %v", err)
	}
	go func() { held <- st.Admit(t.Context()) }()
	st.Close()
	if err := <-held; !errors.Is(err, ErrClosed) {
		t.Fatalf("held back until closed: %v", err)
	}
}

func TestTicksDoNotPileUpForAClientThatDoesNotRead(t *testing.T) {
	s := newStore(t, Config{})
	st := s.hub.NewStream()
	st.Watch(Request{Key: []byte("k"), Progress: true})
	for range 1000 {
		st.Tick()
	}
	n := 0
	for {
		_, ok, err := st.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d responses wait, want created and one progress", n)
	}
}

func TestNotifyRefusesToGoBackOrRepeat(t *testing.T) {
	for name, f := range map[string]func(*Hub){
		"repeated":     func(h *Hub) { h.Notify(5, []mvcc.Event{event(t, 5, "k", "")}) },
		"beyond":       func(h *Hub) { h.Notify(6, []mvcc.Event{event(t, 7, "k", "")}) },
		"back":         func(h *Hub) { h.Notify(4, nil) },
		"reset back":   func(h *Hub) { h.Reset(4) },
		"view too old": func(h *Hub) { s := h.NewStream(); s.Watch(Request{StartRev: 1}); _, _, _ = s.Poll(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			old := mvcc.New().Publish()
			h := NewHub(5, func() *mvcc.View { return old }, Config{})
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			f(h)
		})
	}
}

func TestWatcherThatDoesNotReadCostsItsBudgetAndNoMore(t *testing.T) {
	const (
		budget = 1 << 20
		value  = 1000
		events = 32 << 10
	)
	// The view must never be asked for: nobody pulls.
	h := NewHub(1, func() *mvcc.View { panic("history was read") }, Config{StreamBudget: budget})
	st := h.NewStream()
	st.Watch(Request{Key: []byte("a"), End: []byte{0}})
	before := heap()
	pad := strings.Repeat("x", value)
	for i := range int64(events) {
		h.Notify(i+2, []mvcc.Event{event(t, i+2, fmt.Sprint("k", i), pad)})
	}
	grown := heap() - before
	t.Logf("%d MiB written, heap grew by %d KiB for a budget of %d KiB", events*value>>20, grown>>10, budget>>10)
	if grown > budget+budget/2 {
		t.Errorf("heap grew by %d bytes for a budget of %d", grown, budget)
	}
	if s := h.Stats(); s.Behind != 1 || s.PendingEvents*value > budget {
		t.Errorf("after the flood: %+v", s)
	}
	runtime.KeepAlive(st)
}

func TestReadingHistoryHoldsNoMoreThanItsShareOfTheBudget(t *testing.T) {
	s := newStore(t, Config{StreamBudget: 64 << 10})
	for i := range 2000 {
		s.put(fmt.Sprint("k", i%10), strings.Repeat("x", 1000))
	}
	st := s.hub.NewStream()
	st.Watch(Request{Key: []byte("k"), End: []byte{0}, StartRev: 2})
	got, most := 0, int64(0)
	for {
		r, ok, err := st.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		got += len(r.Events)
		most = max(most, s.hub.Stats().PendingEvents+int64(len(r.Events)))
	}
	if got != 2000 || most*1000 > 20<<10 {
		t.Errorf("got %d events of 2000, up to %d at once with room for 16 KiB", got, most)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestConcurrentStreamsGetEverythingOnce has a writer, readers of different
// haste and watchers that come and go, all at once; small budgets make them fall
// behind and catch up all the time.
func TestConcurrentStreamsGetEverythingOnce(t *testing.T) {
	const readers, revisions = 8, 4000
	s := newStore(t, Config{StreamBudget: 8 << 10})
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 2))
			st := s.hub.NewStream()
			defer st.Close()
			st.Watch(Request{Key: []byte("k"), End: []byte{0}, StartRev: 2, PrevKV: i%2 == 0})
			seen, extra := int64(1), int64(0)
			for seen < revisions+1 {
				r, err := st.Next(t.Context())
				switch {
				case err != nil:
					t.Errorf("reader %d at %d: %v", i, seen, err)
					return
				case r.WatchID == InvalidID && r.Rev > seen:
					t.Errorf("reader %d: progress %d at %d", i, r.Rev, seen)
					return
				case r.WatchID != 0:
					continue
				}
				for _, e := range r.Events {
					if e.Rev != seen+1 {
						t.Errorf("reader %d got revision %d after %d", i, e.Rev, seen)
						return
					}
					seen = e.Rev
				}
				if i == 0 {
					for range rng.IntN(50) {
						runtime.Gosched()
					}
				}
				switch rng.IntN(8) {
				case 0:
					st.Cancel(max(1, extra))
					extra++
					st.Watch(Request{ID: extra, Key: []byte("k1"), StartRev: max(0, seen-rng.Int64N(20))})
				case 1:
					st.RequestProgress()
				}
			}
		})
	}
	for i := range revisions {
		s.commit(op{key: fmt.Sprint("k", i%7), value: strings.Repeat("v", i%300)})
		if i%(1+i%5) == 0 || i == revisions-1 {
			s.notify()
		}
		if i%500 == 499 {
			s.reset()
		}
	}
	wg.Wait()
	s.notify()
	if st := s.hub.Stats(); st.Watchers != 0 || st.Streams != 0 || st.Behind != 0 || st.PendingEvents != 0 {
		t.Errorf("after all closed: %+v", st)
	}
	t.Logf("%+v", s.hub.Stats())
}
