package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/vfs"
)

// Errors of this package, to be tested with errors.Is.
var (
	// ErrNotExist: there is no log in the directory; Create one.
	ErrNotExist = errors.New("no log here")
	// ErrExist: Create found a log.
	ErrExist = errors.New("there is a log already")
	// ErrCorrupt: the log is damaged where a crash can't have done it.
	ErrCorrupt = errors.New("log is corrupt")
	// ErrVersion: a newer release wrote the log.
	ErrVersion = errors.New("unknown log format version")
	// ErrFailed: an earlier write or sync failed, so nothing is known about the file.
	ErrFailed = errors.New("log has failed")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("log is closed")
	// ErrOutOfOrder: entries would leave a gap or reach below the log's start.
	ErrOutOfOrder = errors.New("entries don't continue the log")
)

// DefaultSegmentSize is the size segments are preallocated to.
const DefaultSegmentSize = 64 << 20

// defaultFlushAt bounds the buffer: a batch that grows past it is written out
// before its Sync (and synced with it).
const defaultFlushAt = 4 << 20

// Config says where a log lives. FS and Dir are required.
type Config struct {
	FS          vfs.FS
	Dir         string
	SegmentSize int64 // 0 = DefaultSegmentSize
	Logger      *slog.Logger
	NoSync      bool                             // never sync: a power cut may lose or destroy the log
	OnWrite     func(d time.Duration, bytes int) // called after each batch was handed to the file
	OnSync      func(d time.Duration)            // called after each fdatasync of the hot path
	Now         func() time.Time                 // nil = time.Now; times OnWrite and OnSync, and salts segments

	flushAt int // defaultFlushAt, but in tests
}

func (c Config) withDefaults() (Config, error) {
	if c.FS == nil || c.Dir == "" {
		return c, errors.New("wal: FS and Dir must be set")
	}
	if c.SegmentSize <= 0 {
		c.SegmentSize = DefaultSegmentSize
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnWrite == nil {
		c.OnWrite = func(time.Duration, int) {}
	}
	if c.OnSync == nil {
		c.OnSync = func(time.Duration) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.flushAt == 0 {
		c.flushAt = defaultFlushAt
	}
	return c, nil
}

// Metadata names the owner of a log; every segment carries it.
type Metadata struct{ NodeID, ClusterID uint64 }

// Position is a place in the log: an entry's index and term.
type Position struct{ Index, Term uint64 }

// hardState is raftpb.HardState without its pointers.
type hardState struct {
	set                bool
	term, vote, commit uint64
}

func hardStateOf(hs *raftpb.HardState) hardState {
	return hardState{set: true, term: hs.GetTerm(), vote: hs.GetVote(), commit: hs.GetCommit()}
}

func (h hardState) proto() *raftpb.HardState {
	if !h.set {
		return nil
	}
	return &raftpb.HardState{Term: &h.term, Vote: &h.vote, Commit: &h.commit}
}

// state is what a prefix of the log amounts to, entries aside.
type state struct {
	last Position
	hard hardState
}

// Log is an open log. See the package comment for its contract.
type Log struct {
	cfg  Config
	md   Metadata
	segs []segment // oldest first; the last is open in file
	file vfs.File
	crc  uint32 // seed of the open segment's checksums

	off    int64 // where the next batch goes
	synced int64 // everything before is durable
	buf    []byte
	now    state  // with what is buffered
	disk   state  // with what was written
	top    uint64 // highest index buffered
	err    error
	closed bool
}

// segment is a live segment file.
type segment struct {
	header
	name string
	size int64
	max  uint64 // highest index of any entry in it, overwritten ones included
}

// Append buffers a hard state (if hs isn't nil) and entries. They are durable
// after the next Sync. An entry whose index exists replaces it and all after it.
func (l *Log) Append(hs *raftpb.HardState, ents []*raftpb.Entry) error {
	if err := l.usable(); err != nil {
		return err
	}
	if len(ents) > 0 {
		first := ents[0].GetIndex()
		if first <= l.segs[0].pos.Index || first > l.now.last.Index+1 {
			return fmt.Errorf("wal: %w: entry %d, log holds %d to %d", ErrOutOfOrder, first, l.segs[0].pos.Index+1, l.now.last.Index)
		}
		for i, e := range ents {
			if e.GetIndex() != first+uint64(i) {
				return fmt.Errorf("wal: %w: entry %d follows %d", ErrOutOfOrder, e.GetIndex(), first+uint64(i)-1)
			}
		}
	}
	if len(l.buf) == 0 {
		l.buf = append(l.buf, zeroBatchHeader[:]...)
	}
	for _, e := range ents {
		l.buf = appendEntry(l.buf, e)
		l.now.last = Position{e.GetIndex(), e.GetTerm()}
		l.top = max(l.top, e.GetIndex())
	}
	if hs != nil {
		l.now.hard = hardStateOf(hs)
		l.buf = appendHardState(l.buf, l.now.hard)
	}
	if len(l.buf) >= l.cfg.flushAt {
		return l.flush()
	}
	return nil
}

// Sync makes everything appended durable. An error is final.
func (l *Log) Sync() error {
	if err := l.usable(); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	return l.sync()
}

// Last returns the position of the last entry appended.
func (l *Log) Last() Position { return l.now.last }

// Size returns the bytes that the live segments take.
func (l *Log) Size() int64 {
	var sum int64
	for _, s := range l.segs {
		sum += s.size
	}
	return sum
}

// Close syncs what was appended, leaves a mark that proves it durable, and
// closes the file. It is idempotent. After a failure it only closes the file.
func (l *Log) Close() error {
	if l.closed {
		return nil
	}
	var err error
	if l.err == nil {
		if err = l.Sync(); err == nil {
			if err = l.writeBatch(append(l.buf[:0], zeroBatchHeader[:]...), kindClosed); err == nil {
				err = l.sync()
			}
		}
	}
	l.closed = true
	return errors.Join(err, l.file.Close())
}

func (l *Log) usable() error {
	switch {
	case l.closed:
		return fmt.Errorf("wal: %w", ErrClosed)
	case l.err != nil:
		return l.err
	}
	return nil
}

// fail makes err final. The owner reports it.
func (l *Log) fail(err error) error {
	if l.err == nil {
		remedy := "restart this member; its log will be checked on open"
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			remedy = "make room on that disk, then start this member again: what it acknowledged is there"
		}
		l.err = fmt.Errorf("wal: %w: %w (%s)", ErrFailed, err, remedy)
	}
	return l.err
}

// flush writes the buffered batch, in a new segment if it doesn't fit this one.
func (l *Log) flush() error {
	if len(l.buf) <= batchHeaderSize {
		l.buf = l.buf[:0]
		return nil
	}
	open := &l.segs[len(l.segs)-1]
	if l.off > headerSize && l.off+padded(len(l.buf)) > open.size {
		if err := l.cut(padded(len(l.buf))); err != nil {
			return l.fail(err)
		}
	}
	if err := l.writeBatch(l.buf, kindData); err != nil {
		return err
	}
	open = &l.segs[len(l.segs)-1]
	open.max = max(open.max, l.top)
	l.top, l.disk = 0, l.now
	if cap(l.buf) > 2*defaultFlushAt {
		l.buf = nil // one huge entry shouldn't hold its memory for ever
	}
	l.buf = l.buf[:0]
	return nil
}

// writeBatch frames b, which starts with room for the batch header, and writes it.
func (l *Log) writeBatch(b []byte, kind uint32) error {
	mark := l.synced
	if l.cfg.NoSync {
		mark = headerSize // nothing is proven
	}
	b = frameBatch(b, l.crc, l.off, mark, kind)
	start := l.cfg.Now()
	if _, err := l.file.WriteAt(b, l.off); err != nil {
		return l.fail(err)
	}
	l.cfg.OnWrite(l.cfg.Now().Sub(start), len(b))
	l.buf = b
	l.off += int64(len(b))
	if open := &l.segs[len(l.segs)-1]; l.off > open.size {
		open.size = l.off
	}
	return nil
}

func (l *Log) sync() error {
	if l.off == l.synced {
		return nil
	}
	if !l.cfg.NoSync {
		start := l.cfg.Now()
		if err := l.file.Sync(); err != nil {
			return l.fail(err)
		}
		l.cfg.OnSync(l.cfg.Now().Sub(start))
	}
	l.synced = l.off
	return nil
}
