package replica

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/simbug"
)

// Config says who a replica is and what its log holds. HardState, ConfState,
// Start and Entries come from recovery; Start is the position just before the
// first entry and must not lie beyond Applied.
type Config struct {
	ID        uint64
	HardState *raftpb.HardState
	ConfState *raftpb.ConfState
	Start     Position
	Entries   []*raftpb.Entry
	Applied   uint64 // index the state machine stands at

	ElectionTicks  int // default 10
	HeartbeatTicks int // default 1

	// KeepBytes bounds the applied entries that stay in memory for slow
	// followers (default 16 MiB).
	KeepBytes int
	// Snapshot describes (and lets the owner pin) the state machine as it
	// stands; called when a follower is too far behind for the window.
	Snapshot func() (*raftpb.Snapshot, error)
	Logger   *slog.Logger
}

// Replica steps raft. See the package documentation for its contract.
type Replica struct {
	raw     *raft.RawNode
	win     *Window
	id      uint64
	soft    raft.SoftState
	term    uint64
	commit  uint64 // as of the last Ready
	applied uint64
	// inFlight counts append tasks handed out and not yet handed back.
	inFlight int
	// lazy is a hard state whose only news is the commit index: it need not
	// be durable, so it rides along with the next write.
	lazy *raftpb.HardState
	// noted is the hard state that was last handed out to be made durable, nil before that.
	noted *raftpb.HardState
	// catching are the followers that have been sent a checkpoint and need the
	// log after it next: their pins move on with them.
	catching      map[uint64]*catching
	electionTicks int
}

// catching is how far such a follower has come.
type catching struct {
	match uint64
	idle  int // ticks since that last changed
}

// AppendTask is one write to the log: entries, a hard state, or a checkpoint
// that replaces the log. The owner writes, syncs if NeedsSync, and hands the
// task back.
type AppendTask struct {
	HardState *raftpb.HardState // nil: unchanged
	Entries   []*raftpb.Entry
	Snapshot  *raftpb.Snapshot // not nil: reset the log to it first
	Commit    bool             // made by CommitTask
	idle      bool             // nothing to write: it waits for those before it
	responses []*raftpb.Message
}

// NeedsSync reports whether somebody waits for the write to be durable.
func (t *AppendTask) NeedsSync() bool {
	return len(t.responses) > 0 && !t.idle || t.Snapshot != nil || t.Commit
}

// ApplyTask is one run of committed entries in order, or, with Restore set,
// the order to load the checkpoint at that position instead.
type ApplyTask struct {
	Entries  []*raftpb.Entry
	Restore  *raftpb.Snapshot
	response *raftpb.Message
}

// Output is what one Ready asks of its owner.
type Output struct {
	Append   *AppendTask
	Apply    *ApplyTask
	Messages []*raftpb.Message // for peers; MsgSnap among them only announces a checkpoint
	Reads    []raft.ReadState
	Early    []*raftpb.Message // only with simbug.AckBeforeDurable
	Changed  bool              // leader, role or term changed

	// More: there may be another Ready, or the owner's answer to this one may
	// lead to one. If not, HasReady need not be asked, which costs memory.
	More bool
}

// New starts a replica from its recovered state.
func New(c Config) (*Replica, error) {
	if c.ElectionTicks == 0 {
		c.ElectionTicks = 10
	}
	if c.HeartbeatTicks == 0 {
		c.HeartbeatTicks = 1
	}
	if c.KeepBytes == 0 {
		c.KeepBytes = 16 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Start.Index > c.Applied {
		return nil, fmt.Errorf("log starts after %d but the state stands at %d: entries in between are missing", c.Start.Index, c.Applied)
	}
	if c.HardState == nil {
		c.HardState = &raftpb.HardState{}
	}
	if commit := c.HardState.GetCommit(); commit < c.Applied {
		return nil, fmt.Errorf("commit index %d lies before the applied index %d", commit, c.Applied)
	}
	win := newWindow(&c)
	if win.last() < c.Applied {
		return nil, fmt.Errorf("log ends at %d before the applied index %d", win.last(), c.Applied)
	}
	raw, err := raft.NewRawNode(&raft.Config{
		ID:                        c.ID,
		ElectionTick:              c.ElectionTicks,
		HeartbeatTick:             c.HeartbeatTicks,
		Storage:                   win,
		Applied:                   c.Applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             1 << 20,
		MaxCommittedSizePerReady:  16 << 20,
		MaxUncommittedEntriesSize: 256 << 20,
		MaxInflightMsgs:           512,
		MaxInflightBytes:          64 << 20,
		CheckQuorum:               true,
		PreVote:                   true,
		DisableProposalForwarding: true,
		StepDownOnRemoval:         true,
		Logger:                    raftLogger{c.Logger},
	})
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	return &Replica{raw: raw, win: win, id: c.ID, term: c.HardState.GetTerm(), commit: c.HardState.GetCommit(), applied: c.Applied, catching: map[uint64]*catching{}, electionTicks: c.ElectionTicks}, nil
}

// Tick advances raft's clock by one tick.
func (r *Replica) Tick() {
	r.raw.Tick()
	for to, c := range r.catching {
		if c.idle++; c.idle > patience*r.electionTicks {
			r.unpin(to)
		}
	}
}

// patience is how many election time-outs the log is held for a follower that
// does not move.
const patience = 10

// Campaign starts an election at once, without waiting for the time-out: what
// a lone member does on start.
func (r *Replica) Campaign() error { return r.raw.Campaign() }

// Step takes a message from a peer. Messages that are of no use any more are
// dropped: raft copes with loss.
func (r *Replica) Step(m *raftpb.Message) {
	if raft.IsLocalMsg(m.GetType()) || m.GetTo() != r.id {
		return
	}
	_ = r.raw.Step(m) // refused messages are the same as lost ones
}

// Propose appends one entry to the leader's log. It fails with
// raft.ErrProposalDropped when this member is not the leader, hands leadership
// over, or holds too many uncommitted bytes.
func (r *Replica) Propose(data []byte) error { return r.raw.Propose(data) }

// ProposeConfChange appends a configuration change.
func (r *Replica) ProposeConfChange(cc raftpb.ConfChangeI) error { return r.raw.ProposeConfChange(cc) }

// ApplyConfChange makes raft use a committed configuration change. It must be
// called before the apply task that holds the change is handed back.
func (r *Replica) ApplyConfChange(cc raftpb.ConfChangeI) *raftpb.ConfState {
	cs := r.raw.ApplyConfChange(cc)
	r.win.conf = cs
	return cs
}

// ReadIndex asks the quorum to confirm the leader; the answer comes back in
// Output.Reads with the same ctx, or never: the caller retries with a fresh one.
func (r *Replica) ReadIndex(ctx []byte) { r.raw.ReadIndex(ctx) }

// TransferLeader starts handing leadership over to another voter.
func (r *Replica) TransferLeader(to uint64) { r.raw.TransferLeader(to) }

// ReportUnreachable tells raft that messages to a peer were lost.
func (r *Replica) ReportUnreachable(id uint64) { r.raw.ReportUnreachable(id) }

// PinSnapshot keeps the entries after index while a checkpoint is on its way
// to a follower.
func (r *Replica) PinSnapshot(to, index uint64) {
	r.win.pins[to] = index
	delete(r.catching, to)
}

// ReportSnapshot ends a checkpoint transfer. The log written meanwhile stays
// until the follower has it, or it would need another checkpoint at once.
func (r *Replica) ReportSnapshot(to uint64, ok bool) {
	status := raft.SnapshotFinish
	if ok {
		r.catching[to] = &catching{}
	} else {
		r.unpin(to)
		status = raft.SnapshotFailure
	}
	r.raw.ReportSnapshot(to, status)
}

func (r *Replica) unpin(to uint64) {
	delete(r.win.pins, to)
	delete(r.catching, to)
}

// movePins lets the pins follow those they are for, up to where they need none.
func (r *Replica) movePins() {
	if len(r.catching) == 0 {
		return
	}
	progress := r.raw.Status().Progress
	for to, c := range r.catching {
		p, ok := progress[to]
		if !ok || p.Match >= r.applied {
			r.unpin(to)
			continue
		}
		if p.Match > c.match {
			c.match, c.idle = p.Match, 0
		}
		if at, pinned := r.win.pins[to]; pinned {
			r.win.pins[to] = max(at, c.match)
		}
	}
}

// Status returns raft's own status, with every follower's progress on a leader.
func (r *Replica) Status() raft.Status { return r.raw.Status() }

// InFlight is the number of log writes handed out and not handed back.
func (r *Replica) InFlight() int { return r.inFlight }

// Voters are the members whose votes raft counts, in order.
func (r *Replica) Voters() []uint64 { return r.raw.Status().Config.Voters[0].Slice() }

// Committed is the index up to which raft knows the log to be committed.
func (r *Replica) Committed() uint64 { return r.raw.BasicStatus().HardState.GetCommit() }

// AppliedIndex is the index the state machine has reported.
func (r *Replica) AppliedIndex() uint64 { return r.applied }

// Term is the current term, as of the last Ready.
func (r *Replica) Term() uint64 { return r.term }

// TermAt is the term of a log entry still in the window, 0 otherwise.
func (r *Replica) TermAt(index uint64) uint64 {
	t, err := r.win.Term(index)
	if err != nil {
		return 0
	}
	return t
}

// HasReady reports whether Ready would return anything.
func (r *Replica) HasReady() bool { return r.raw.HasReady() }

// Ready collects everything raft wants done. Call it until HasReady is false, or Output.More is.
func (r *Replica) Ready() Output {
	rd := r.raw.Ready()
	var out Output
	if rd.SoftState != nil {
		out.Changed = true
		r.soft = *rd.SoftState
	}
	if t := rd.HardState.GetTerm(); t != 0 && t != r.term {
		out.Changed = true
		r.term = t
	}
	r.commit = max(r.commit, rd.HardState.GetCommit())
	out.Reads = rd.ReadStates
	last := len(rd.CommittedEntries) - 1
	out.More = out.Changed || len(out.Reads) > 0 || last >= 0 && rd.CommittedEntries[last].GetIndex() < r.commit
	out.Messages = rd.Messages[:0]
	var answers []*raftpb.Message
	for _, m := range rd.Messages {
		switch {
		case m.GetTo() == raft.LocalAppendThread:
			out.Append = r.appendTask(m)
			if simbug.On(simbug.AckBeforeDurable) {
				out.Early = m.GetResponses()
			}
			if t := out.Append; t != nil && t.idle && r.inFlight == 1 {
				answers, _ = r.Appended(t)
				out.Append, out.More = nil, true
			}
		case m.GetTo() == raft.LocalApplyThread:
			out.Apply = &ApplyTask{Entries: m.GetEntries(), response: m.GetResponses()[0]}
		default:
			out.Messages = append(out.Messages, m)
		}
	}
	out.Messages = append(out.Messages, answers...)
	return out
}

func (r *Replica) appendTask(m *raftpb.Message) *AppendTask {
	t := &AppendTask{Entries: m.GetEntries(), Snapshot: m.GetSnapshot(), responses: m.GetResponses()}
	if m.Term != nil && (m.GetTerm() != 0 || m.GetVote() != 0 || m.GetCommit() != 0) {
		t.HardState = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	if raft.IsEmptySnap(t.Snapshot) {
		t.Snapshot = nil
	}
	if t.Snapshot == nil && len(t.Entries) == 0 && len(t.responses) == 0 {
		r.lazy = t.HardState
		return nil
	}
	if t.HardState == nil {
		t.HardState = r.lazy
	}
	r.lazy = nil
	r.inFlight++
	if t.Snapshot == nil && len(t.Entries) == 0 && r.isNoted(t.HardState) {
		// A follower that is told what is committed, say: it can answer at once.
		t.idle, r.lazy, t.HardState = true, t.HardState, nil
		return t
	}
	if t.HardState != nil {
		r.noted = t.HardState
	}
	return t
}

// isNoted reports whether there is nothing in a hard state to be made durable.
func (r *Replica) isNoted(hs *raftpb.HardState) bool {
	return hs == nil || r.noted != nil && hs.GetTerm() == r.noted.GetTerm() && hs.GetVote() == r.noted.GetVote()
}

// CommitTask is a write of the commit index as it stands, for what must not be
// carried out before a restart would remember that it is committed.
func (r *Replica) CommitTask() *AppendTask {
	hs := r.raw.BasicStatus().HardState
	r.lazy, r.noted = nil, hs
	r.inFlight++
	return &AppendTask{HardState: hs, Commit: true}
}

// Appended takes back a task whose write is durable. Messages for peers that
// had to wait for it come back in the next Ready or are returned here. When the
// task installed a checkpoint, restore is the apply task that has to go into
// the apply queue before any later one.
func (r *Replica) Appended(t *AppendTask) (messages []*raftpb.Message, restore *ApplyTask) {
	r.inFlight--
	if s := t.Snapshot; s != nil {
		md := s.GetMetadata()
		r.win.reset(Position{md.GetIndex(), md.GetTerm()}, md.GetConfState())
		restore = &ApplyTask{Restore: s}
		if simbug.On(simbug.RestoreEarly) {
			r.applied = max(r.applied, md.GetIndex())
		}
	}
	r.win.append(t.Entries)
	for _, m := range t.responses {
		if m.GetTo() == r.id {
			_ = r.raw.Step(m) // a response of an older term is ignored by raft
		} else {
			messages = append(messages, m)
		}
	}
	return messages, restore
}

// Applied takes back a finished apply task.
func (r *Replica) Applied(t *ApplyTask) {
	if t.Restore != nil {
		// Only now: raft takes a checkpoint for applied when it is on disk, but
		// until the machine has loaded it, a read of the view would be stale.
		r.applied = max(r.applied, t.Restore.GetMetadata().GetIndex())
		return
	}
	if n := len(t.Entries); n > 0 {
		r.applied = max(r.applied, t.Entries[n-1].GetIndex())
	}
	_ = r.raw.Step(t.response)
	r.movePins()
	r.win.trim(r.applied)
}

// Leader is the member this replica takes for the leader, 0 if it knows none.
func (r *Replica) Leader() uint64 { return r.soft.Lead }

// IsLeader reports whether this replica leads.
func (r *Replica) IsLeader() bool { return r.soft.RaftState == raft.StateLeader }

// Role is raft's state of this replica.
func (r *Replica) Role() raft.StateType { return r.soft.RaftState }

// raftLogger routes raft's printf-style log into slog. What raft calls info is
// debug for an operator, apart from elections.
type raftLogger struct{ l *slog.Logger }

func (l raftLogger) log(level slog.Level, s string) {
	if l.l.Enabled(context.Background(), level) {
		l.l.Log(context.Background(), level, strings.TrimSpace(s), "component", "raft")
	}
}
func (l raftLogger) Debug(v ...any)              { l.log(slog.LevelDebug, fmt.Sprint(v...)) }
func (l raftLogger) Debugf(f string, v ...any)   { l.logf(slog.LevelDebug, f, v) }
func (l raftLogger) Info(v ...any)               { l.log(slog.LevelDebug, fmt.Sprint(v...)) }
func (l raftLogger) Infof(f string, v ...any)    { l.logf(infoLevel(f), f, v) }
func (l raftLogger) Warning(v ...any)            { l.log(slog.LevelWarn, fmt.Sprint(v...)) }
func (l raftLogger) Warningf(f string, v ...any) { l.logf(slog.LevelWarn, f, v) }
func (l raftLogger) Error(v ...any)              { l.log(slog.LevelWarn, fmt.Sprint(v...)) }
func (l raftLogger) Errorf(f string, v ...any)   { l.logf(slog.LevelWarn, f, v) }
func (l raftLogger) Fatal(v ...any)              { panic(fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(f string, v ...any)   { panic(fmt.Sprintf(f, v...)) }
func (l raftLogger) Panic(v ...any)              { panic(fmt.Sprint(v...)) }
func (l raftLogger) Panicf(f string, v ...any)   { panic(fmt.Sprintf(f, v...)) }

func (l raftLogger) logf(level slog.Level, f string, v []any) {
	if l.l.Enabled(context.Background(), level) {
		l.log(level, fmt.Sprintf(f, v...))
	}
}

func infoLevel(f string) slog.Level {
	if strings.Contains(f, "became") || strings.Contains(f, "elected leader") || strings.Contains(f, "lost leader") || strings.Contains(f, "changed leader") {
		return slog.LevelInfo
	}
	return slog.LevelDebug
}
