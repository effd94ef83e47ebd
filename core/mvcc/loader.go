package mvcc

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/musterhq/muster/core/simbug"
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
	if simbug.On(simbug.RevisionFalls) {
		s.rev = 1
		s.h.each(place{}, func(_ place, _ uint64, e entry) bool {
			if !e.tombstone() {
				s.rev = e.main()
			}
			return true
		})
	}
	s.compactRev = max(compactRev, -1)
	s.physical.done, s.physical.target = s.compactRev, s.compactRev

	items := make([]loaded, 0, s.h.next-1)
	s.h.each(place{}, func(_ place, seq uint64, e entry) bool {
		if e.tombstone() {
			seq |= tombItem
		}
		depth := len(l.prefix)
		items = append(items, loaded{part: keyPart8(e.key(), depth), ref: seq, depth: uint32(depth)})
		return true
	})
	sortByPart(&s.h, items, len(l.prefix))
	items = s.link(items)
	s.account()
	s.index.build(&s.h, items)
	s.live = int64(s.index.root.live())
	s.physical.state = sweeping
	for s.CompactStep(math.MaxInt) {
	}
	return s, nil
}

// loaded is one record while its place in key order is found.
type loaded struct {
	part  uint64 // eight bytes of the key
	ref   uint64
	depth uint32 // where in the key they begin
	again bool   // same key as the item before it
}

// link connects the versions of each key, which are neighbours, marks the dead, and returns the newest of each key,
// reusing items.
func (s *Store) link(items []loaded) []loaded {
	h := &s.h
	n := 0
	var before uint64
	for i, it := range items {
		newest := i+1 == len(items) || !items[i+1].again
		if it.again || it.ref&tombItem != 0 {
			p, ok := h.locate(it.ref &^ tombItem)
			if !ok {
				panic("mvcc: a loaded record is gone")
			}
			e := h.chunkAt(p.chunk).entry(p.i)
			main := e.main()
			if it.again {
				e.setPrev(before)
				if main <= s.compactRev {
					if p, ok := h.locate(before); ok {
						h.kill(p)
					}
				}
			}
			if e.tombstone() && main < s.compactRev {
				h.kill(p)
				newest = false // a key whose newest version is a dead tombstone is forgotten
			}
		}
		before = it.ref &^ tombItem
		if newest {
			items[n] = it
			n++
		}
	}
	return items[:n]
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

// keyPart8 is eight bytes of key from skip on, zero-padded.
func keyPart8(key []byte, skip int) uint64 {
	if len(key) <= skip {
		return 0
	}
	var b [8]byte
	copy(b[:], key[skip:])
	return binary.BigEndian.Uint64(b[:])
}

// sortByPart sorts items by key, then by sequence number, and notes which repeat a key. All keys share their first
// depth bytes, and part holds the eight after them.
//
// Records lie in order of revision, so reading one in order of keys misses every cache. Sorting by parts reads none;
// only where parts tie are the next eight bytes that differ fetched.
func sortByPart(h *history, items []loaded, depth int) {
	slices.SortFunc(items, func(a, b loaded) int {
		if a.part != b.part {
			return cmp.Compare(a.part, b.part)
		}
		return cmp.Compare(a.ref&^tombItem, b.ref&^tombItem)
	})
	for len(items) > 0 {
		n := 1
		for n < len(items) && items[n].part == items[0].part {
			n++
		}
		if n > 1 {
			sortTies(h, items[:n], depth)
		}
		items = items[n:]
	}
}

// sortTies sorts items whose keys agree in the eight bytes after depth. They come in order of sequence number.
func sortTies(h *history, items []loaded, depth int) {
	first := h.newest(items[0].ref).key()
	common, equal := len(first), true
	for _, it := range items[1:] {
		key := h.newest(it.ref).key()
		n := commonPrefix(first, key)
		common, equal = min(common, n), equal && n == len(first) && n == len(key)
	}
	switch {
	case equal: // one key, in order already
		for i := range items[1:] {
			items[i+1].again = true
		}
	case len(items) > 16 && common > depth:
		for i := range items {
			items[i].part, items[i].depth = keyPart8(h.newest(items[i].ref).key(), common), uint32(common)
		}
		sortByPart(h, items, common)
	default:
		key := func(it loaded) []byte { return h.newest(it.ref).key() }
		slices.SortFunc(items, func(a, b loaded) int {
			if c := bytes.Compare(key(a), key(b)); c != 0 {
				return c
			}
			return cmp.Compare(a.ref&^tombItem, b.ref&^tombItem)
		})
		for i := range items[1:] {
			items[i+1].again = bytes.Equal(key(items[i]), key(items[i+1]))
		}
	}
}

// build makes the tree of items in key order, each node nearly full.
func (t *tree) build(h *history, items []loaded) {
	const fill = fan * 7 / 8
	if len(items) == 0 {
		return
	}
	var level []*node
	var seps []string // seps[i] is before level[i]
	var last []byte   // key before the next leaf
	for i := range parts(len(items), fill) {
		nd := &node{epoch: t.epoch}
		for k, it := range items[i.lo:i.hi] {
			nd.refs[k] = it.ref
		}
		nd.n = uint32(i.hi - i.lo)
		nd.skip = uint32(nd.prefix(h))
		for k, it := range items[i.lo:i.hi] {
			if nd.skip >= it.depth && nd.skip <= it.depth+4 { // what the sort fetched will do
				nd.parts[k] = uint32(it.part << (8 * (nd.skip - it.depth)) >> 32)
			} else {
				nd.parts[k] = keyPart(h.newest(it.ref).key(), int(nd.skip))
			}
		}
		sep := ""
		if i.lo > 0 {
			sep = separator(last, h.newest(nd.refs[0]).key())
		}
		last = h.newest(nd.refs[nd.n-1]).key()
		level, seps = append(level, nd), append(seps, sep)
	}
	for len(level) > 1 {
		var up []*node
		var upSeps []string
		for i := range parts(len(level), fill) {
			nd := &node{epoch: t.epoch, kids: new([fan]*node), n: uint32(i.hi - i.lo), seps: slices.Clone(seps[i.lo:i.hi])}
			for k, kid := range level[i.lo:i.hi] {
				nd.kids[k], nd.refs[k] = kid, kid.live()
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
