package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"
)

// Recovered is what Open found.
type Recovered struct {
	Metadata  Metadata
	HardState *raftpb.HardState // nil if none was ever appended
	Start     Position          // just before the first entry
	Entries   []*raftpb.Entry   // contiguous
	Repaired  string            // what was cut off as a torn tail; empty if nothing
}

// Open reads the log in cfg.Dir, repairs what a crash may have left and makes
// the log ready for appending. See the package comment for the rules.
func Open(cfg Config) (*Log, *Recovered, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	r := &recovery{cfg: cfg}
	if err := r.find(); err != nil {
		return nil, nil, fmt.Errorf("wal: open %s: %w", cfg.Dir, err)
	}
	for i := range r.segs {
		if err := r.replay(i); err != nil {
			return nil, nil, fmt.Errorf("wal: open %s: %w", cfg.Dir, err)
		}
	}
	l, err := r.resume()
	if err != nil {
		return nil, nil, fmt.Errorf("wal: open %s: %w", cfg.Dir, err)
	}
	return l, &Recovered{
		Metadata: l.md, HardState: r.state.hard.proto(), Start: r.start,
		Entries: r.entries, Repaired: r.repaired,
	}, nil
}

// recovery reads a log back.
type recovery struct {
	cfg  Config
	segs []segment
	void []string // segments that a reset left over

	buf      []byte // content of the segment being read
	start    Position
	state    state
	top      uint64 // highest index in the batch being read
	entries  []*raftpb.Entry
	slab     []entrySlab
	repaired string

	last   []batch // those of the last segment
	end    int64   // where they end
	proven int     // how many of them a watermark proves durable
}

// batch is a valid batch of the last segment.
type batch struct {
	off     int64
	before  state // at off
	payload []byte
	max     uint64
}

func (r *recovery) corrupt(name string, off int64, format string, args ...any) error {
	return fmt.Errorf("%w: %s at offset %d: %s (don't edit the file; restore this member from a backup, or remove it from the cluster, clear its data directory and add it again)",
		ErrCorrupt, filepath.Join(r.cfg.Dir, name), off, fmt.Sprintf(format, args...))
}

// find reads the headers and decides which segments are the log.
func (r *recovery) find() error {
	names, err := r.cfg.FS.ReadDir(r.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotExist
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		seq, ok := parseName(name)
		if !ok {
			continue
		}
		h, size, err := r.readHeader(name)
		if err != nil {
			return err
		}
		if h.seq != seq || h.name() != name {
			return r.corrupt(name, 0, "the header is that of %s", h.name())
		}
		if h.reset { // names sort by sequence, so these are all before it
			for _, s := range r.segs {
				r.void = append(r.void, s.name)
			}
			r.segs = nil
		}
		r.segs = append(r.segs, segment{header: h, name: name, size: size})
	}
	if len(r.segs) == 0 {
		return ErrNotExist
	}
	for i, s := range r.segs[1:] {
		switch prev := r.segs[i]; {
		case s.seq != prev.seq+1:
			return r.corrupt(s.name, 0, "the segment before it, number %d, is missing", s.seq-1)
		case s.md != prev.md:
			return r.corrupt(s.name, 0, "it belongs to node %x of cluster %x, the segment before it to node %x of cluster %x",
				s.md.NodeID, s.md.ClusterID, prev.md.NodeID, prev.md.ClusterID)
		}
	}
	r.start = r.segs[0].pos
	r.state = state{last: r.start, hard: r.segs[0].hard}
	return nil
}

func (r *recovery) open(name string, read func(f io.ReaderAt, size int64) error) error {
	f, err := r.cfg.FS.OpenFile(filepath.Join(r.cfg.Dir, name), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err == nil {
		err = read(f, size)
	}
	return errors.Join(err, f.Close())
}

func (r *recovery) readHeader(name string) (h header, size int64, err error) {
	err = r.open(name, func(f io.ReaderAt, n int64) error {
		size = n
		b := make([]byte, min(n, headerSize))
		if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		var err error
		h, err = decodeHeader(b)
		if err != nil && !errors.Is(err, ErrVersion) {
			return r.corrupt(name, 0, "%v", err)
		}
		return err
	})
	return h, size, err
}

// replay reads segment i: up to where its successor says it ends or, of the
// last one, as far as it is valid.
func (r *recovery) replay(i int) error {
	seg := &r.segs[i]
	if seg.pos != r.state.last || seg.hard != r.state.hard {
		return r.corrupt(seg.name, 0, "it begins after entry %d of term %d, but the log before it ends with entry %d of term %d",
			seg.pos.Index, seg.pos.Term, r.state.last.Index, r.state.last.Term)
	}
	if err := r.open(seg.name, r.load); err != nil {
		return err
	}
	last := i == len(r.segs)-1
	limit := int64(len(r.buf))
	if !last {
		limit = r.segs[i+1].prevEnd
	}
	seed := crcSeed(seg.salt, seg.seq)
	off, mark := int64(headerSize), int64(headerSize)
	for off < limit {
		h, payload, next, err := parseBatch(r.buf, off, seed)
		if err != nil {
			break
		}
		b := batch{off: off, before: r.state, payload: append([]byte(nil), payload...)} // entries keep it; buf is reused
		r.top = 0
		if err := decodeRecords(b.payload, r); err != nil {
			return r.corrupt(seg.name, off, "a batch with a valid checksum holds bad records: %v", err)
		}
		b.max = r.top
		seg.max = max(seg.max, b.max)
		mark = max(mark, h.watermark)
		if last {
			r.last = append(r.last, b)
		}
		off = next
	}
	switch {
	case last:
		return r.judgeTail(seg, off, mark, seed)
	case off != limit:
		return r.corrupt(seg.name, off, "no valid batch, though the log goes on to offset %d and in another segment", limit)
	}
	return nil
}

// judgeTail decides what the end of the last segment's valid batches is: the
// end of the log, a torn tail or damage.
func (r *recovery) judgeTail(seg *segment, end, mark int64, seed uint32) error {
	tail := len(trimZeros(r.buf[end:])) // all there is, of a segment that was made in its full size
	for off := end; off < end+int64(tail); off += batchAlign {
		if h, err := parseBatchHeader(r.buf, off, seed); err == nil && h.watermark > end {
			return r.corrupt(seg.name, end, "no valid batch, though everything before offset %d had been synced", h.watermark)
		}
	}
	if tail > 0 {
		r.repaired = fmt.Sprintf("cut a torn tail of %d bytes, never acknowledged, at offset %d of %s", tail, end, seg.name)
		r.cfg.Logger.Warn("repaired the log: "+r.repaired, "dir", r.cfg.Dir, "last_index", r.state.last.Index)
	}
	r.end, r.proven = end, len(r.last)
	for i, b := range r.last {
		if b.off >= mark {
			r.proven = i
			break
		}
	}
	return nil
}

// trimZeros leaves out the zeros at the end, eight at a time as far as it goes.
func trimZeros(b []byte) []byte {
	for len(b) >= 8 && binary.NativeEndian.Uint64(b[len(b)-8:]) == 0 {
		b = b[:len(b)-8]
	}
	return bytes.TrimRight(b, "\x00")
}

// load reads a whole segment into buf.
func (r *recovery) load(f io.ReaderAt, size int64) error {
	if int64(cap(r.buf)) < size {
		r.buf = make([]byte, size)
	}
	r.buf = r.buf[:size]
	n, err := f.ReadAt(r.buf, 0)
	if errors.Is(err, io.EOF) && int64(n) == size {
		err = nil
	}
	return err
}

func (r *recovery) hardState(h hardState) { r.state.hard = h }

// entrySlab is an entry and what it points to, in one piece of memory.
type entrySlab struct {
	entry       raftpb.Entry
	term, index uint64
	typ         raftpb.EntryType
}

func (r *recovery) entry(pos Position, typ raftpb.EntryType, data []byte) error {
	first := r.segs[0]
	switch {
	case pos.Index == 0, pos.Index > r.state.last.Index+1:
		return fmt.Errorf("entry %d follows entry %d", pos.Index, r.state.last.Index)
	case pos.Index <= r.start.Index && (first.seq == 1 || first.reset):
		return fmt.Errorf("entry %d lies before the log's start, %d", pos.Index, r.start.Index)
	}
	r.top = max(r.top, pos.Index)
	r.state.last = pos
	if pos.Index <= r.start.Index {
		// Only after ReleaseBefore: this segment rewrote entries that ended the
		// removed one, so they are released too. They only say where we are.
		r.start, r.entries = pos, nil
		return nil
	}
	if len(r.slab) == 0 {
		r.slab = make([]entrySlab, 64)
	}
	s := &r.slab[0]
	r.slab = r.slab[1:]
	s.term, s.index, s.typ = pos.Term, pos.Index, typ
	s.entry.Term, s.entry.Index, s.entry.Type = &s.term, &s.index, &s.typ
	if len(data) > 0 {
		s.entry.Data = data
	}
	r.entries = append(r.entries[:pos.Index-r.start.Index-1], &s.entry)
	return nil
}

// resume puts what isn't proven durable into a fresh segment and opens it for
// appending.
func (r *recovery) resume() (*Log, error) {
	old := r.segs[len(r.segs)-1]
	l := &Log{cfg: r.cfg, md: old.md, now: r.state, disk: r.state}
	carried := r.last[r.proven:]
	h := header{md: old.md, seq: old.seq + 1, pos: r.state.last, hard: r.state.hard, prevEnd: r.end}
	if len(carried) > 0 {
		h.pos, h.hard, h.prevEnd = carried[0].before.last, carried[0].before.hard, carried[0].off
	}
	replace := r.end-headerSize <= r.cfg.SegmentSize/8
	if replace {
		carried, h = r.last, old.header
	}
	l.segs = r.segs[:len(r.segs)-1]
	if !replace {
		l.segs = r.segs
	}
	var payloads [][]byte
	var top uint64
	for _, b := range carried {
		if len(b.payload) > 0 {
			payloads = append(payloads, b.payload)
			top = max(top, b.max)
		}
	}
	if err := l.begin(h, payloads, 0); err != nil {
		return nil, err
	}
	l.segs[len(l.segs)-1].max = top
	if !replace {
		r.trim(&l.segs[len(l.segs)-2], h.prevEnd)
	}
	for _, name := range r.void {
		if err := l.remove(name); err != nil {
			r.cfg.Logger.Warn("could not remove a void log segment", "file", name, "err", err)
		}
	}
	return l, nil
}

// trim gives back the space behind the valid part of a segment that was left.
// Failing costs space only.
func (r *recovery) trim(seg *segment, end int64) {
	f, err := r.cfg.FS.OpenFile(filepath.Join(r.cfg.Dir, seg.name), os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(f.Truncate(end), f.Close())
	}
	if err != nil {
		r.cfg.Logger.Warn("could not trim a log segment", "file", seg.name, "err", err)
		return
	}
	seg.size = end
}
