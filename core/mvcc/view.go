package mvcc

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/musterhq/muster/core/simbug"
)

// View is the store as it was when published: immutable, for any number of goroutines, never waiting and never in the
// way. It keeps alive all the memory it can see, which is bounded only by how long its holder holds it.
type View struct {
	snapshot         // Range is its
	frozen   history // what snapshot.h points to
	keys     int64
}

// Rev is the revision the View was taken at.
func (v *View) Rev() int64 { return v.rev }

// CompactRev is the revision compacted by then, or -1.
func (v *View) CompactRev() int64 { return v.compactRev }

// Keys is the number of keys that exist.
func (v *View) Keys() int64 { return v.keys }

// Get returns the newest version of key. It allocates nothing.
func (v *View) Get(key []byte) (Record, bool) { return v.get(key) }

// RangeEach is Range without a slice: yield gets the records in key order until the limit or until it says false.
// Any other order is ErrUnsupported.
func (v *View) RangeEach(o RangeOptions, yield func(Record) bool) error {
	rev, err := v.resolve(o.Rev)
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	if !o.keyOrder() || o.CountOnly {
		return fmt.Errorf("%w: a stream is in ascending key order and has records; use Range", ErrUnsupported)
	}
	filtered, left := o.filtered(), o.Limit
	visit := func(ref uint64) bool {
		r, ok := v.version(ref, rev)
		if !ok || filtered && !o.keeps(r) {
			return true
		}
		left--
		return yield(r) && left != 0
	}
	if len(o.End) == 0 {
		if ref, ok := lookup(v.h, v.root, o.Key); ok {
			visit(ref)
		}
		return nil
	}
	v.scan(o.Key, o.End, visit)
	return nil
}

// Events visits the changes of the revisions from <= rev <= to in order, until yield says false. Revisions after the
// View's have not happened yet. ErrCompacted if from is below the compacted revision.
//
// An event at the compacted revision itself has no Prev: the version before it is compacted.
func (v *View) Events(from, to int64, yield func(Event) bool) error {
	if from < v.compactRev {
		return fmt.Errorf("%w: events from %d, compacted at %d", ErrCompacted, from, v.compactRev)
	}
	h := v.h
	h.each(h.from(from), func(_ place, seq uint64, e entry) bool {
		rev := e.main()
		if rev > to {
			return false
		}
		ev := Event{Rev: rev, Delete: e.tombstone(), KV: e.record()}
		if rev <= v.compactRev {
			// Of a key changed twice at the compacted revision only the last change survives.
			if !v.survives(seq, e) {
				return true
			}
		} else if prev := e.prev(); prev != 0 {
			if _, before, ok := h.at(prev, rev-1); ok && !before.tombstone() && ev.KV.CreateRevision() != rev {
				ev.Prev = before.record()
			}
			if simbug.On(simbug.PrevIsNew) {
				ev.Prev = ev.KV
			}
		}
		return yield(ev)
	})
	return nil
}

// survives reports whether an entry at or below the compacted revision is still part of the state: the newest of its
// key there, and not a tombstone from before.
func (v *View) survives(seq uint64, e entry) bool {
	ref, ok := lookup(v.h, v.root, e.key())
	if !ok {
		return false
	}
	newest, e, ok := v.h.at(ref, v.compactRev)
	return ok && newest == seq && (!e.tombstone() || e.main() == v.compactRev)
}

// marks is a set of entries at or below the compacted revision.
type marks struct {
	h    *history
	bits [][]uint64 // by chunk
}

func (m *marks) add(seq uint64) {
	p, ok := m.h.locate(seq)
	if !ok {
		panic("mvcc: marking a version that is gone")
	}
	if m.bits[p.chunk] == nil {
		m.bits[p.chunk] = make([]uint64, (m.h.chunkAt(p.chunk).len()+63)/64)
	}
	m.bits[p.chunk][p.i>>6] |= 1 << (p.i & 63)
}

func (m *marks) has(p place) bool {
	b := m.bits[p.chunk]
	return b != nil && b[p.i>>6]>>(p.i&63)&1 != 0
}

// newestAt marks, of each key, the version that is newest at rev if it is at or below the compacted revision; a
// tombstone only if it is at the compacted revision and asked for. exist counts the keys that existed at rev.
// What was physically freed makes no difference.
func (v *View) newestAt(rev int64, tombstones bool) (m marks, exist int64) {
	m = marks{h: v.h, bits: make([][]uint64, len(v.h.sealed)+1)}
	var it iterator
	it.seek(v.h, v.root, nil)
	for ref, ok := it.next(); ok; ref, ok = it.next() {
		seq, e, ok := v.h.at(ref, rev)
		if !ok {
			continue
		}
		if !e.tombstone() {
			exist++
		}
		if main := e.main(); main <= v.compactRev && (!e.tombstone() || tombstones && main == v.compactRev) {
			m.add(seq)
		}
	}
	return m, exist
}

// Dump visits what a checkpoint has to hold, in order of revision, until yield says false: every version above the
// compacted revision, and of those at or below it each key's newest (a tombstone only at the very revision). What
// compaction has not freed yet is left out all the same.
func (v *View) Dump(yield func(main, sub int64, tombstone bool, r Record) bool) {
	var m marks
	if v.compactRev > 0 {
		m, _ = v.newestAt(v.compactRev, true)
	}
	v.h.each(place{}, func(p place, _ uint64, e entry) bool {
		main := e.main()
		if main <= v.compactRev && !m.has(p) {
			return true
		}
		return yield(main, e.sub(), e.tombstone(), e.record())
	})
}

// HashKV is a CRC-32C over the versions a reader at revision rev or above can see (rev <= 0: the current one), the
// same on every member whatever each has physically freed, and the same number etcd 3.6 and later compute for it.
// hashRev is the revision hashed.
func (v *View) HashKV(rev int64) (hash uint32, compactRev, hashRev int64, err error) {
	if rev, err = v.resolve(rev); err != nil {
		return 0, v.compactRev, 0, err
	}
	m, exist := v.newestAt(rev, false)
	if exist == 0 && rev > v.compactRev {
		// etcd's rule: when nothing would survive a compaction at rev, the survivors of the last one count.
		m, _ = v.newestAt(v.compactRev, false)
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	hash = crc32.Update(0, table, []byte("key"))
	buf := make([]byte, 0, 256)
	v.h.each(place{}, func(p place, _ uint64, e entry) bool {
		main := e.main()
		if main > rev {
			return false
		}
		if main <= v.compactRev && !m.has(p) {
			return true
		}
		buf = binary.BigEndian.AppendUint64(buf[:0], uint64(main))
		buf = append(buf, '_')
		buf = binary.BigEndian.AppendUint64(buf, uint64(e.sub()))
		r := e.record()
		if e.tombstone() {
			buf = append(buf, 't')
			r = r[:len(r)-len(r.afterKey())] // etcd stores no mod_revision in a tombstone
		}
		hash = crc32.Update(hash, table, buf)
		hash = crc32.Update(hash, table, r)
		return true
	})
	return hash, v.compactRev, rev, nil
}
