package mvcc

import (
	"encoding/binary"
	"slices"
	"sort"
)

const (
	// chunkSize is the most bytes of records a chunk holds, unless it holds a single larger one.
	chunkSize = 1 << 20
	// minChunk is the first size of a tail. It doubles up to chunkSize, so that a small store is small.
	minChunk = 4 << 10

	// headerSize is what precedes each Record in a chunk:
	//	prev     8 bytes  sequence number of the version this one replaced, or 0
	//	released 8 bytes  see Store.released: what a compaction at this revision would release in all
	//	sub      4 bytes  sub-revision, top bit set for a tombstone
	headerSize = 20
	tombFlag   = 1 << 31

	// recordOverhead is what the quota charges for a version beyond its encoded bytes: about what header, offset and
	// index take. Invariant: never changes, because every replica has to refuse at the same byte.
	recordOverhead = 48
)

// entry is a header and its Record.
type entry []byte

func (e entry) prev() uint64        { return binary.LittleEndian.Uint64(e) }
func (e entry) released() int64     { return int64(binary.LittleEndian.Uint64(e[8:])) }
func (e entry) tombstone() bool     { return binary.LittleEndian.Uint32(e[16:])&tombFlag != 0 }
func (e entry) sub() int64          { return int64(binary.LittleEndian.Uint32(e[16:]) &^ tombFlag) }
func (e entry) record() Record      { return Record(e[headerSize:]) }
func (e entry) key() []byte         { return e.record().Key() }
func (e entry) main() int64         { return e.record().ModRevision() }
func (e entry) charge() int64       { return int64(len(e)) - headerSize + recordOverhead }
func (e entry) setPrev(s uint64)    { binary.LittleEndian.PutUint64(e, s) }
func (e entry) setReleased(n int64) { binary.LittleEndian.PutUint64(e[8:], uint64(n)) }

// chunk is a run of entries in rising order of sequence number, hence of revision. Readers use everything but dead.
// A sealed chunk never changes; the tail's slices only grow, so a reader that copied them keeps a valid prefix.
type chunk struct {
	first uint64   // sequence number of entry 0
	buf   []byte   // the entries, end to end
	offs  []uint32 // where each begins
	seqs  []uint32 // each one's sequence number less first; nil if it is its index (nothing was dropped)
	dead  deadSet  // the writer's
}

// deadSet says which entries of a chunk no reader at or after the compacted revision can reach.
type deadSet struct {
	bits  []uint64
	count int
	bytes int
}

func (d *deadSet) has(i int) bool { return i>>6 < len(d.bits) && d.bits[i>>6]>>(i&63)&1 != 0 }

func (d *deadSet) add(i, size int) {
	for i>>6 >= len(d.bits) {
		d.bits = append(d.bits, 0)
	}
	d.bits[i>>6] |= 1 << (i & 63)
	d.count++
	d.bytes += size
}

func (c *chunk) len() int { return len(c.offs) }

func (c *chunk) entry(i int) entry {
	end := len(c.buf)
	if i+1 < len(c.offs) {
		end = int(c.offs[i+1])
	}
	return entry(c.buf[c.offs[i]:end:end])
}

func (c *chunk) seq(i int) uint64 {
	if c.seqs == nil {
		return c.first + uint64(i)
	}
	return c.first + uint64(c.seqs[i])
}

// lowerBound is the index of the first entry with a sequence number >= seq; seq must be >= c.first.
func (c *chunk) lowerBound(seq uint64) int {
	d := seq - c.first
	if c.seqs == nil {
		return int(min(d, uint64(len(c.offs))))
	}
	if d > uint64(c.seqs[len(c.seqs)-1]) {
		return len(c.seqs)
	}
	i, _ := slices.BinarySearch(c.seqs, uint32(d))
	return i
}

// history is all entries in order of revision: sealed chunks, then the tail. It is the revision index too. A View
// holds a copy: firsts and sealed are replaced, never changed, below the length the copy has seen.
type history struct {
	firsts  []uint64 // sealed[i].first, apart because the search wants them close together
	sealed  []*chunk
	tail    chunk
	next    uint64 // sequence number of the next entry; the first one is 1
	size    int    // chunkSize, but for tests that want many chunks
	tailCap int    // first capacity of the next tail
}

// place is where an entry is: chunk number (len(sealed) is the tail) and index in it.
type place struct{ chunk, i int }

func (h *history) chunkAt(n int) *chunk {
	if n == len(h.sealed) {
		return &h.tail
	}
	return h.sealed[n]
}

// chunkOf is the number of the chunk that holds seq if any does, or -1.
func (h *history) chunkOf(seq uint64) int {
	if seq >= h.tail.first {
		return len(h.sealed)
	}
	lo, hi := 0, len(h.firsts)
	for lo < hi {
		if m := int(uint(lo+hi) >> 1); h.firsts[m] <= seq {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo - 1
}

// find returns the entry, or false if it was compacted away.
func (h *history) find(seq uint64) (entry, bool) {
	p, ok := h.locate(seq)
	if !ok {
		return nil, false
	}
	return h.chunkAt(p.chunk).entry(p.i), true
}

func (h *history) locate(seq uint64) (place, bool) {
	n := h.chunkOf(seq)
	if n < 0 {
		return place{}, false
	}
	c := h.chunkAt(n)
	i := c.lowerBound(seq)
	if i == c.len() || c.seqs != nil && c.seq(i) != seq {
		return place{}, false
	}
	return place{n, i}, true
}

// newest returns the entry an index item points at. Invariant: it is always there.
func (h *history) newest(it uint64) entry {
	e, ok := h.find(it &^ tombItem)
	if !ok {
		panic("mvcc: index points at a version that is gone")
	}
	return e
}

// at follows the chain of versions from an index item to the one that was newest at revision rev, tombstones
// included. False means there was none, or it was a tombstone below the compacted revision and is gone.
func (h *history) at(it uint64, rev int64) (seq uint64, e entry, ok bool) {
	for seq = it &^ tombItem; seq != 0; seq = e.prev() {
		if e, ok = h.find(seq); !ok {
			return 0, nil, false
		}
		if e.main() <= rev {
			return seq, e, true
		}
	}
	return 0, nil, false
}

// from is the place of the first entry with main revision >= rev, possibly the end.
func (h *history) from(rev int64) place {
	// The last chunk that begins below rev is the first that can hold rev.
	n := sort.Search(len(h.sealed)+1, func(n int) bool {
		c := h.chunkAt(n)
		return c.len() == 0 || c.entry(0).main() >= rev
	})
	if n > 0 {
		c := h.chunkAt(n - 1)
		if i := sort.Search(c.len(), func(i int) bool { return c.entry(i).main() >= rev }); i < c.len() {
			return place{n - 1, i}
		}
	}
	return place{n, 0}
}

// each visits entries in order from p until yield says false.
func (h *history) each(p place, yield func(p place, seq uint64, e entry) bool) {
	for ; p.chunk <= len(h.sealed); p = (place{p.chunk + 1, 0}) {
		for c := h.chunkAt(p.chunk); p.i < c.len(); p.i++ {
			if !yield(p, c.seq(p.i), c.entry(p.i)) {
				return
			}
		}
	}
}

// append stores a version at the end and returns its sequence number and entry.
func (h *history) append(kv *KV, sub int64, tombstone bool, prev uint64, released int64) (uint64, entry) {
	size := headerSize + kv.encodedLen()
	h.makeRoom(size)
	t := &h.tail
	start := len(t.buf)
	flags := uint32(sub)
	if tombstone {
		flags |= tombFlag
	}
	b := binary.LittleEndian.AppendUint64(t.buf, prev)
	b = binary.LittleEndian.AppendUint64(b, uint64(released))
	b = binary.LittleEndian.AppendUint32(b, flags)
	t.buf = appendRecord(b, kv)
	t.offs = append(t.offs, uint32(start))
	seq := h.next
	h.next++
	e := entry(t.buf[start:len(t.buf):len(t.buf)])
	if start == 0 && h.big(size) {
		h.seal()
	}
	return seq, e
}

// big reports whether a record that doesn't fit into the tail gets a chunk of its own, so that no more than an eighth
// of a chunk is lost at its end.
func (h *history) big(size int) bool { return size >= h.size/8 }

// makeRoom leaves a tail with size bytes of capacity.
func (h *history) makeRoom(size int) {
	t := &h.tail
	need := len(t.buf) + size
	if need <= cap(t.buf) {
		return
	}
	if len(t.buf) > 0 && (need > h.size || h.big(size)) {
		h.seal()
		need = size
	}
	if h.big(size) {
		t.buf = make([]byte, 0, size)
		return
	}
	// A full tail is followed by one of full size; others grow, the old bytes staying with the views that saw them.
	grown := min(max(h.tailCap, 2*cap(t.buf), need, minChunk), h.size)
	t.buf = append(make([]byte, 0, grown), t.buf...)
}

// seal ends the tail and starts an empty one.
func (h *history) seal() {
	c := h.tail
	h.tailCap = min(cap(c.buf), h.size)
	if cap(c.buf)-len(c.buf) > len(c.buf)/8 {
		c.buf = append(make([]byte, 0, len(c.buf)), c.buf...)
		h.tailCap = min(len(c.buf), h.size) // a big record came early; it may again
	}
	if len(c.offs) == 1 {
		h.tailCap = 0 // a big record's own chunk says nothing about the next
	}
	offs := len(c.offs)
	c.offs = append(make([]uint32, 0, offs), c.offs...)
	h.sealed = append(h.sealed, &c)
	h.firsts = append(h.firsts, c.first)
	h.tail = chunk{first: h.next, offs: make([]uint32, 0, offs)}
}

// replace puts c (or nothing, if nil) in the place of sealed chunks [i, j), in new slices.
func (h *history) replace(i, j int, c *chunk) {
	sealed := make([]*chunk, 0, len(h.sealed)+1)
	sealed = append(sealed, h.sealed[:i]...)
	if c != nil {
		sealed = append(sealed, c)
	}
	h.sealed = append(sealed, h.sealed[j:]...)
	h.firsts = make([]uint64, len(h.sealed), len(h.sealed)+1)
	for n, c := range h.sealed {
		h.firsts[n] = c.first
	}
}

// before returns the entry in front of p.
func (h *history) before(p place) (entry, bool) {
	for ; p.i == 0; p.i = h.chunkAt(p.chunk).len() {
		if p.chunk--; p.chunk < 0 {
			return nil, false
		}
	}
	return h.chunkAt(p.chunk).entry(p.i - 1), true
}
