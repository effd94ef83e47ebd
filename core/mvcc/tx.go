package mvcc

import "slices"

// Tx is one write transaction, hence at most one new revision. It can't be undone: check first, then write. It is
// valid until Commit; the Store reuses it.
type Tx struct {
	s       *Store
	events  []Event
	scratch []uint64 // index references of a DeleteRange
}

// Event is one change.
type Event struct {
	Rev    int64
	Delete bool
	KV     Record // of a delete: key and mod_revision only
	// Prev is the key's version before this revision; nil if there was none, if it is compacted, and of an event
	// that creates the key, also where the very revision deleted it first.
	Prev Record
}

// Begin opens the one transaction a Store can have open.
func (s *Store) Begin() *Tx {
	s.mustBeIdle("Begin")
	s.open = true
	s.tx.events = nil // the last transaction's are the caller's
	return &s.tx
}

// Rev is the revision a reply should carry now: one more than the store's once something changed.
func (t *Tx) Rev() int64 {
	if len(t.events) > 0 {
		return t.s.rev + 1
	}
	return t.s.rev
}

// Get returns the newest version of key, the transaction's own included.
func (t *Tx) Get(key []byte) (Record, bool) {
	v := t.view()
	return v.get(key)
}

// Range reads as View.Range does, the transaction's own writes included at Rev.
func (t *Tx) Range(o RangeOptions) (RangeResult, error) {
	v := t.view()
	return v.Range(o)
}

func (t *Tx) view() snapshot {
	return snapshot{h: &t.s.h, root: t.s.index.root, rev: t.Rev(), compactRev: t.s.compactRev}
}

// Put writes key and returns what it replaced, or nil. It copies key and value.
func (t *Tx) Put(key, value []byte, lease int64) (prev Record) {
	s := t.s
	kv := KV{Key: key, Value: value, CreateRevision: s.rev + 1, ModRevision: s.rev + 1, Version: 1, Lease: lease}
	leaf, pos, found, fits := s.index.seek(&s.h, key)
	if !found {
		ref := t.write(&kv, 0, nil)
		s.index.insert(&s.h, leaf, pos, fits, key, ref)
		s.live++
		return nil
	}
	ref := &leaf.refs[pos]
	old := s.h.newest(*ref)
	if *ref&tombItem == 0 {
		prev = old.record()
		var version int64
		kv.CreateRevision, _, version, _ = prev.revisions()
		kv.Version = version + 1
	} else {
		s.index.count(+1)
		s.live++
	}
	*ref = t.write(&kv, *ref, old)
	return prev
}

// DeleteRange deletes the keys of a range in key order and returns how many there were; visit, if not nil, gets each
// one's last version. An empty end means key alone, "\x00" everything from key on.
func (t *Tx) DeleteRange(key, end []byte, visit func(prev Record)) int64 {
	s := t.s
	if len(end) == 0 {
		ref, ok := lookup(&s.h, s.index.root, key)
		if !ok || ref&tombItem != 0 {
			return 0
		}
		t.delete(s.h.newest(ref), visit)
		return 1
	}
	// The tree must not change under an iterator, so the references are collected first.
	t.scratch = t.scratch[:0]
	v := t.view()
	v.scan(key, end, func(ref uint64) bool {
		if ref&tombItem == 0 {
			t.scratch = append(t.scratch, ref)
		}
		return true
	})
	for _, ref := range t.scratch {
		t.delete(s.h.newest(ref), visit)
	}
	n := int64(len(t.scratch))
	if cap(t.scratch) > 1<<16 {
		t.scratch = nil // one huge delete shouldn't hold memory for ever
	}
	return n
}

// delete writes the tombstone of a live version.
func (t *Tx) delete(old entry, visit func(prev Record)) {
	s := t.s
	key := old.key()
	leaf, pos, found, _ := s.index.seek(&s.h, key)
	if !found {
		panic("mvcc: a live version is not in the index")
	}
	kv := KV{Key: key, ModRevision: s.rev + 1}
	leaf.refs[pos] = t.write(&kv, leaf.refs[pos], old) | tombItem
	s.index.count(-1)
	s.live--
	if visit != nil {
		visit(old.record())
	}
}

// write appends a version, a tombstone if kv has no version, and notes the event. prev is the index reference of the
// entry it replaces, old; both may be absent.
func (t *Tx) write(kv *KV, prev uint64, old entry) uint64 {
	s := t.s
	tombstone := kv.Version == 0
	charge := int64(kv.encodedLen()) + recordOverhead
	s.written += charge
	s.releasable += releases(charge, tombstone, old)
	seq, e := s.h.append(kv, int64(len(t.events)), tombstone, prev&^tombItem, s.releasable)
	ev := Event{Rev: s.rev + 1, Delete: tombstone, KV: e.record()}
	if old != nil && old.main() > s.rev {
		// A revision's events show the state before it, also where one key was written twice.
		_, old, _ = s.h.at(prev, s.rev)
	}
	if old != nil && !old.tombstone() && kv.CreateRevision != kv.ModRevision {
		ev.Prev = old.record()
	}
	t.events = append(t.events, ev)
	return seq
}

// releases is what a compaction gives back on account of one entry: the version it replaced, and itself if it is a
// tombstone. (A replaced tombstone was given back on its own account.)
func releases(charge int64, tombstone bool, old entry) int64 {
	var n int64
	if tombstone {
		n = charge
	}
	if old != nil && !old.tombstone() {
		n += old.charge()
	}
	return n
}

// Commit ends the transaction. It returns the store's revision and the changes in order, nil if there were none. The
// events are the caller's; their records alias the store.
func (t *Tx) Commit() (rev int64, events []Event) {
	s := t.s
	if !s.open {
		panic("mvcc: Commit without Begin")
	}
	s.open = false
	if len(t.events) > 0 {
		s.rev++
	}
	events, t.events = slices.Clip(t.events), nil
	return s.rev, events
}
