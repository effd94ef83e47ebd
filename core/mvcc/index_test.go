package mvcc

import (
	"bytes"
	"fmt"
	"math/rand"
	"slices"
	"testing"
)

// orders are ways for keys to arrive; each gives a store of other shape.
var orders = map[string]func(rng *rand.Rand, n int) [][]byte{
	"rising": func(_ *rand.Rand, n int) (ks [][]byte) {
		for i := range n {
			ks = append(ks, fmt.Appendf(nil, "/registry/leases/%08d", i))
		}
		return ks
	},
	"falling": func(_ *rand.Rand, n int) (ks [][]byte) {
		for i := range n {
			ks = append(ks, fmt.Appendf(nil, "/registry/leases/%08d", n-i))
		}
		return ks
	},
	"scattered": func(rng *rand.Rand, n int) (ks [][]byte) {
		for range n {
			k := make([]byte, 1+rng.Intn(12))
			rng.Read(k)
			ks = append(ks, k)
		}
		return ks
	},
	"many streams": func(rng *rand.Rand, n int) (ks [][]byte) {
		for i := range n {
			ks = append(ks, fmt.Appendf(nil, "/jobs/%02d/%x/%d", rng.Intn(40), rng.Intn(3), i))
		}
		return ks
	},
	"each a prefix of the next": func(rng *rand.Rand, n int) (ks [][]byte) {
		for i := range min(n, 700) {
			ks = append(ks, bytes.Repeat([]byte{"\x00a"[i&1]}, i/2+2)) // not "\x00" alone: as an end it means from-key
		}
		rng.Shuffle(len(ks), func(i, j int) { ks[i], ks[j] = ks[j], ks[i] })
		return ks
	},
}

func sorted(live map[string]bool) []string {
	var ks []string
	for k := range live {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}

// checkIndex compares counts, pages and streams of random ranges with a sorted slice.
func checkIndex(t *testing.T, rng *rand.Rand, v *View, live map[string]bool) {
	t.Helper()
	ks := sorted(live)
	for range 50 {
		lo, hi := rng.Intn(len(ks)+1), rng.Intn(len(ks)+1)
		o := RangeOptions{Key: []byte{}, End: []byte{0}, Limit: int64(rng.Intn(200))}
		if lo < len(ks) {
			o.Key = []byte(ks[lo])
		} else {
			lo = 0
		}
		if hi < len(ks) {
			o.End = []byte(ks[hi])
		} else {
			hi = len(ks)
		}
		want := ks[lo:max(lo, hi)]
		if o.Limit%2 == 1 {
			o.Order = OrderDescend
			want = slices.Clone(want)
			slices.Reverse(want)
		}
		r, err := v.Range(o)
		if err != nil || r.Count != int64(len(want)) || r.More != (o.Limit > 0 && int64(len(want)) > o.Limit) {
			t.Fatalf("range %+v: count %d more %v %v, want %d", o, r.Count, r.More, err, len(want))
		}
		if r.More {
			want = want[:o.Limit]
		}
		got := []string{}
		for _, kv := range r.KVs {
			got = append(got, string(kv.Key()))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("range %+v: got %q, want %q", o, got, want)
		}
	}
}

func TestIndexKeepsOrderAndCountsInEveryShape(t *testing.T) {
	for name, order := range orders {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewSource(7))
			s := New()
			live := map[string]bool{}
			keys := order(rng, 12000)
			for i, k := range keys {
				tx := s.Begin()
				tx.Put(k, nil, 0)
				tx.Commit()
				live[string(k)] = true
				if rng.Intn(50) == 0 {
					s.Publish()
				}
				if i%4000 == 0 {
					s.verify(t)
				}
			}
			s.verify(t)
			before, was := s.Publish(), sorted(live)
			checkIndex(t, rng, before, live)

			// Delete in random places and in one long stretch, compact, and the index shrinks to what is left.
			for round := range 3 {
				tx := s.Begin()
				for k := range live {
					if rng.Intn(3) > 0 {
						tx.DeleteRange([]byte(k), nil, nil)
						delete(live, k)
					}
				}
				ks := sorted(live)
				lo, hi := ks[len(ks)/4], ks[len(ks)/2]
				n := tx.DeleteRange([]byte(lo), []byte(hi), func(prev Record) { delete(live, string(prev.Key())) })
				if n != int64(len(ks)/2-len(ks)/4) {
					t.Fatalf("deleted %d, want %d", n, len(ks)/2-len(ks)/4)
				}
				tx.Commit()
				tx = s.Begin()
				tx.Put([]byte("one more"), nil, 0)
				live["one more"] = true
				tx.Commit()
				if err := s.Compact(s.Rev()); err != nil {
					t.Fatal(err)
				}
				for s.CompactStep(500) {
					if rng.Intn(10) == 0 {
						s.Publish()
					}
				}
				s.verify(t)
				if items := s.items(); items != len(live) {
					t.Fatalf("round %d: index holds %d items for %d keys", round, items, len(live))
				}
				checkIndex(t, rng, s.Publish(), live)
				s = reload(t, s)
				s.verify(t)
				checkIndex(t, rng, s.Publish(), live)
			}
			tx := s.Begin()
			tx.DeleteRange(nil, []byte{0}, nil)
			tx.Commit()
			tx = s.Begin()
			tx.Put([]byte("last"), nil, 0)
			tx.DeleteRange([]byte("last"), nil, nil)
			tx.Commit()
			tx = s.Begin()
			tx.Put([]byte("k"), nil, 0)
			tx.Commit()
			if err := s.Compact(s.Rev()); err != nil {
				t.Fatal(err)
			}
			for s.CompactStep(1 << 20) {
			}
			s.verify(t)
			if s.items() != 1 || s.Keys() != 1 {
				t.Fatalf("%d items, %d keys left, want one", s.items(), s.Keys())
			}
			after := map[string]bool{}
			for _, k := range was {
				after[k] = true
			}
			checkIndex(t, rng, before, after)
		})
	}
}

// items counts the index's items, dead ones too.
func (s *Store) items() int {
	n := 0
	var it iterator
	it.seek(&s.h, s.index.root, nil)
	for _, ok := it.next(); ok; _, ok = it.next() {
		n++
	}
	return n
}
