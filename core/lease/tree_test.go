package lease

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
)

// checkTree verifies the invariant stated at tree.
func checkTree(t *testing.T, tr *tree[int]) {
	t.Helper()
	leafDepth := -1
	var walk func(n *node[int], depth int)
	walk = func(n *node[int], depth int) {
		if n != tr.root && len(n.items) < minItems || len(n.items) > maxItems {
			t.Fatalf("a node holds %d items", len(n.items))
		}
		if n.children == nil {
			if leafDepth >= 0 && leafDepth != depth {
				t.Fatal("leaves at different depths")
			}
			leafDepth = depth
			return
		}
		if len(n.children) != len(n.items)+1 {
			t.Fatalf("%d items but %d children", len(n.items), len(n.children))
		}
		for _, c := range n.children {
			walk(c, depth+1)
		}
	}
	if tr.root != nil {
		walk(tr.root, 0)
	}
}

func contents(f frozen[int]) []int {
	var out []int
	f.all(func(x int) bool { out = append(out, x); return true })
	return out
}

func TestFrozenTreesKeepTheirContentsUnderRandomWrites(t *testing.T) {
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, 0))
	tr := newTree(cmp.Compare[int])
	model := map[int]bool{}
	type version struct {
		f    frozen[int]
		want []int
	}
	var versions []version
	sorted := func() []int {
		out := make([]int, 0, len(model))
		for x := range model {
			out = append(out, x)
		}
		slices.Sort(out)
		return out
	}
	for i := range 40_000 {
		x := rng.IntN(3000)
		// Grow first, shrink in the middle, grow again: all rebalancing happens.
		shrink := i/10_000%2 == 1
		if rng.IntN(10) < 3 == shrink {
			tr.insert(x)
			model[x] = true
		} else {
			if got := tr.remove(x); got != model[x] {
				t.Fatalf("step %d: remove(%d) = %v, want %v", i, x, got, model[x])
			}
			delete(model, x)
		}
		if tr.count != len(model) {
			t.Fatalf("step %d: count %d, want %d", i, tr.count, len(model))
		}
		if i%1000 == 0 {
			checkTree(t, tr)
			versions = append(versions, version{tr.freeze(), sorted()})
		}
	}
	for i, v := range versions {
		if got := contents(v.f); !slices.Equal(got, v.want) {
			t.Fatalf("version %d changed after it was frozen", i)
		}
	}
	f := tr.freeze()
	want := sorted()
	for x := range 3000 {
		if _, ok := f.get(x); ok != model[x] {
			t.Fatalf("get(%d) = %v", x, ok)
		}
		var got []int
		f.ascend(x, func(y int) bool { got = append(got, y); return len(got) < 5 })
		i, _ := slices.BinarySearch(want, x)
		if !slices.Equal(got, want[i:min(i+5, len(want))]) {
			t.Fatalf("ascend from %d: got %v", x, got)
		}
	}
}
