package wal

import (
	"fmt"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"
)

// cut closes the open segment and begins the next, with room for a batch.
func (l *Log) cut(room int64) error {
	// The next header vouches for this file up to off, so that must be true first.
	if err := l.sync(); err != nil {
		return err
	}
	old := l.file
	open := l.segs[len(l.segs)-1]
	h := header{md: l.md, seq: open.seq + 1, pos: l.disk.last, hard: l.disk.hard, prevEnd: l.off}
	if err := l.begin(h, nil, room); err != nil {
		return err
	}
	return old.Close()
}

// ReleaseBefore removes the leading segments that hold only entries with an
// index below the given one. The open segment always stays.
func (l *Log) ReleaseBefore(index uint64) error {
	if err := l.usable(); err != nil {
		return err
	}
	for len(l.segs) > 1 && l.segs[0].max < index {
		// One by one, each made durable: so a gap between segments is never
		// the work of a crash, and Open can refuse one.
		if err := l.remove(l.segs[0].name); err != nil {
			return fmt.Errorf("wal: release before %d: %w", index, err)
		}
		l.segs = l.segs[1:]
	}
	return nil
}

func (l *Log) remove(name string) error {
	if err := l.cfg.FS.Remove(filepath.Join(l.cfg.Dir, name)); err != nil {
		return err
	}
	return l.cfg.syncDir()
}

// Reset discards the whole log, what is buffered included, after a checkpoint at
// p was installed: the next entry is p.Index+1. hs replaces the hard state unless
// it is nil. When Reset returns, this is durable; a crash on the way leaves
// either the old log or the new one.
func (l *Log) Reset(p Position, hs *raftpb.HardState) error {
	if err := l.usable(); err != nil {
		return err
	}
	after := state{last: p, hard: l.now.hard}
	if hs != nil {
		after.hard = hardStateOf(hs)
	}
	void, old := l.segs, l.file
	h := header{md: l.md, seq: void[len(void)-1].seq + 1, pos: p, hard: after.hard, reset: true}
	l.segs = nil
	if err := l.begin(h, nil, 0); err != nil {
		l.segs = void
		return l.fail(err)
	}
	l.buf, l.top = l.buf[:0], 0
	l.now, l.disk = after, after
	if err := old.Close(); err != nil {
		return l.fail(err)
	}
	for _, s := range void {
		if err := l.remove(s.name); err != nil {
			// The new segment already says that they are void; Open tries again.
			l.cfg.Logger.Warn("could not remove a void log segment", "file", s.name, "err", err)
		}
	}
	return nil
}
