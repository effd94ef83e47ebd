package mvcc

import (
	"encoding/binary"
	"fmt"
	"math/rand"
	"runtime"
	"syscall"
	"testing"
	"time"
)

const million = 1_000_000

func key8(b []byte, i uint64) []byte {
	return binary.BigEndian.AppendUint64(b[:0], i*0x9E3779B97F4A7C15) // scattered, no two alike
}

// cpu reports processor time an operation, collector included: on a shared machine it repeats where wall time doesn't.
func cpu(b *testing.B) func() {
	b.ReportAllocs()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start := used()
	return func() { b.ReportMetric(float64(used()-start)/float64(b.N), "cpu-ns/op") }
}

// filled is a store of n keys of 8 bytes with values of 100, one transaction each, published every 64.
func filled(n int, key func([]byte, uint64) []byte) *Store {
	s := New()
	value := make([]byte, 100)
	var k []byte
	for i := range n {
		k = key(k, uint64(i))
		tx := s.Begin()
		tx.Put(k, value, 0)
		tx.Commit()
		if i%64 == 0 {
			s.Publish()
		}
	}
	return s
}

func podKey(b []byte, i uint64) []byte {
	return fmt.Appendf(b[:0], "/registry/pods/namespace-%03d/deployment-%016x", i%100, i*0x9E3779B97F4A7C15)
}

func BenchmarkMemoryPerKey(b *testing.B) {
	for _, c := range []struct {
		name string
		key  func([]byte, uint64) []byte
	}{
		{"random", key8},
		{"rising", func(b []byte, i uint64) []byte { return binary.BigEndian.AppendUint64(b[:0], i) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				s := filled(million, c.key)
				s.Publish()
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/million, "B/key")
				b.ReportMetric(float64(after.HeapObjects-before.HeapObjects)/million, "objects/key")
				runtime.KeepAlive(s)
			}
		})
	}
}

func BenchmarkStore(b *testing.B) {
	for _, c := range []struct {
		name string
		key  func([]byte, uint64) []byte
	}{{"8B", key8}, {"pods", podKey}} {
		s := filled(million, c.key)
		value := make([]byte, 100)
		next := uint64(million)
		var k []byte
		put := func(i uint64) {
			k = c.key(k, i)
			tx := s.Begin()
			tx.Put(k, value, 0)
			tx.Commit()
		}
		rng := rand.New(rand.NewSource(1))
		for _, every := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/PutNew/publish=%d", c.name, every), func(b *testing.B) {
				defer cpu(b)()
				for i := 0; b.Loop(); i++ {
					put(next)
					next++
					if i%every == 0 {
						s.Publish()
					}
				}
			})
			b.Run(fmt.Sprintf("%s/Overwrite/publish=%d", c.name, every), func(b *testing.B) {
				defer cpu(b)()
				for i := 0; b.Loop(); i++ {
					put(uint64(rng.Intn(million)))
					if i%every == 0 {
						s.Publish()
					}
				}
			})
		}
		v := s.Publish()
		b.Run(c.name+"/Get", func(b *testing.B) {
			defer cpu(b)()
			for b.Loop() {
				k = c.key(k, uint64(rng.Intn(million)))
				if _, ok := v.Get(k); !ok {
					b.Fatal("absent")
				}
			}
		})
		b.Run(c.name+"/Range100", func(b *testing.B) {
			defer cpu(b)()
			for b.Loop() {
				k = c.key(k, uint64(rng.Intn(million)))
				if _, err := v.Range(RangeOptions{Key: k, End: []byte{0}, Limit: 100}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+"/CountAll", func(b *testing.B) {
			defer cpu(b)()
			for b.Loop() {
				if r, _ := v.Range(RangeOptions{End: []byte{0}, CountOnly: true}); r.Count < million {
					b.Fatal(r.Count)
				}
			}
		})
		b.Run(c.name+"/GC", func(b *testing.B) {
			for b.Loop() {
				runtime.GC()
			}
		})
		if err := s.Compact(s.Rev()); err != nil {
			b.Fatal(err)
		}
		for s.CompactStep(1000) {
		}
		v = s.Publish()
		b.Run(c.name+"/GetCompacted", func(b *testing.B) {
			defer cpu(b)()
			for b.Loop() {
				k = c.key(k, uint64(rng.Intn(million)))
				v.Get(k)
			}
		})
		b.Run(c.name+"/HashKV", func(b *testing.B) {
			defer cpu(b)()
			for b.Loop() {
				v.HashKV(0)
			}
		})
		b.Run(c.name+"/Load", func(b *testing.B) {
			defer cpu(b)()
			for b.Loop() {
				l := NewLoader()
				v.Dump(func(main, sub int64, tomb bool, r Record) bool { return l.Add(main, sub, tomb, r) == nil })
				if _, err := l.Finish(v.Rev(), v.CompactRev()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(v.Keys()), "keys")
		})
	}
}

// BenchmarkCompact frees the older half of 400,000 versions in steps of 1,000 and reports the longest step: it is what
// a put may wait for.
func BenchmarkCompact(b *testing.B) {
	const keys = 200_000
	var longest time.Duration
	for b.Loop() {
		b.StopTimer()
		s := filled(keys, key8)
		for i := range uint64(keys) {
			tx := s.Begin()
			tx.Put(key8(nil, i*7919%keys), make([]byte, 100), 0)
			tx.Commit()
		}
		if err := s.Compact(s.Rev()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		for more := true; more; {
			start := time.Now()
			more = s.CompactStep(1000)
			longest = max(longest, time.Since(start))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/keys, "ns/freed")
	b.ReportMetric(float64(longest.Microseconds()), "longest-step-us")
}
