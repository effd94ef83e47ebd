package mvcc

import (
	"errors"
	"fmt"
)

var (
	// ErrCompacted: the revision asked for is below the compacted one. Read at a newer revision.
	ErrCompacted = errors.New("mvcc: required revision has been compacted")
	// ErrFutureRev: the revision asked for has not been written yet.
	ErrFutureRev = errors.New("mvcc: required revision is a future revision")
	// ErrUnsupported: a combination of range options that has no answer; the message names it.
	ErrUnsupported = errors.New("mvcc: unsupported range option")
)

// Store is the key-value state and its history. It has one owner, the applier; Views it publishes are anyone's.
type Store struct {
	h     history
	index tree
	live  int64 // keys that exist now

	rev        int64
	compactRev int64 // -1 until the first compaction, so that Compact(0) works once

	// written is what all versions ever appended were charged; released, what compaction gave back; releasable, what
	// a compaction at the newest revision would have given back in all. Each entry keeps the value of releasable it
	// led to: a version is given back from the revision that replaced it on, a tombstone from its own.
	written, released, releasable int64

	tx       Tx
	open     bool // Invariant: a transaction is open; nothing else may change or publish the store
	physical compaction
}

// New returns an empty store: revision 1, never compacted.
func New() *Store {
	s := &Store{index: newTree(), rev: 1, compactRev: -1}
	s.h.size, s.h.next, s.h.tail.first = chunkSize, 1, 1
	s.physical.done, s.physical.target = -1, -1
	s.tx.s = s
	return s
}

// Rev is the current revision: that of the last transaction that changed something.
func (s *Store) Rev() int64 { return s.rev }

// CompactRev is the compacted revision, or -1.
func (s *Store) CompactRev() int64 { return s.compactRev }

// Bytes is what the quota is held against: the encoded bytes of all versions a compaction has not released, plus a
// fixed charge each. It depends on the sequence of writes and compactions alone, never on physical progress.
func (s *Store) Bytes() int64 { return s.written - s.released }

// Keys is the number of keys that exist now.
func (s *Store) Keys() int64 { return s.live }

// SweptRev is how far CompactStep has come, which differs between members: what
// they answer must not depend on it.
func (s *Store) SweptRev() int64 { return s.physical.done }

// Compact gives up all revisions below rev: reads there fail from now on, and versions replaced at or before rev no
// longer count. It takes O(log n); CompactStep frees the memory later.
//
// ErrCompacted if rev is not above the last one compacted, ErrFutureRev if it has not been written.
func (s *Store) Compact(rev int64) error {
	s.mustBeIdle("Compact")
	if rev <= s.compactRev {
		return fmt.Errorf("%w: %d, compacted at %d", ErrCompacted, rev, s.compactRev)
	}
	if rev > s.rev {
		return fmt.Errorf("%w: compaction of %d, now at %d", ErrFutureRev, rev, s.rev)
	}
	s.compactRev = rev
	// The last entry at or below rev knows the total. Where a restore left a gap below rev it may be older than the
	// last compaction, hence max.
	if e, ok := s.h.before(s.h.from(rev + 1)); ok {
		s.released = max(s.released, e.released())
	}
	return nil
}

// Publish freezes the present state as a View, in O(1). Later writes copy what the View holds.
func (s *Store) Publish() *View {
	s.mustBeIdle("Publish")
	v := &View{frozen: s.h, keys: s.live}
	v.snapshot = snapshot{h: &v.frozen, root: s.index.freeze(), rev: s.rev, compactRev: s.compactRev}
	return v
}

func (s *Store) mustBeIdle(op string) {
	if s.open {
		panic("mvcc: " + op + " inside a transaction")
	}
}
