package watch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/musterhq/muster/core/mvcc"
)

// BenchmarkFanOut is one event for a thousand watchers, each on a stream of its
// own: Notify alone, and with the responses pulled by the same goroutine.
func BenchmarkFanOut(b *testing.B) {
	const watchers = 1000
	for _, streams := range []int{watchers, 1} {
		for _, prefix := range []bool{false, true} {
			name := fmt.Sprintf("streams=%d/range=%t", streams, prefix)
			setup := func(b *testing.B) (*Hub, []*Stream) {
				h := NewHub(1, func() *mvcc.View { panic("fell behind") }, Config{StreamBudget: 64 << 20})
				b.Cleanup(h.Close)
				ss := make([]*Stream, streams)
				for i := range ss {
					ss[i] = h.NewStream()
				}
				for i := range watchers {
					r := Request{Key: []byte("key")}
					if prefix {
						r.End = []byte("kez")
					}
					ss[i%streams].Watch(r)
				}
				drain(b, ss)
				return h, ss
			}
			b.Run(name+"/pull", func(b *testing.B) {
				h, ss := setup(b)
				ev := event(b, 2, "key", strings.Repeat("v", 256))
				b.ReportAllocs()
				rev := int64(1)
				for b.Loop() {
					rev++
					ev.Rev = rev
					h.Notify(rev, []mvcc.Event{ev})
					drain(b, ss)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/watchers, "ns/delivery")
			})
			b.Run(name+"/notify", func(b *testing.B) {
				h, ss := setup(b)
				ev := event(b, 2, "key", strings.Repeat("v", 256))
				b.ReportAllocs()
				for i := range b.N {
					ev.Rev = int64(i) + 2
					h.Notify(ev.Rev, []mvcc.Event{ev})
					if i%64 == 0 {
						b.StopTimer()
						drain(b, ss)
						b.StartTimer()
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/watchers, "ns/delivery")
			})
		}
	}
}

func drain(b *testing.B, ss []*Stream) {
	for _, s := range ss {
		for {
			_, ok, err := s.Poll(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			if !ok {
				break
			}
		}
	}
}

// BenchmarkFanOutToGoroutines is the same with a goroutine waiting in Next for
// each stream, as the rpc layer has.
func BenchmarkFanOutToGoroutines(b *testing.B) {
	const watchers = 1000
	h := NewHub(1, func() *mvcc.View { panic("fell behind") }, Config{})
	var got, done sync.WaitGroup
	for range watchers {
		s := h.NewStream()
		s.Watch(Request{Key: []byte("key")})
		got.Add(1)
		done.Go(func() {
			for {
				r, err := s.Next(context.Background())
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					b.Error(err)
				}
				got.Add(-max(len(r.Events), 1))
			}
		})
	}
	got.Wait()
	ev := event(b, 2, "key", strings.Repeat("v", 256))
	b.ReportAllocs()
	rev := int64(1)
	for b.Loop() {
		rev++
		ev.Rev = rev
		got.Add(watchers)
		h.Notify(rev, []mvcc.Event{ev})
		got.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/watchers, "ns/delivery")
	h.Close()
	done.Wait()
}

// BenchmarkNotifyUnwatched is what an event costs that nobody watches, beside
// ten thousand watchers of other keys and ranges.
func BenchmarkNotifyUnwatched(b *testing.B) {
	h := NewHub(1, func() *mvcc.View { panic("fell behind") }, Config{})
	defer h.Close()
	s := h.NewStream()
	for i := range 10000 {
		r := Request{Key: fmt.Appendf(nil, "w%05d", i)}
		if i%2 == 0 {
			r.End = fmt.Appendf(nil, "w%05d/", i)
		}
		s.Watch(r)
	}
	ev := event(b, 2, "key", strings.Repeat("v", 256))
	b.ReportAllocs()
	rev := int64(1)
	for b.Loop() {
		rev++
		ev.Rev = rev
		h.Notify(rev, []mvcc.Event{ev})
	}
}

// BenchmarkHistory is catch-up: a thousand events of 256 bytes, per event.
func BenchmarkHistory(b *testing.B) {
	s := newBenchStore(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		st := s.hub.NewStream()
		st.Watch(Request{Key: []byte("k"), End: []byte{0}, StartRev: 2})
		drain(b, []*Stream{st})
		st.Close()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/event")
}

func newBenchStore(b *testing.B, revisions int) *store {
	s := newStore(b, Config{})
	for i := range revisions {
		s.put(fmt.Sprint("k", i%100), strings.Repeat("v", 256))
	}
	return s
}
