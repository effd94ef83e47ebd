package replica

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Window is raft's view of the log: a contiguous run of durable entries, kept
// in memory. raft reads entries while it steps, so a storage that went to disk
// would put I/O into the loop; hence a window. It is owned by the Replica.
type Window struct {
	// first is the position just before ents[0]: its term is still known.
	first Position
	ents  []*raftpb.Entry
	bytes int // payload bytes in ents

	hard *raftpb.HardState
	conf *raftpb.ConfState
	// snapshot pins the state machine at its applied index and describes it.
	snapshot func() (*raftpb.Snapshot, error)

	// pins holds, per follower that a checkpoint is being sent to, the index
	// the checkpoint stands at: the entries after it must stay, or the
	// follower would need another checkpoint as soon as it has this one.
	pins map[uint64]uint64
	keep int // bytes of applied entries kept for slow followers
	most int // bytes past which pins are ignored
}

// Position names an entry of the log.
type Position struct{ Index, Term uint64 }

func newWindow(c *Config) *Window {
	w := &Window{
		first: c.Start, hard: c.HardState, conf: c.ConfState,
		snapshot: c.Snapshot, pins: map[uint64]uint64{},
		keep: c.KeepBytes, most: c.KeepBytes + maxPinnedBytes,
	}
	w.append(c.Entries)
	return w
}

// InitialState implements raft.Storage.
func (w *Window) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return w.hard, w.conf, nil
}

// Entries implements raft.Storage.
func (w *Window) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo <= w.first.Index {
		return nil, raft.ErrCompacted
	}
	if hi > w.last()+1 {
		return nil, raft.ErrUnavailable
	}
	ents := w.ents[lo-w.first.Index-1 : hi-w.first.Index-1]
	var size uint64
	for i, e := range ents {
		size += uint64(len(e.GetData())) + entryOverhead
		if size > maxSize && i > 0 {
			ents = ents[:i]
			break
		}
	}
	return ents[:len(ents):len(ents)], nil
}

// Term implements raft.Storage.
func (w *Window) Term(i uint64) (uint64, error) {
	switch {
	case i < w.first.Index:
		return 0, raft.ErrCompacted
	case i == w.first.Index:
		return w.first.Term, nil
	case i > w.last():
		return 0, raft.ErrUnavailable
	}
	return w.ents[i-w.first.Index-1].GetTerm(), nil
}

// FirstIndex implements raft.Storage.
func (w *Window) FirstIndex() (uint64, error) { return w.first.Index + 1, nil }

// LastIndex implements raft.Storage.
func (w *Window) LastIndex() (uint64, error) { return w.last(), nil }

// Snapshot implements raft.Storage: metadata only. The bytes travel apart.
func (w *Window) Snapshot() (*raftpb.Snapshot, error) { return w.snapshot() }

func (w *Window) last() uint64 { return w.first.Index + uint64(len(w.ents)) }

// append takes over entries that are durable now. An entry whose index is
// already held discards it and everything after it.
func (w *Window) append(ents []*raftpb.Entry) {
	if len(ents) == 0 {
		return
	}
	at := ents[0].GetIndex()
	if at <= w.first.Index {
		// Already covered by a checkpoint taken since: keep what lies beyond.
		skip := w.first.Index + 1 - at
		if skip >= uint64(len(ents)) {
			return
		}
		ents, at = ents[skip:], w.first.Index+1
	}
	if at > w.last()+1 {
		panic(fmt.Sprintf("replica: entries from %d do not follow the log's end %d", at, w.last()))
	}
	keep := at - w.first.Index - 1
	for _, e := range w.ents[keep:] {
		w.bytes -= len(e.GetData())
	}
	// The full slice expression makes the overwrite copy: slices that raft
	// was given earlier must not change under it.
	w.ents = append(w.ents[:keep:max(int(keep), appendable(w, keep))], ents...)
	for _, e := range ents {
		w.bytes += len(e.GetData())
	}
}

// appendable is the capacity append may use in place: all of it when nothing
// is overwritten, none beyond the kept part otherwise.
func appendable(w *Window, keep uint64) int {
	if keep == uint64(len(w.ents)) {
		return cap(w.ents)
	}
	return int(keep)
}

// reset discards everything: the log starts over after p.
func (w *Window) reset(p Position, conf *raftpb.ConfState) {
	w.first, w.ents, w.bytes, w.conf = p, nil, 0, conf
}

// trim drops applied entries beyond the tail that is kept. It works in strides
// so that a busy log does not copy its window on every call.
func (w *Window) trim(applied uint64) {
	if w.bytes <= w.keep+w.keep/4 {
		return
	}
	limit := applied
	if w.bytes <= w.most {
		for _, i := range w.pins {
			limit = min(limit, i)
		}
	}
	n := 0
	for n < len(w.ents) && w.bytes > w.keep && w.ents[n].GetIndex() <= limit {
		w.bytes -= len(w.ents[n].GetData())
		n++
	}
	if n == 0 {
		return
	}
	last := w.ents[n-1]
	w.first = Position{last.GetIndex(), last.GetTerm()}
	w.ents = append([]*raftpb.Entry(nil), w.ents[n:]...)
}

const (
	entryOverhead  = 16        // about what raft's encoding adds to an entry's data
	maxPinnedBytes = 256 << 20 // entries held for followers that receive a checkpoint
)
