package mvcc

import (
	"math"

	"github.com/musterhq/muster/core/simbug"
)

// compaction is the physical side of Compact: which deaths have been marked, and how far the sweep is.
type compaction struct {
	done   int64 // every version a compaction at done kills is marked dead
	target int64 // the pass under way marks up to here; == done when none is
	seq    uint64
	sweep  int // next chunk to look at
	state  phase
	merge  merge
}

type phase uint8

const (
	idle phase = iota
	marking
	sweeping
	merging
)

// merge copies the living of sealed chunks [i, j) into one new chunk.
type merge struct {
	i, j int
	at   place
	out  chunk
}

// CompactStep does up to n records' worth of the physical work that compactions have left, and reports whether there
// is more. Nothing a reader can see depends on it. The applier calls it between batches.
//
// First the records of the newly compacted revisions are read in order: each names the version it replaced, which is
// now dead. Then chunks more than half dead, and neighbours that fit together into half a chunk, are copied without
// their dead. So memory stays below twice the living plus a constant, and every copied byte is paid for by a freed one.
func (s *Store) CompactStep(n int) (more bool) {
	s.mustBeIdle("CompactStep")
	c := &s.physical
	for n > 0 {
		switch c.state {
		case idle:
			if s.compactRev <= c.done {
				return false
			}
			// Tombstones at the last compacted revision were kept; their time has come.
			c.target, c.state, c.seq = s.compactRev, marking, s.h.next
			if p := s.h.from(c.done); p.i < s.h.chunkAt(p.chunk).len() {
				c.seq = s.h.chunkAt(p.chunk).seq(p.i)
			}
		case marking:
			n -= s.mark(n)
		case sweeping:
			n--
			s.sweepChunk()
		case merging:
			n -= s.copyLiving(n)
		}
	}
	return c.state != idle || s.compactRev > c.done
}

// mark reads up to n records of the pass and marks what they kill.
func (s *Store) mark(n int) (read int) {
	c := &s.physical
	ended := true
	start := s.h.chunkOf(c.seq)
	s.h.each(place{start, s.h.chunkAt(start).lowerBound(c.seq)}, func(p place, seq uint64, e entry) bool {
		main := e.main()
		if main > c.target {
			return false
		}
		if read == n {
			c.seq, ended = seq, false
			return false
		}
		read++
		if prev := e.prev(); prev != 0 && main > c.done {
			if p, ok := s.h.locate(prev); ok {
				s.h.kill(p)
			}
		}
		if e.tombstone() && (main < c.target || simbug.On(simbug.DropTombstone)) {
			s.h.kill(p)
			s.forget(e.key(), seq)
		}
		return true
	})
	if ended {
		c.done, c.state, c.sweep = c.target, sweeping, 0
	}
	return max(read, 1)
}

// kill marks an entry dead, once.
func (h *history) kill(p place) {
	c := h.chunkAt(p.chunk)
	if !c.dead.has(p.i) {
		c.dead.add(p.i, len(c.entry(p.i)))
	}
}

// forget takes a key out of the index if the tombstone seq is still its newest version.
func (s *Store) forget(key []byte, seq uint64) {
	if ref, ok := lookup(&s.h, s.index.root, key); !ok || ref != seq|tombItem {
		return
	}
	leaf, pos, _, _ := s.index.seek(&s.h, key)
	s.index.remove(&s.h, leaf, pos)
}

// living is the bytes of a chunk's entries that are not dead.
func (c *chunk) living() int { return len(c.buf) - c.dead.bytes }

// sweepChunk looks at one sealed chunk and starts a merge if one is worth it. The tail waits until it is sealed.
func (s *Store) sweepChunk() {
	c, h := &s.physical, &s.h
	if c.sweep >= len(h.sealed) {
		c.state = idle
		return
	}
	i := c.sweep
	first := h.sealed[i]
	living, worth := first.living(), first.dead.bytes > len(first.buf)/2
	j := i + 1
	for ; j < len(h.sealed); j++ {
		next := h.sealed[j]
		if living+next.living() > h.size/2 || next.seq(next.len()-1)-first.first > math.MaxUint32 {
			break
		}
		living, worth = living+next.living(), true
	}
	if !worth {
		c.sweep++
		return
	}
	entries := 0
	for _, x := range h.sealed[i:j] {
		entries += x.len() - x.dead.count
	}
	c.merge = merge{i: i, j: j, at: place{i, 0}, out: chunk{
		buf: make([]byte, 0, living), offs: make([]uint32, 0, entries), seqs: make([]uint32, 0, entries),
	}}
	c.state = merging
}

// copyLiving goes on with a merge for up to n entries. Nothing in its chunks can die meanwhile: only marking kills.
func (s *Store) copyLiving(n int) (read int) {
	c, h := &s.physical, &s.h
	m := &c.merge
	out := &m.out
	for ; m.at.chunk < m.j; m.at = (place{m.at.chunk + 1, 0}) {
		src := h.sealed[m.at.chunk]
		for ; m.at.i < src.len(); m.at.i++ {
			if read == n {
				return read
			}
			read++
			if src.dead.has(m.at.i) {
				continue
			}
			if out.len() == 0 {
				out.first = src.seq(m.at.i)
			}
			out.seqs = append(out.seqs, uint32(src.seq(m.at.i)-out.first))
			out.offs = append(out.offs, uint32(len(out.buf)))
			out.buf = append(out.buf, src.entry(m.at.i)...)
		}
	}
	switch last := out.len() - 1; {
	case last < 0:
		h.replace(m.i, m.j, nil)
	default:
		if out.seqs[last] == uint32(last) {
			out.seqs = nil // no holes
		}
		done := *out
		h.replace(m.i, m.j, &done)
		c.sweep++
	}
	m.out = chunk{}
	c.state = sweeping
	return max(read, 1)
}
