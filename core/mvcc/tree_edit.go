package mvcc

import "slices"

// tree is the writer's side of the index. Nodes of its own epoch it changes in place, older ones it copies first.
type tree struct {
	root  *node
	epoch uint64
	// The way down that seek took; every node on it is the tree's own.
	path  [maxHeight]step
	depth int
}

func newTree() tree { return tree{root: &node{epoch: 1}, epoch: 1} }

// freeze hands out the root as it is; whatever is under it will not be changed any more. O(1).
func (t *tree) freeze() *node {
	t.epoch++
	return t.root
}

func (t *tree) own(nd *node) *node {
	if nd.epoch == t.epoch {
		return nd
	}
	c := *nd
	c.epoch = t.epoch
	if nd.kids != nil {
		kids := *nd.kids
		c.kids = &kids
	}
	return &c
}

// seek goes down to where key is or belongs, making the way its own.
func (t *tree) seek(h *history, key []byte) (leaf *node, pos int, found, fits bool) {
	t.root = t.own(t.root)
	leaf, t.depth = t.root, 0
	for leaf.kids != nil {
		i := leaf.child(key)
		kid := leaf.kids[i]
		if kid.epoch != t.epoch {
			kid = t.own(kid)
			leaf.kids[i] = kid
		}
		t.path[t.depth] = step{leaf, i}
		t.depth++
		leaf = kid
	}
	pos, found, fits = leaf.search(h, key)
	return leaf, pos, found, fits
}

// count adds d live keys to the way seek took.
func (t *tree) count(d int) {
	for _, s := range t.path[:t.depth] {
		s.nd.refs[s.i] += uint64(d)
	}
}

// insert puts a new live key, whose record is stored already, where seek said it belongs.
func (t *tree) insert(h *history, leaf *node, pos int, fits bool, key []byte, ref uint64) {
	if leaf.n < fan {
		leaf.put(h, pos, fits, key, ref)
		t.count(+1)
		return
	}
	right := &node{epoch: t.epoch}
	if pos == fan {
		// Keys that rise leave full leaves behind them. The last two keys are a good guess at the prefix to come.
		last := h.newest(leaf.refs[fan-1]).key()
		right.skip = uint32(commonPrefix(last, key))
		right.parts[0], right.refs[0], right.n = keyPart(key, int(right.skip)), ref, 1
	} else {
		copy(right.parts[:], leaf.parts[fan/2:])
		right.n = uint32(copy(right.refs[:], leaf.refs[fan/2:]))
		leaf.n = fan / 2
		right.skip = leaf.skip
		leaf.deepen(h)
		right.deepen(h)
		half, at := leaf, pos
		if pos > fan/2 {
			half, at = right, pos-fan/2
		}
		half.put(h, at, fits && half.has(h, key), key, ref)
	}
	sep := separator(h.newest(leaf.refs[leaf.n-1]).key(), h.newest(right.refs[0]).key())
	t.insertKid(leaf, right, sep)
}

// insertKid adds right after left, the kid seek went through, and corrects the counts of live keys above.
func (t *tree) insertKid(left, right *node, sep string) {
	for d := t.depth - 1; d >= 0; d-- {
		nd, i := t.path[d].nd, t.path[d].i
		nd.refs[i] = left.live()
		if nd.n < fan {
			nd.putKid(i+1, right, sep)
			for _, s := range t.path[:d] {
				s.nd.refs[s.i]++
			}
			return
		}
		up := &node{epoch: t.epoch, kids: new([fan]*node)}
		if i+1 == fan {
			up.kids[0], up.refs[0], up.n = right, right.live(), 1
			up.seps = make([]string, 1)
			left, right = nd, up
			continue
		}
		const m = fan / 2
		up.n = uint32(copy(up.kids[:], nd.kids[m:]))
		copy(up.refs[:], nd.refs[m:])
		up.seps = slices.Clone(nd.seps[m:])
		promoted := up.seps[0]
		nd.n = m
		clear(nd.kids[m:])
		nd.seps = slices.Clone(nd.seps[:m])
		if i+1 <= m {
			nd.putKid(i+1, right, sep)
			up.resplit()
		} else {
			up.putKid(i+1-m, right, sep)
			nd.resplit()
		}
		left, right, sep = nd, up, promoted
	}
	root := &node{epoch: t.epoch, kids: new([fan]*node), n: 2, seps: []string{"", sep}}
	root.kids[0], root.kids[1] = left, right
	root.refs[0], root.refs[1] = left.live(), right.live()
	root.resplit()
	t.root = root
}

// remove takes out the item seek found. Invariant: it isn't live, so no count changes.
func (t *tree) remove(h *history, leaf *node, pos int) {
	copy(leaf.parts[pos:], leaf.parts[pos+1:leaf.n])
	copy(leaf.refs[pos:], leaf.refs[pos+1:leaf.n])
	leaf.n--
	for d := t.depth - 1; d >= 0; d-- {
		nd, i := t.path[d].nd, t.path[d].i
		kid := nd.kids[i]
		switch {
		case kid.n == 0:
			nd.dropKid(i)
			continue
		case kid.n >= fan/4:
			return
		case i+1 < int(nd.n) && kid.n+nd.kids[i+1].n <= fan*3/4:
		case i > 0 && kid.n+nd.kids[i-1].n <= fan*3/4:
			i--
		default:
			return
		}
		left := t.own(nd.kids[i])
		nd.kids[i] = left
		left.absorb(h, nd.kids[i+1], nd.seps[i+1])
		nd.refs[i] += nd.refs[i+1]
		nd.dropKid(i + 1)
	}
	for t.root.kids != nil && t.root.n <= 1 {
		if t.root.n == 0 {
			t.root = &node{epoch: t.epoch}
			return
		}
		t.root = t.root.kids[0]
	}
}

// put inserts into a leaf that has room.
func (nd *node) put(h *history, pos int, fits bool, key []byte, ref uint64) {
	switch {
	case nd.n == 0:
		nd.skip = 0
	case !fits:
		nd.reskip(h, commonPrefix(key, h.newest(nd.refs[0]).key()[:nd.skip]))
	}
	copy(nd.parts[pos+1:], nd.parts[pos:nd.n])
	copy(nd.refs[pos+1:], nd.refs[pos:nd.n])
	nd.parts[pos], nd.refs[pos] = keyPart(key, int(nd.skip)), ref
	nd.n++
}

// has reports whether key shares the leaf's common prefix.
func (nd *node) has(h *history, key []byte) bool {
	return commonPrefix(key, h.newest(nd.refs[0]).key()[:nd.skip]) == int(nd.skip)
}

// prefix is the length of the prefix a leaf's keys share.
func (nd *node) prefix(h *history) int {
	if nd.n < 2 {
		return 0
	}
	return commonPrefix(h.newest(nd.refs[0]).key(), h.newest(nd.refs[nd.n-1]).key())
}

// deepen lengthens the skipped prefix to all that the leaf's keys share; the parts are right as they are.
func (nd *node) deepen(h *history) {
	if p := nd.prefix(h); p > int(nd.skip) {
		nd.reskip(h, p)
	}
}

// rekey sets skip and parts of a leaf that has items with any parts.
func (nd *node) rekey(h *history) { nd.reskip(h, nd.prefix(h)) }

// reskip sets the prefix length and takes all parts anew.
func (nd *node) reskip(h *history, skip int) {
	nd.skip = uint32(skip)
	for i, ref := range nd.refs[:nd.n] {
		nd.parts[i] = keyPart(h.newest(ref).key(), skip)
	}
}

// absorb appends right's items to nd's; sep is the separator between the two.
func (nd *node) absorb(h *history, right *node, sep string) {
	n := int(nd.n)
	copy(nd.refs[n:], right.refs[:right.n])
	nd.n += right.n
	if nd.kids == nil {
		nd.rekey(h)
		return
	}
	copy(nd.kids[n:], right.kids[:right.n])
	nd.seps = slices.Concat(nd.seps[:n], []string{sep}, right.seps[1:])
	nd.resplit()
}

// putKid inserts a child with its separator into an inner node that has room.
func (nd *node) putKid(i int, kid *node, sep string) {
	copy(nd.kids[i+1:], nd.kids[i:nd.n])
	copy(nd.refs[i+1:], nd.refs[i:nd.n])
	nd.kids[i], nd.refs[i] = kid, kid.live()
	nd.seps = slices.Concat(nd.seps[:i], []string{sep}, nd.seps[i:])
	nd.n++
	nd.resplit()
}

func (nd *node) dropKid(i int) {
	copy(nd.kids[i:], nd.kids[i+1:nd.n])
	copy(nd.refs[i:], nd.refs[i+1:nd.n])
	nd.n--
	nd.kids[nd.n] = nil
	nd.seps = slices.Concat(nd.seps[:i], nd.seps[i+1:])
	nd.resplit()
}

// resplit takes prefix and parts of the separators anew.
func (nd *node) resplit() {
	nd.skip = 0
	if nd.n < 2 {
		return
	}
	if nd.n > 2 { // one separator alone shares all of itself
		nd.skip = uint32(commonPrefix(nd.seps[1], nd.seps[nd.n-1]))
	}
	for i := 1; i < int(nd.n); i++ {
		nd.parts[i] = keyPart(nd.seps[i], int(nd.skip))
	}
}

// separator is the shortest s with left < s <= right.
func separator(left, right []byte) string { return string(right[:commonPrefix(left, right)+1]) }

func commonPrefix[A, B string | []byte](a A, b B) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
