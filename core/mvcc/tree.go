package mvcc

import (
	"bytes"
	"encoding/binary"
)

const (
	// fan is the most items a node holds: with it a node fills the 384-byte size class.
	fan = 28
	// maxHeight bounds the descent. Half a node of inserts below makes one item above, so 2^60 inserts can't build
	// more than 16 levels; the rest is room for what deletions in between may do.
	maxHeight = 20
	// tombItem marks, in a reference, that the newest version is a tombstone.
	tombItem = 1 << 63
)

// node is a node of the copy-on-write B+ tree from key to newest version.
//
// Keys live in the history only. A leaf compares four bytes of each key, taken after the prefix all its keys share
// (skip bytes long): that settles nearly every comparison without a look at the records, also where all keys of the
// store begin with the same "/registry/". Inner nodes hold separators, cut as short as they can be.
//
// An item is 12 bytes without a pointer. Parts and references are apart, so that a search touches few cache lines.
//
// Invariant: a node whose epoch is not its tree's is shared with a View and never written again.
type node struct {
	kids  *[fan]*node // nil in a leaf
	seps  []string    // inner: keys of kids[i] are >= seps[i] and < seps[i+1]; seps[0] is unused. Replaced, never changed
	epoch uint64
	skip  uint32
	n     uint32
	parts [fan]uint32 // leaf: of the key; inner: of the separator
	refs  [fan]uint64 // leaf: sequence number of the newest version (| tombItem); inner: live keys below the child
}

// keyPart is four bytes of key from skip on, zero-padded, so that comparing parts compares keys unless they tie.
func keyPart[K string | []byte](key K, skip int) uint32 {
	if len(key) <= skip {
		return 0
	}
	var b [4]byte
	copy(b[:], key[skip:])
	return binary.BigEndian.Uint32(b[:])
}

// search finds key in a leaf: its position, or where it belongs. fits is false if key lacks the common prefix, which
// has to be shortened before key is inserted.
func (nd *node) search(h *history, key []byte) (pos int, found, fits bool) {
	skip, x := int(nd.skip), keyPart(key, int(nd.skip))
	lo, hi := 0, int(nd.n)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		switch p := nd.parts[m]; {
		case p < x:
			lo = m + 1
		case p > x:
			hi = m
		default:
			switch bytes.Compare(h.newest(nd.refs[m]).key(), key) {
			case 0:
				return m, true, true
			case -1:
				lo = m + 1
			default:
				hi = m
			}
		}
	}
	if skip == 0 || nd.n == 0 {
		return lo, false, true
	}
	// The parts meant something only if key has the prefix too. Any record shows it.
	prefix := h.newest(nd.refs[min(lo, int(nd.n)-1)]).key()[:skip]
	switch bytes.Compare(key[:min(skip, len(key))], prefix) {
	case 0:
		return lo, false, true
	case -1:
		return 0, false, false
	default:
		return int(nd.n), false, false
	}
}

// child is the index of the kid that covers key.
func (nd *node) child(key []byte) int {
	n := int(nd.n)
	if n == 1 {
		return 0
	}
	skip := int(nd.skip)
	if skip > 0 {
		prefix := nd.seps[1][:skip]
		k := key[:min(skip, len(key))]
		if string(k) < prefix {
			return 0
		}
		if string(k) > prefix {
			return n - 1
		}
	}
	x := keyPart(key, skip)
	lo, hi := 1, n
	for lo < hi { // the number of separators <= key
		m := int(uint(lo+hi) >> 1)
		if p := nd.parts[m]; p < x || p == x && nd.seps[m] <= string(key) {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo - 1
}

// live counts the live keys below nd.
func (nd *node) live() uint64 {
	var sum uint64
	for _, ref := range nd.refs[:nd.n] {
		if nd.kids != nil {
			sum += ref
		} else {
			sum += ref>>63 ^ 1
		}
	}
	return sum
}

// lookup returns the index item of key.
func lookup(h *history, root *node, key []byte) (ref uint64, ok bool) {
	nd := root
	for nd.kids != nil {
		nd = nd.kids[nd.child(key)]
	}
	pos, found, _ := nd.search(h, key)
	if !found {
		return 0, false
	}
	return nd.refs[pos], true
}

// rank counts the live keys < key, in O(log n).
func rank(h *history, root *node, key []byte) int64 {
	var sum uint64
	nd := root
	for nd.kids != nil {
		i := nd.child(key)
		for _, n := range nd.refs[:i] {
			sum += n
		}
		nd = nd.kids[i]
	}
	pos, _, _ := nd.search(h, key)
	for _, ref := range nd.refs[:pos] {
		sum += ref>>63 ^ 1
	}
	return int64(sum)
}

// step is one level of a way down: a node and the index taken in it.
type step struct {
	nd *node
	i  int
}

// iterator walks items in key order. The tree under it must not change.
type iterator struct {
	path  [maxHeight]step
	depth int // of the leaf, which is path[depth]
}

// seek makes next return the first item >= key.
func (it *iterator) seek(h *history, root *node, key []byte) {
	it.depth = 0
	nd := root
	for nd.kids != nil {
		i := nd.child(key)
		it.path[it.depth] = step{nd, i}
		it.depth++
		nd = nd.kids[i]
	}
	pos, _, _ := nd.search(h, key)
	it.path[it.depth] = step{nd, pos}
}

// seekRank makes next return the live item with k live ones before it, or the end.
func (it *iterator) seekRank(root *node, k uint64) {
	it.depth = 0
	nd := root
	for nd.kids != nil {
		i := 0
		for i < int(nd.n)-1 && k >= nd.refs[i] {
			k -= nd.refs[i]
			i++
		}
		it.path[it.depth] = step{nd, i}
		it.depth++
		nd = nd.kids[i]
	}
	i := 0
	for ; i < int(nd.n); i++ {
		if nd.refs[i]&tombItem == 0 {
			if k == 0 {
				break
			}
			k--
		}
	}
	it.path[it.depth] = step{nd, i}
}

// next returns the reference of the next item.
func (it *iterator) next() (ref uint64, ok bool) {
	leaf := &it.path[it.depth]
	for leaf.i == int(leaf.nd.n) {
		if !it.nextLeaf() {
			return 0, false
		}
	}
	ref = leaf.nd.refs[leaf.i]
	leaf.i++
	return ref, true
}

func (it *iterator) nextLeaf() bool {
	d := it.depth - 1
	for d >= 0 && it.path[d].i == int(it.path[d].nd.n)-1 {
		d--
	}
	if d < 0 {
		return false
	}
	it.path[d].i++
	for ; d < it.depth; d++ {
		it.path[d+1] = step{it.path[d].nd.kids[it.path[d].i], 0}
	}
	return true
}
