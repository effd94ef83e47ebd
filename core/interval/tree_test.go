package interval

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
)

func (t *Tree[V]) check(tb testing.TB) {
	tb.Helper()
	n := 0
	var walk func(*node[V]) (height int, end string, open bool)
	walk = func(x *node[V]) (int, string, bool) {
		if x == nil {
			return 0, "", false
		}
		n++
		lh, le, lo := walk(x.left)
		rh, re, ro := walk(x.right)
		if d := lh - rh; d < -1 || d > 1 {
			tb.Fatalf("unbalanced at %+v: %d and %d", x.h.Range, lh, rh)
		}
		h, e, o := 1+max(lh, rh), max(x.h.Range.end, le, re), x.h.Range.open || lo || ro
		if h != x.height || e != x.maxEnd || o != x.maxOpen {
			tb.Fatalf("stale node %+v: height %d want %d, end %q want %q, open %v want %v", x.h.Range, x.height, h, x.maxEnd, e, x.maxOpen, o)
		}
		return h, e, o
	}
	walk(t.root)
	if n != t.Len() {
		tb.Fatalf("tree has %d nodes, says %d", n, t.Len())
	}
}

func randomKey(rng *rand.Rand) []byte {
	b := make([]byte, rng.Intn(4))
	for i := range b {
		b[i] = "\x00ab\xff"[rng.Intn(4)]
	}
	return b
}

func randomRange(rng *rand.Rand) Range {
	switch rng.Intn(4) {
	case 0:
		return Point(randomKey(rng))
	case 1:
		return From(randomKey(rng))
	default:
		return Span(randomKey(rng), randomKey(rng))
	}
}

// naive is the same answer by looking at everything.
func naive(hs []*Handle[int], keep func(Range) bool) []int {
	hs = slices.Clone(hs)
	slices.SortFunc(hs, func(a, b *Handle[int]) int { return a.compare(b) })
	out := []int{}
	for _, h := range hs {
		if keep(h.Range) {
			out = append(out, h.Value)
		}
	}
	return out
}

func TestVisitsAgreeWithLookingAtEveryRange(t *testing.T) {
	for seed := range int64(30) {
		rng := rand.New(rand.NewSource(seed))
		var tree Tree[int]
		var hs []*Handle[int]
		for step := range 400 {
			if len(hs) > 0 && rng.Intn(5) < 2 {
				i := rng.Intn(len(hs))
				h := hs[i]
				if !tree.Delete(h) || tree.Delete(h) {
					t.Fatalf("seed %d step %d: delete must succeed exactly once", seed, step)
				}
				hs = slices.Delete(hs, i, i+1)
			} else {
				hs = append(hs, tree.Insert(randomRange(rng), step))
			}
			tree.check(t)
			key, r := randomKey(rng), randomRange(rng)
			got := []int{}
			tree.VisitPoint(key, func(h *Handle[int]) bool { got = append(got, h.Value); return true })
			if want := naive(hs, func(x Range) bool { return x.Contains(key) }); !slices.Equal(got, want) {
				t.Fatalf("seed %d step %d: point %q: got %v, want %v", seed, step, key, got, want)
			}
			got = got[:0]
			tree.Visit(r, func(h *Handle[int]) bool { got = append(got, h.Value); return true })
			if want := naive(hs, func(x Range) bool { return x.Overlaps(r) }); !slices.Equal(got, want) {
				t.Fatalf("seed %d step %d: range %+v: got %v, want %v", seed, step, r, got, want)
			}
			if tree.Intersects(r) != (len(got) > 0) {
				t.Fatalf("seed %d step %d: Intersects(%+v) disagrees with %v", seed, step, r, got)
			}
		}
		got := []int{}
		tree.All(func(h *Handle[int]) bool { got = append(got, h.Value); return true })
		if want := naive(hs, func(Range) bool { return true }); !slices.Equal(got, want) {
			t.Fatalf("seed %d: all: got %v, want %v", seed, got, want)
		}
	}
}

func TestOverlapMeansASharedKey(t *testing.T) {
	// Every key up to three bytes of a small alphabet, plus successors, is enough to witness any overlap of the
	// ranges randomRange makes.
	var keys [][]byte
	for _, a := range []string{"", "\x00", "a", "b", "\xff"} {
		for _, b := range []string{"", "\x00", "a", "b", "\xff"} {
			for _, c := range []string{"", "\x00", "a", "b", "\xff"} {
				for _, d := range []string{"", "\x00", "\xff\xff"} {
					keys = append(keys, []byte(a+b+c+d))
				}
			}
		}
	}
	rng := rand.New(rand.NewSource(1))
	for range 3000 {
		a, b := randomRange(rng), randomRange(rng)
		shared, covered := false, true
		for _, k := range keys {
			shared = shared || a.Contains(k) && b.Contains(k)
			covered = covered && (a.Contains(k) || !b.Contains(k))
		}
		if a.Overlaps(b) != shared || b.Overlaps(a) != shared {
			t.Fatalf("%+v and %+v: overlap %v, want %v", a, b, a.Overlaps(b), shared)
		}
		if a.Covers(b) && !covered {
			t.Fatalf("%+v says it covers %+v", a, b)
		}
	}
}

func TestOfReadsEtcdsRequestFields(t *testing.T) {
	for _, c := range []struct {
		key, end string
		in, out  string // space separated keys
	}{
		{"a", "", "a", "b aa A"},
		{"a", "c", "a b bz", "c d A"},
		{"b", "\x00", "b c zz", "a"},
		{"\x00", "\x00", "a b", ""},
		{"c", "a", "", "a b c d"},
		{"a", "a", "", "a"},
	} {
		r := Of([]byte(c.key), []byte(c.end))
		for _, k := range strings.Fields(c.in) {
			if !r.Contains([]byte(k)) {
				t.Errorf("(%q, %q) must contain %q", c.key, c.end, k)
			}
		}
		for _, k := range strings.Fields(c.out) {
			if r.Contains([]byte(k)) {
				t.Errorf("(%q, %q) must not contain %q", c.key, c.end, k)
			}
		}
	}
}

func TestVisitStopsWhenToldTo(t *testing.T) {
	var tree Tree[int]
	for i := range 100 {
		tree.Insert(From(nil), i)
	}
	n := 0
	tree.VisitPoint([]byte("k"), func(*Handle[int]) bool { n++; return n < 7 })
	tree.Visit(From(nil), func(*Handle[int]) bool { n++; return n < 14 })
	tree.All(func(*Handle[int]) bool { n++; return n < 21 })
	if n != 21 {
		t.Fatalf("visited %d, want 21", n)
	}
}

func TestHandleOfAnotherTreeIsRefused(t *testing.T) {
	var a, b Tree[int]
	h := a.Insert(Point([]byte("k")), 1)
	if b.Delete(h) || b.Delete(nil) || a.Len() != 1 {
		t.Fatal("a foreign or nil handle must be refused")
	}
}

func ExampleTree() {
	var watchers Tree[string]
	watchers.Insert(Point([]byte("jobs/7")), "one key")
	watchers.Insert(Span([]byte("jobs/"), []byte("jobs0")), "prefix")
	h := watchers.Insert(From([]byte("a")), "from a")
	show := func(h *Handle[string]) bool { fmt.Println(h.Value); return true }
	watchers.VisitPoint([]byte("jobs/7"), show)
	watchers.Delete(h)
	fmt.Println("--")
	watchers.VisitPoint([]byte("jobs/8"), show)
	// Output:
	// from a
	// prefix
	// one key
	// --
	// prefix
}

func BenchmarkVisitPoint(b *testing.B) {
	var tree Tree[int]
	keys := make([][]byte, 10000)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "/services/%06d", i)
		tree.Insert(Point(keys[i]), i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		tree.VisitPoint(keys[i%len(keys)], func(*Handle[int]) bool { return true })
	}
}
