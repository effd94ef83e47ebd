package mvcc

import (
	"fmt"
	"math/rand"
	"runtime"
	"testing"
)

// One write in a hundred is to a key that stays, the others overwrite a few: freeing only chunks that are wholly dead
// would keep nearly everything.
func TestMemoryStaysWithinTwiceTheLivingWhenFewWritesLast(t *testing.T) {
	s := New()
	s.h.size = 16 << 10
	value := make([]byte, 100)
	for i := range 100_000 {
		tx := s.Begin()
		if i%100 == 0 {
			tx.Put(fmt.Appendf(nil, "stays/%d", i), value, 0)
		} else {
			tx.Put(fmt.Appendf(nil, "hot/%d", i%7), value, 0)
		}
		tx.Commit()
		if i%2000 == 1999 {
			if err := s.Compact(s.Rev()); err != nil {
				t.Fatal(err)
			}
			for s.CompactStep(200) {
			}
			checkMemory(t, s)
		}
	}
	s.verify(t)
	size := 0
	for _, c := range s.h.sealed {
		size += cap(c.buf)
	}
	// A thousand long-lived records of about 150 bytes.
	if living := int(s.Bytes()); size > 2*living+2*s.h.size || len(s.h.sealed) > 4+4*living/s.h.size {
		t.Fatalf("%d bytes in %d chunks for %d living", size, len(s.h.sealed), living)
	}
}

func TestValuesOfAnySizeAreStoredAndFreed(t *testing.T) {
	rng := rand.New(rand.NewSource(3))
	s := New()
	for round := range 20 {
		for i, n := range []int{0, 1, 127, 128, 4096, chunkSize / 8, chunkSize/8 + 1, chunkSize / 2, chunkSize - 40, chunkSize, chunkSize + 1, 3 * chunkSize} {
			value := make([]byte, n)
			rng.Read(value[:min(n, 64)])
			tx := s.Begin()
			tx.Put(fmt.Appendf(nil, "k%d", i), value, 0)
			tx.Commit()
			r, ok := s.Publish().Get(fmt.Appendf(nil, "k%d", i))
			if !ok || string(r.Value()) != string(value) {
				t.Fatalf("round %d: value of %d bytes came back as %d", round, n, len(r.Value()))
			}
		}
		if err := s.Compact(s.Rev()); err != nil {
			t.Fatal(err)
		}
		for s.CompactStep(5) {
		}
		checkMemory(t, s)
	}
	s.verify(t)
}

// A new store, and one with a handful of keys, must be small: a simulator runs thousands.
func TestSmallStoreIsSmall(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	stores := make([]*Store, 100)
	for i := range stores {
		stores[i] = New()
		tx := stores[i].Begin()
		tx.Put([]byte("k"), []byte("v"), 0)
		tx.Commit()
		stores[i].Publish()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if per := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / int64(len(stores)); per > 10<<10 {
		t.Fatalf("a store with one key takes %d bytes", per)
	}
	runtime.KeepAlive(stores)
}

func TestReadsOfTheCurrentRevisionAllocateNothingNeedless(t *testing.T) {
	s := filled(2000, podKey)
	v := s.Publish()
	key := podKey(nil, 77)
	if n := testing.AllocsPerRun(100, func() { v.Get(key) }); n != 0 {
		t.Errorf("Get allocates %v times", n)
	}
	tx := s.Begin()
	if n := testing.AllocsPerRun(100, func() { tx.Get(key) }); n != 0 {
		t.Errorf("Get in a transaction allocates %v times", n)
	}
	tx.Commit()
	if n := testing.AllocsPerRun(100, func() { v.Range(RangeOptions{Key: []byte{0}, End: []byte{0}, CountOnly: true}) }); n != 0 {
		t.Errorf("counting allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { v.Range(RangeOptions{Key: []byte{0}, End: []byte{0}, Limit: 100}) }); n != 1 {
		t.Errorf("a page allocates %v times, want only its slice", n)
	}
}
