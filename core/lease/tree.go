package lease

// tree is a persistent ordered set: a B-tree whose nodes are shared between
// versions and copied when first written after a freeze.
//
// Each node carries the edition in which it was made. A tree writes in place
// only to nodes of its own edition; freeze gives the current root away and moves
// on to a fresh edition, so the next write to any node copies it first.
//
//	t.insert(x)      nodes made here belong to edition 1
//	v := t.freeze()  v keeps the root, t is now in edition 2
//	t.insert(y)      copies the path to y, leaves v's nodes alone
//
// Invariant: every node but the root holds at least minItems items, a node with
// n items has no children or n+1, and all leaves are at one depth.
type tree[T any] struct {
	cmp     func(a, b T) int
	root    *node[T]
	count   int
	edition *edition
}

const (
	maxItems = 31
	minItems = maxItems / 2
)

// edition is compared by address only; it must not be of size 0, or all of them
// could share one address.
type edition struct{ _ byte }

type node[T any] struct {
	edition  *edition
	items    []T
	children []*node[T]
}

func newTree[T any](cmp func(a, b T) int) *tree[T] {
	return &tree[T]{cmp: cmp, edition: new(edition)}
}

// freeze returns an immutable version of the tree as it is now.
func (t *tree[T]) freeze() frozen[T] {
	t.edition = new(edition)
	return frozen[T]{cmp: t.cmp, root: t.root, count: t.count}
}

func (t *tree[T]) frozen() frozen[T] { return frozen[T]{cmp: t.cmp, root: t.root, count: t.count} }

func (t *tree[T]) newNode() *node[T] { return &node[T]{edition: t.edition} }

// own returns n itself if this edition made it, else a copy that it did.
func (t *tree[T]) own(n *node[T]) *node[T] {
	if n.edition == t.edition {
		return n
	}
	c := t.newNode()
	c.items = append(make([]T, 0, cap(n.items)), n.items...)
	if n.children != nil {
		c.children = append(make([]*node[T], 0, cap(n.children)), n.children...)
	}
	return c
}

// ownChild makes child i writable and returns it; n must be writable itself.
func (t *tree[T]) ownChild(n *node[T], i int) *node[T] {
	c := t.own(n.children[i])
	n.children[i] = c
	return c
}

// find gives the position of x in n, or where it would go.
func (n *node[T]) find(x T, cmp func(a, b T) int) (int, bool) {
	lo, hi := 0, len(n.items)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch c := cmp(n.items[mid], x); {
		case c == 0:
			return mid, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, false
}

func insertAt[E any](s []E, i int, x E) []E {
	var zero E
	s = append(s, zero)
	copy(s[i+1:], s[i:])
	s[i] = x
	return s
}

func removeAt[E any](s []E, i int) []E {
	var zero E
	copy(s[i:], s[i+1:])
	s[len(s)-1] = zero
	return s[:len(s)-1]
}

// insert adds x, or replaces the item equal to it.
func (t *tree[T]) insert(x T) {
	if t.root == nil {
		t.root = t.newNode()
	}
	t.root = t.own(t.root)
	if len(t.root.items) >= maxItems {
		old := t.root
		t.root = t.newNode()
		t.root.children = append(t.root.children, old)
		t.splitChild(t.root, 0)
	}
	n := t.root
	for {
		i, found := n.find(x, t.cmp)
		if found {
			n.items[i] = x
			return
		}
		if n.children == nil {
			n.items = insertAt(n.items, i, x)
			t.count++
			return
		}
		if c := t.ownChild(n, i); len(c.items) >= maxItems {
			t.splitChild(n, i)
			switch c := t.cmp(n.items[i], x); {
			case c == 0:
				n.items[i] = x
				return
			case c < 0:
				i++
			}
		}
		n = n.children[i]
	}
}

// splitChild halves the full, writable child i of n and lifts its middle item.
func (t *tree[T]) splitChild(n *node[T], i int) {
	left := n.children[i]
	mid := len(left.items) / 2
	up := left.items[mid]
	right := t.newNode()
	right.items = append(make([]T, 0, maxItems), left.items[mid+1:]...)
	clear(left.items[mid:])
	left.items = left.items[:mid]
	if left.children != nil {
		right.children = append(make([]*node[T], 0, maxItems+1), left.children[mid+1:]...)
		clear(left.children[mid+1:])
		left.children = left.children[:mid+1]
	}
	n.items = insertAt(n.items, i, up)
	n.children = insertAt(n.children, i+1, right)
}

// remove deletes the item equal to x, if there is one.
func (t *tree[T]) remove(x T) bool {
	if _, ok := t.frozen().get(x); !ok {
		return false // spares copying a path for nothing
	}
	t.root = t.own(t.root)
	t.removeFrom(t.root, x)
	if len(t.root.items) == 0 {
		if t.root.children == nil {
			t.root = nil
		} else {
			t.root = t.root.children[0]
		}
	}
	t.count--
	return true
}

// removeFrom deletes x, which is present, from the writable subtree n.
func (t *tree[T]) removeFrom(n *node[T], x T) {
	i, found := n.find(x, t.cmp)
	if n.children == nil {
		n.items = removeAt(n.items, i)
		return
	}
	if len(n.children[i].items) <= minItems {
		t.growChild(n, i)
		t.removeFrom(n, x) // positions have moved: look again
		return
	}
	c := t.ownChild(n, i)
	if found {
		n.items[i] = t.removeMax(c)
		return
	}
	t.removeFrom(c, x)
}

func (t *tree[T]) removeMax(n *node[T]) T {
	for {
		if n.children == nil {
			x := n.items[len(n.items)-1]
			n.items = removeAt(n.items, len(n.items)-1)
			return x
		}
		i := len(n.children) - 1
		if len(n.children[i].items) <= minItems {
			t.growChild(n, i)
			i = len(n.children) - 1
		}
		n = t.ownChild(n, i)
	}
}

// growChild gives child i of n more than minItems items, by borrowing from a
// neighbour or merging with one.
func (t *tree[T]) growChild(n *node[T], i int) {
	switch {
	case i > 0 && len(n.children[i-1].items) > minItems:
		left, c := t.ownChild(n, i-1), t.ownChild(n, i)
		c.items = insertAt(c.items, 0, n.items[i-1])
		n.items[i-1] = left.items[len(left.items)-1]
		left.items = removeAt(left.items, len(left.items)-1)
		if left.children != nil {
			c.children = insertAt(c.children, 0, left.children[len(left.children)-1])
			left.children = removeAt(left.children, len(left.children)-1)
		}
	case i < len(n.children)-1 && len(n.children[i+1].items) > minItems:
		c, right := t.ownChild(n, i), t.ownChild(n, i+1)
		c.items = append(c.items, n.items[i])
		n.items[i] = right.items[0]
		right.items = removeAt(right.items, 0)
		if right.children != nil {
			c.children = append(c.children, right.children[0])
			right.children = removeAt(right.children, 0)
		}
	default:
		if i == len(n.children)-1 {
			i--
		}
		c, right := t.ownChild(n, i), n.children[i+1]
		c.items = append(append(c.items, n.items[i]), right.items...)
		c.children = append(c.children, right.children...)
		n.items = removeAt(n.items, i)
		n.children = removeAt(n.children, i+1)
	}
}

// frozen is one immutable version of a tree.
type frozen[T any] struct {
	cmp   func(a, b T) int
	root  *node[T]
	count int
}

func (f frozen[T]) get(x T) (T, bool) {
	for n := f.root; n != nil; {
		i, found := n.find(x, f.cmp)
		if found {
			return n.items[i], true
		}
		if n.children == nil {
			break
		}
		n = n.children[i]
	}
	var zero T
	return zero, false
}

// ascend calls yield for every item not smaller than from, in order, until it
// returns false.
func (f frozen[T]) ascend(from T, yield func(T) bool) {
	if f.root != nil {
		f.root.ascend(from, f.cmp, yield)
	}
}

func (n *node[T]) ascend(from T, cmp func(a, b T) int, yield func(T) bool) bool {
	i, found := n.find(from, cmp)
	if n.children != nil && !found && !n.children[i].ascend(from, cmp, yield) {
		return false
	}
	for ; i < len(n.items); i++ {
		if !yield(n.items[i]) {
			return false
		}
		if n.children != nil && !n.children[i+1].all(yield) {
			return false
		}
	}
	return true
}

// all calls yield for every item in order, until it returns false.
func (f frozen[T]) all(yield func(T) bool) {
	if f.root != nil {
		f.root.all(yield)
	}
}

func (n *node[T]) all(yield func(T) bool) bool {
	for i, x := range n.items {
		if n.children != nil && !n.children[i].all(yield) {
			return false
		}
		if !yield(x) {
			return false
		}
	}
	return n.children == nil || n.children[len(n.children)-1].all(yield)
}
