package mvcc

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// ErrCorrupt: what was loaded can't have been written by a store. Use another checkpoint or snapshot.
var ErrCorrupt = errors.New("mvcc: stored data is corrupt")

// Loader builds a Store from a checkpoint or from the key bucket of an etcd snapshot: Add every record in order of
// revision, then Finish once.
type Loader struct {
	s         *Store
	main, sub int64  // of the last record
	prefix    []byte // what all keys so far begin with
	some      bool
}

// NewLoader returns a Loader of nothing yet.
func NewLoader() *Loader { return &Loader{s: New()} }

// Add appends one record: its revision, whether its bucket key is marked as a tombstone, and the encoded KeyValue,
// which is copied. Revisions must rise. A record with an empty r, such as etcdutl writes to raise the revision of a
// restored snapshot, raises the revision and nothing else.
func (l *Loader) Add(main, sub int64, tombstone bool, r []byte) error {
	if main < l.main || main == l.main && (sub <= l.sub && l.some) || main <= 0 || sub < 0 || sub >= tombFlag {
		return fmt.Errorf("%w: revision %d.%d after %d.%d", ErrCorrupt, main, sub, l.main, l.sub)
	}
	l.main, l.sub, l.some = main, sub, true
	if len(r) == 0 {
		return nil
	}
	kv, err := decodeForeign(r)
	if err != nil {
		return fmt.Errorf("%w: record %d.%d: %w", ErrCorrupt, main, sub, err)
	}
	if tombstone {
		kv = KV{Key: kv.Key, ModRevision: main} // etcd's hold the key alone
	} else if kv.ModRevision != main || kv.Version <= 0 || kv.CreateRevision <= 0 || kv.CreateRevision > main {
		return fmt.Errorf("%w: record %d.%d says mod_revision %d, create_revision %d, version %d",
			ErrCorrupt, main, sub, kv.ModRevision, kv.CreateRevision, kv.Version)
	}
	h := &l.s.h
	if h.next == 1 {
		l.prefix = slices.Clone(kv.Key)
	} else {
		l.prefix = l.prefix[:commonPrefix(l.prefix, kv.Key)]
	}
	_, e := h.append(&kv, sub, tombstone, 0, 0)
	l.s.written += e.charge()
	return nil
}

// Finish returns the store at revision rev with compactRev compacted (-1: never). rev is raised to compactRev and to
// the newest record's if it is below, as etcd does. Records that a compaction of compactRev would have freed are.
// The Loader is used up.
func (l *Loader) Finish(rev, compactRev int64) (*Store, error) {
	s := l.s
	if s == nil {
		return nil, errors.New("mvcc: this loader is finished; use a new one")
	}
	l.s = nil
	s.rev = max(rev, compactRev, l.main, 1)
	s.compactRev = max(compactRev, -1)
	s.physical.done, s.physical.target = s.compactRev, s.compactRev

	refs := make([]item, s.h.next-1)
	for i := range refs {
		refs[i].ref = uint64(i) + 1
	}
	sortByKey(&s.h, refs, len(l.prefix))
	newest := s.link(refs)
	s.account()
	s.index.build(&s.h, newest)
	s.live = int64(s.index.root.live())
	s.physical.state = sweeping
	for s.CompactStep(math.MaxInt) {
	}
	return s, nil
}

// link connects the versions of each key, which are neighbours in refs, marks the dead, and returns the index items
// in key order, reusing refs.
func (s *Store) link(refs []item) []item {
	h := &s.h
	n := 0
	var key []byte
	var prev place
	for i, it := range refs {
		p, ok := h.locate(it.ref)
		if !ok {
			panic("mvcc: a loaded record is gone")
		}
		e := h.chunkAt(p.chunk).entry(p.i)
		main := e.main()
		if i > 0 && bytes.Equal(e.key(), key) {
			e.setPrev(refs[n-1].ref &^ tombItem)
			if main <= s.compactRev {
				h.kill(prev)
			}
			n--
		}
		if e.tombstone() {
			it.ref |= tombItem
			if main < s.compactRev {
				h.kill(p)
			}
		}
		refs[n] = it
		n++
		key, prev = e.key(), p
	}
	// Keys whose newest version is a dead tombstone are forgotten.
	return slices.DeleteFunc(refs[:n], func(it item) bool {
		return !it.live() && h.newest(it.ref).main() < s.compactRev
	})
}

// account writes into each entry what compaction there would release.
func (s *Store) account() {
	h := &s.h
	h.each(place{}, func(_ place, _ uint64, e entry) bool {
		var old entry
		if prev := e.prev(); prev != 0 {
			old, _ = h.find(prev)
		}
		s.releasable += releases(e.charge(), e.tombstone(), old)
		e.setReleased(s.releasable)
		return true
	})
	if e, ok := h.before(h.from(s.compactRev + 1)); ok {
		s.released = e.released()
	}
}

// sortByKey sorts items by key, then by sequence number. All keys share their first depth bytes.
//
// It sorts by eight bytes of the key at a time and goes deeper only where they tie, so that it reads each record a
// few times, not log n times.
func sortByKey(h *history, items []item, depth int) {
	for i := range items {
		items[i].part = keyPart(h.newest(items[i].ref).key(), depth)
	}
	slices.SortFunc(items, func(a, b item) int {
		if c := cmp.Compare(a.part, b.part); c != 0 {
			return c
		}
		return cmp.Compare(a.ref, b.ref)
	})
	for len(items) > 0 {
		n, equal := 1, true
		first := h.newest(items[0].ref).key()
		for ; n < len(items) && items[n].part == items[0].part; n++ {
			equal = equal && bytes.Equal(h.newest(items[n].ref).key(), first)
		}
		switch {
		case equal: // one key; already in order
		case n > 16 && len(first) > depth+8:
			sortByKey(h, items[:n], depth+8)
		default:
			slices.SortFunc(items[:n], func(a, b item) int {
				if c := bytes.Compare(h.newest(a.ref).key(), h.newest(b.ref).key()); c != 0 {
					return c
				}
				return cmp.Compare(a.ref, b.ref)
			})
		}
		items = items[n:]
	}
}

// build makes the tree of items in key order, each node nearly full.
func (t *tree) build(h *history, items []item) {
	const fill = fan * 7 / 8
	if len(items) == 0 {
		return
	}
	var level []*node
	for i := range parts(len(items), fill) {
		nd := &node{epoch: t.epoch}
		nd.n = uint16(copy(nd.items[:], items[i.lo:i.hi]))
		nd.rekey(h)
		level = append(level, nd)
	}
	seps := make([]string, len(level)) // seps[i] is before level[i]
	for i := 1; i < len(level); i++ {
		left := level[i-1]
		seps[i] = separator(h.newest(left.items[left.n-1].ref).key(), h.newest(level[i].items[0].ref).key())
	}
	for len(level) > 1 {
		var up []*node
		var upSeps []string
		for i := range parts(len(level), fill) {
			nd := &node{epoch: t.epoch, kids: new([fan]*node), n: uint16(i.hi - i.lo), seps: slices.Clone(seps[i.lo:i.hi])}
			for k, kid := range level[i.lo:i.hi] {
				nd.kids[k], nd.items[k].ref = kid, kid.live()
			}
			nd.resplit()
			up, upSeps = append(up, nd), append(upSeps, seps[i.lo])
		}
		level, seps = up, upSeps
	}
	t.root = level[0]
}

type span struct{ lo, hi int }

// parts cuts [0, n) into even spans of at most size.
func parts(n, size int) func(yield func(span) bool) {
	k := (n + size - 1) / size
	return func(yield func(span) bool) {
		for i := range k {
			if !yield(span{i * n / k, (i + 1) * n / k}) {
				return
			}
		}
	}
}
