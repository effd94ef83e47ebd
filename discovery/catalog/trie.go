package catalog

import (
	"iter"
	"sort"
)

// fanout is the number of children of a trie node; two levels of it give 4,096 buckets, so that a hundred thousand
// services lie about 25 to a bucket.
const fanout = 64

// edit identifies one round of changes: nodes made in it are changed in place, all others are copied first.
type edit struct{ _ byte }

// trie is a persistent map from name to V. Copying a trie value is taking a snapshot of it.
type trie[V any] struct {
	root *branch[V]
	n    int
}

type branch[V any] struct {
	owner *edit
	kids  [fanout]*node[V]
}

type node[V any] struct {
	owner *edit
	kids  [fanout]*bucket[V]
}

type bucket[V any] struct {
	owner   *edit
	entries []entry[V] // sorted by key
}

type entry[V any] struct {
	key string
	val V
}

// hash is FNV-1a: the same in every process, so that a trie's shape is reproducible.
func hash(key string) uint32 {
	h := uint32(2166136261)
	for i := 0; i < len(key); i++ {
		h = (h ^ uint32(key[i])) * 16777619
	}
	return h ^ h>>15
}

func (b *bucket[V]) find(key string) (int, bool) {
	i := sort.Search(len(b.entries), func(i int) bool { return b.entries[i].key >= key })
	return i, i < len(b.entries) && b.entries[i].key == key
}

func (t *trie[V]) get(key string) (v V, ok bool) {
	h := hash(key)
	if t.root == nil {
		return v, false
	}
	n := t.root.kids[h%fanout]
	if n == nil {
		return v, false
	}
	b := n.kids[h/fanout%fanout]
	if b == nil {
		return v, false
	}
	if i, ok := b.find(key); ok {
		return b.entries[i].val, true
	}
	return v, false
}

// bucketFor returns the bucket of key, owned by e.
func (t *trie[V]) bucketFor(e *edit, key string) *bucket[V] {
	h := hash(key)
	if t.root == nil {
		t.root = &branch[V]{owner: e}
	} else if t.root.owner != e {
		t.root = &branch[V]{owner: e, kids: t.root.kids}
	}
	n := t.root.kids[h%fanout]
	if n == nil {
		n = &node[V]{owner: e}
	} else if n.owner != e {
		n = &node[V]{owner: e, kids: n.kids}
	}
	t.root.kids[h%fanout] = n
	b := n.kids[h/fanout%fanout]
	if b == nil {
		b = &bucket[V]{owner: e}
	} else if b.owner != e {
		b = &bucket[V]{owner: e, entries: append(make([]entry[V], 0, len(b.entries)+1), b.entries...)}
	}
	n.kids[h/fanout%fanout] = b
	return b
}

func (t *trie[V]) set(e *edit, key string, v V) {
	b := t.bucketFor(e, key)
	i, ok := b.find(key)
	if !ok {
		t.n++
		b.entries = append(b.entries, entry[V]{})
		copy(b.entries[i+1:], b.entries[i:])
	}
	b.entries[i] = entry[V]{key, v}
}

func (t *trie[V]) remove(e *edit, key string) {
	if _, ok := t.get(key); !ok {
		return
	}
	b := t.bucketFor(e, key)
	i, _ := b.find(key)
	copy(b.entries[i:], b.entries[i+1:])
	b.entries[len(b.entries)-1] = entry[V]{}
	b.entries = b.entries[:len(b.entries)-1]
	t.n--
}

// all iterates in the trie's own, reproducible order.
func (t *trie[V]) all() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		if t.root == nil {
			return
		}
		for _, n := range t.root.kids {
			if n == nil {
				continue
			}
			for _, b := range n.kids {
				if b == nil {
					continue
				}
				for _, e := range b.entries {
					if !yield(e.key, e.val) {
						return
					}
				}
			}
		}
	}
}

// sortedKeys returns all keys in order.
func (t *trie[V]) sortedKeys() []string {
	keys := make([]string, 0, t.n)
	for k := range t.all() {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
