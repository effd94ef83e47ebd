package interval

// Tree holds ranges with a value each. The zero Tree is empty and ready.
type Tree[V any] struct {
	root *node[V]
	n    int
	next uint64 // order of insertion; makes equal ranges distinct
}

// Handle names one insertion, so that it can be deleted.
type Handle[V any] struct {
	Range Range
	Value V
	id    uint64
	tree  *Tree[V] // nil once deleted
}

type node[V any] struct {
	h           *Handle[V]
	left, right *node[V]
	height      int
	// maxEnd is the greatest end in this subtree; maxOpen says that some range in it has no end.
	maxEnd  string
	maxOpen bool
}

// Len is the number of ranges in the tree.
func (t *Tree[V]) Len() int { return t.n }

// Insert adds v under r, beside whatever else is there, in O(log n).
func (t *Tree[V]) Insert(r Range, v V) *Handle[V] {
	h := &Handle[V]{Range: r, Value: v, id: t.next, tree: t}
	t.next++
	t.n++
	t.root = insert(t.root, h)
	return h
}

// Delete removes what Insert added, in O(log n). It reports whether h was in the tree.
func (t *Tree[V]) Delete(h *Handle[V]) bool {
	if h == nil || h.tree != t {
		return false
	}
	h.tree = nil
	t.n--
	t.root = remove(t.root, h)
	return true
}

// VisitPoint calls yield for each range that contains key, ordered by begin, end, insertion, until it says false.
// It allocates nothing.
func (t *Tree[V]) VisitPoint(key []byte, yield func(*Handle[V]) bool) {
	stab(t.root, key, yield)
}

// Visit calls yield for each range that shares a key with r, ordered by begin, end, insertion, until it says false.
func (t *Tree[V]) Visit(r Range, yield func(*Handle[V]) bool) {
	if !r.Empty() {
		overlap(t.root, r, yield)
	}
}

// Intersects reports whether some range shares a key with r.
func (t *Tree[V]) Intersects(r Range) bool {
	hit := false
	t.Visit(r, func(*Handle[V]) bool { hit = true; return false })
	return hit
}

// All calls yield for every range, empty ones too, ordered by begin, end, insertion, until it says false.
func (t *Tree[V]) All(yield func(*Handle[V]) bool) { all(t.root, yield) }

func stab[V any](n *node[V], key []byte, yield func(*Handle[V]) bool) bool {
	if n == nil || !(n.maxOpen || string(key) < n.maxEnd) {
		return true
	}
	if !stab(n.left, key, yield) {
		return false
	}
	if string(key) < n.h.Range.begin {
		return true // so does everything to the right begin after key
	}
	if n.h.Range.Contains(key) && !yield(n.h) {
		return false
	}
	return stab(n.right, key, yield)
}

func overlap[V any](n *node[V], r Range, yield func(*Handle[V]) bool) bool {
	if n == nil || !(n.maxOpen || r.begin < n.maxEnd) {
		return true
	}
	if !overlap(n.left, r, yield) {
		return false
	}
	if !r.open && n.h.Range.begin >= r.end {
		return true
	}
	if n.h.Range.Overlaps(r) && !yield(n.h) {
		return false
	}
	return overlap(n.right, r, yield)
}

func all[V any](n *node[V], yield func(*Handle[V]) bool) bool {
	return n == nil || all(n.left, yield) && yield(n.h) && all(n.right, yield)
}

func (h *Handle[V]) compare(o *Handle[V]) int {
	if c := h.Range.compare(o.Range); c != 0 {
		return c
	}
	switch {
	case h.id == o.id:
		return 0
	default:
		return less(h.id < o.id)
	}
}

func insert[V any](n *node[V], h *Handle[V]) *node[V] {
	if n == nil {
		n = &node[V]{h: h}
		n.update()
		return n
	}
	if h.compare(n.h) < 0 {
		n.left = insert(n.left, h)
	} else {
		n.right = insert(n.right, h)
	}
	return n.balanced()
}

func remove[V any](n *node[V], h *Handle[V]) *node[V] {
	switch c := h.compare(n.h); {
	case c < 0:
		n.left = remove(n.left, h)
	case c > 0:
		n.right = remove(n.right, h)
	case n.left == nil:
		return n.right
	case n.right == nil:
		return n.left
	default:
		var first *node[V]
		right := n.right
		right, first = removeFirst(right)
		first.left, first.right = n.left, right
		n = first
	}
	return n.balanced()
}

// removeFirst takes the leftmost node out of n's subtree.
func removeFirst[V any](n *node[V]) (rest, first *node[V]) {
	if n.left == nil {
		return n.right, n
	}
	n.left, first = removeFirst(n.left)
	return n.balanced(), first
}

// balanced restores both invariants of n, whose children already hold them, and returns the subtree's root.
func (n *node[V]) balanced() *node[V] {
	switch d := n.left.depth() - n.right.depth(); {
	case d > 1:
		if n.left.left.depth() < n.left.right.depth() {
			n.left = n.left.rotateLeft()
		}
		return n.rotateRight()
	case d < -1:
		if n.right.right.depth() < n.right.left.depth() {
			n.right = n.right.rotateRight()
		}
		return n.rotateLeft()
	}
	n.update()
	return n
}

func (n *node[V]) rotateLeft() *node[V] {
	r := n.right
	n.right, r.left = r.left, n
	n.update()
	r.update()
	return r
}

func (n *node[V]) rotateRight() *node[V] {
	l := n.left
	n.left, l.right = l.right, n
	n.update()
	l.update()
	return l
}

func (n *node[V]) depth() int {
	if n == nil {
		return 0
	}
	return n.height
}

// update recomputes height and greatest end from the children.
func (n *node[V]) update() {
	n.height = 1 + max(n.left.depth(), n.right.depth())
	n.maxEnd, n.maxOpen = n.h.Range.end, n.h.Range.open
	for _, c := range [2]*node[V]{n.left, n.right} {
		if c != nil {
			n.maxOpen = n.maxOpen || c.maxOpen
			n.maxEnd = max(n.maxEnd, c.maxEnd)
		}
	}
}
