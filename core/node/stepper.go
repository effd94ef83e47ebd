package node

import (
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/replica"
	"github.com/musterhq/muster/core/simbug"
)

// StepperConfig is what a Stepper needs to know; see NewStepper.
type StepperConfig struct {
	ID      uint64
	Replica *replica.Replica
	// View returns the newest published view: the leases to watch over after
	// an election, the members, the hash to check.
	View func() *machine.View
	// NextID draws ids for the stepper's own commands, from the same source
	// as the clients'.
	NextID func() uint64

	// Settings are this member's flags for what is replicated; zero fields
	// leave the cluster's as they are.
	Settings machine.Settings

	ElectionTimeout time.Duration
	// CheckEvery is how often a leader has all members compare their running
	// hash; 0 means every second.
	CheckEvery time.Duration

	// NoStrictReconfig takes membership changes that could cost the quorum.
	NoStrictReconfig bool
	// HealthInterval is how long members must have been connected before the
	// membership may change.
	HealthInterval time.Duration
	// ConnectedSince says since when this member has been connected to another
	// one, on the stepper's clock; false if it is not. Nil: whoever was heard
	// within an election time-out is connected.
	ConnectedSince func(id uint64) (time.Duration, bool)
}

// Stepper is the member's deterministic half. All methods are called by one
// goroutine, which says what time it is with SetTime before it hands over
// anything else.
type Stepper struct {
	cfg StepperConfig
	r   *replica.Replica
	eff Effects
	// taken is what Take returned last: its memory is used again.
	taken Effects

	now  time.Duration // monotonic, since an arbitrary origin
	wall int64         // unix nanoseconds: what commands are stamped with

	leader uint64
	term   uint64
	role   raft.StateType

	// held batches wait for a leader, or for a connection to it; nothing in them has been sent.
	held      []*Batch
	heldBytes int
	// inflight batches were proposed or forwarded, by the id of their first command,
	// and are not overdue or were seen in the log.
	inflight map[uint64]*Batch

	reads  reads
	leases leases

	// restoring counts the checkpoints that raft took and the machine has not
	// loaded. Read by Member.Install.
	restoring atomic.Int32

	lastTick  time.Duration
	drowsy    bool          // the last tick was the first after a standstill
	awake     time.Duration // since when nothing comes that was sent during one
	nextCheck time.Duration
	checkedAt uint64 // applied index of the last hash check
	versioned bool   // the cluster version was proposed in this term

	// forwarded is the highest sequence number of a batch taken from each member.
	forwarded map[uint64]uint64

	dispute dispute

	changes changes
	heard   map[uint64]time.Duration // when each member was last heard
}

// Effects is what the owner has to do. Order within each slice matters.
type Effects struct {
	Append    []*replica.AppendTask
	Apply     []*replica.ApplyTask
	Send      []Envelope
	Snapshots []*raftpb.Message // announce and stream a checkpoint to m.To
	Done      []Completion
}

// Envelope is a message with its receiver.
type Envelope struct {
	To  uint64
	Msg Message
}

// Completion ends something a caller waits for: a command that will not be
// applied (Err set), a read, a renewal.
type Completion struct {
	ID    uint64
	Err   error
	Lease leaseReply
}

// NewStepper returns a stepper over an opened replica.
func NewStepper(cfg StepperConfig) *Stepper {
	if cfg.CheckEvery == 0 {
		cfg.CheckEvery = time.Second
	}
	s := &Stepper{cfg: cfg, r: cfg.Replica, inflight: map[uint64]*Batch{}, heard: map[uint64]time.Duration{}, forwarded: map[uint64]uint64{}}
	s.leases.init()
	s.term = s.r.Term()
	return s
}

// SetTime tells the stepper what time it is.
func (s *Stepper) SetTime(now time.Duration, wall int64) { s.now, s.wall = now, wall }

// Take returns the effects gathered since the last call. The slices, but not
// what is in them, are valid until the next call.
func (s *Stepper) Take() Effects {
	s.drain()
	if s.eff.empty() {
		return Effects{}
	}
	s.taken.clear()
	s.eff, s.taken = s.taken, s.eff
	return s.taken
}

// drain gathers what raft wants done.
func (s *Stepper) drain() {
	for s.r.HasReady() {
		out := s.r.Ready()
		s.collect(out)
		if !out.More {
			break
		}
	}
}

func (e *Effects) empty() bool {
	return len(e.Append)+len(e.Apply)+len(e.Send)+len(e.Snapshots)+len(e.Done) == 0
}

func (e *Effects) clear() {
	clear(e.Append)
	clear(e.Apply)
	clear(e.Send)
	clear(e.Snapshots)
	clear(e.Done)
	*e = Effects{e.Append[:0], e.Apply[:0], e.Send[:0], e.Snapshots[:0], e.Done[:0]}
}

// Leader is the member taken for the leader, 0 if none is known.
func (s *Stepper) Leader() uint64 { return s.leader }

// Term is raft's current term.
func (s *Stepper) Term() uint64 { return s.term }

// Applied is the index of the last entry reported as applied.
func (s *Stepper) Applied() uint64 { return s.r.AppliedIndex() }

// Role is raft's current role.
func (s *Stepper) Role() raft.StateType { return s.role }

// Voters are the members whose votes raft counts: those of the members' list, as
// far as it is applied.
func (s *Stepper) Voters() []uint64 { return s.r.Voters() }

// Busy reports whether two log writes are under way: proposals that arrive now
// are better gathered into one batch than queued as a third write.
func (s *Stepper) Busy() bool { return s.r.InFlight() >= 2 }

// Solo reports whether this member alone is the cluster, leads it, and has
// applied everything committed before its term. Then each acknowledged write
// has been applied here before its acknowledgement, so the published view is
// linearizable without asking anybody. One that was removed a moment ago may have
// acknowledged what was committed until then, and been quicker to apply it.
func (s *Stepper) Solo() bool {
	if s.role != raft.StateLeader || !s.leases.active || s.changes.underWay || s.r.AppliedIndex() < s.changes.sharedUntil {
		return false
	}
	cs := s.cfg.View().ConfState
	return len(cs.GetVoters()) == 1 && cs.GetVoters()[0] == s.cfg.ID && len(cs.GetLearners()) == 0 && len(cs.GetVotersOutgoing()) == 0
}

// Tick advances time by one raft tick and does what is due.
func (s *Stepper) Tick() {
	stoodStill := s.standsStill()
	if s.drowsy && !stoodStill {
		s.awake = s.now
	}
	s.drowsy = stoodStill
	if stoodStill && s.leases.active {
		// The process stood still. Renewals that arrived meanwhile were not
		// heard: give every lease its full time again rather than expire the
		// ones whose owners did nothing wrong.
		s.leases.lessor.Resume(s.now, s.cfg.View().Leases.Each, s.cfg.ElectionTimeout)
	}
	s.lastTick = s.now
	s.r.Tick()
	s.reads.tick(s)
	s.dropOverdue()
	s.releaseHeld()
	s.leases.forgetOld(s)
	s.askHeld()
	s.expire()
	s.noteRemaining()
	s.check()
	s.tellAgain()
}

// standsStill reports whether this process did until now: ticks are missing.
func (s *Stepper) standsStill() bool {
	return s.lastTick != 0 && s.now-s.lastTick > s.cfg.ElectionTimeout
}

// Campaign starts an election at once; for a lone member, which has nobody to wait for.
func (s *Stepper) Campaign() { _ = s.r.Campaign() }

func (s *Stepper) done(c Completion) { s.eff.Done = append(s.eff.Done, c) }

func (s *Stepper) send(to uint64, m *Message) {
	s.eff.Send = append(s.eff.Send, Envelope{to, *m})
}

// Receive takes a message from a peer.
func (s *Stepper) Receive(from uint64, m *Message) {
	s.heard[from] = s.now
	switch m.kind {
	case msgRaft:
		if m.Raft.GetType() == raftpb.MessageType_MsgReadIndex && s.behindItsTerm() {
			s.reads.hold(from, m.Raft)
			return
		}
		s.r.Step(m.Raft)
		if m.Raft.GetType() == raftpb.MessageType_MsgSnap {
			s.drain() // changes applied from here on may be older than its members
		}
	case msgForward:
		s.receiveForward(from, m)
	case msgForwardReply:
		if b := s.inflight[m.seq]; b != nil && b.sentTo == from && b.index == 0 {
			delete(s.inflight, m.seq)
			s.fail(b, refusalError(m.code))
		}
	case msgChange:
		s.receiveChange(from, m)
	case msgRenew:
		s.receiveRenew(from, m)
	case msgRenewReply:
		s.receiveRenewReply(from, m)
	case msgHash:
		s.receiveHash(from, m)
	case msgAskHash:
		s.tellHash(from, m.seq)
	}
}

// Appended takes back a durable log write.
func (s *Stepper) Appended(t *replica.AppendTask) {
	msgs, restore := s.r.Appended(t)
	if restore != nil {
		s.apply(restore)
	}
	if t.Commit {
		s.applyDurable()
	}
	s.sendRaft(msgs)
}

// ApplyDone reports a finished apply task.
type ApplyDone struct {
	Task *replica.ApplyTask
	// ConfChanges are the configuration changes among its entries, in order,
	// without those the machine refused: raft must not hear of them.
	ConfChanges []*raftpb.ConfChangeV2
	Leases      []machine.LeaseEffect
	Checked     []machine.Checked // what hash checks among its entries found

	Puts, Deletes, Txns uint64 // keys put and deleted, and transactions among its commands
}

// ApplyFinished takes back a finished apply task. The view it led to is published.
func (s *Stepper) ApplyFinished(d ApplyDone) {
	past := s.changes.isPast(d.Task)
	for _, cc := range d.ConfChanges {
		if !past && (!simbug.On(simbug.KeepsVote) || cc.GetChanges()[0].GetType() != raftpb.ConfChangeType_ConfChangeRemoveNode) {
			s.r.ApplyConfChange(cc)
		}
		for _, c := range cc.GetChanges() {
			if c.GetType() == raftpb.ConfChangeType_ConfChangeRemoveNode {
				delete(s.heard, c.GetNodeId())
				delete(s.forwarded, c.GetNodeId())
				delete(s.changes.asked, c.GetNodeId())
			}
		}
	}
	if len(d.ConfChanges) > 0 && !simbug.On(simbug.SoloEarly) {
		s.changes.sharedUntil = s.r.Committed()
	}
	s.r.Applied(d.Task)
	if d.Task.Restore != nil {
		s.restoring.Add(-1)
		s.dispute.checked, s.dispute.differs = nil, false // they were of a state that is gone
	}
	s.leases.apply(s, d.Leases)
	s.noteChecked(d.Checked)
	for _, e := range d.Task.Entries {
		s.settle(e)
	}
	s.settleReplaced()
	s.leases.unpark(s)
	s.maybePromote()
	s.reads.release(s)
}

// collect turns one raft Ready into effects.
func (s *Stepper) collect(out replica.Output) {
	if out.Append != nil {
		s.spot(out.Append.Entries)
		s.changes.noteAppended(out.Append.Entries)
		if p := out.Append.Snapshot; p != nil {
			s.restoring.Add(1)
			s.changes.restored = p.GetMetadata().GetIndex()
		}
		s.eff.Append = append(s.eff.Append, out.Append)
	}
	if out.Apply != nil {
		s.apply(out.Apply)
	}
	s.sendRaft(out.Messages)
	if simbug.On(simbug.AckBeforeDurable) {
		s.sendRaft(slices.DeleteFunc(slices.Clone(out.Early), func(m *raftpb.Message) bool { return m.GetTo() == s.cfg.ID }))
	}
	for _, rs := range out.Reads {
		s.reads.confirmed(s, rs)
	}
	if out.Changed {
		s.noteRole()
	}
}

func (s *Stepper) sendRaft(msgs []*raftpb.Message) {
	for _, m := range msgs {
		if m.GetType() == raftpb.MessageType_MsgSnap {
			s.r.PinSnapshot(m.GetTo(), m.GetSnapshot().GetMetadata().GetIndex())
			s.eff.Snapshots = append(s.eff.Snapshots, m)
			continue
		}
		s.changes.hide(m)
		s.send(m.GetTo(), &Message{kind: msgRaft, Raft: m})
	}
}

// SnapshotSent reports the end of a checkpoint transfer.
func (s *Stepper) SnapshotSent(to uint64, ok bool) { s.r.ReportSnapshot(to, ok) }

// Unreachable reports that messages to a peer were lost, nobody knows which.
func (s *Stepper) Unreachable(id uint64) { s.r.ReportUnreachable(id) }

// noteRole compares raft's idea of leader, term and role with ours and acts on
// what changed.
func (s *Stepper) noteRole() {
	term, leader, role := s.r.Term(), s.r.Leader(), s.r.Role()
	if term == s.term && leader == s.leader && role == s.role {
		return
	}
	was := s.role
	changed := term != s.term || (leader != s.leader && leader != 0)
	s.term, s.leader, s.role = term, leader, role
	if was == raft.StateLeader && role != raft.StateLeader && !simbug.On(simbug.OldLeaderExpires) {
		s.leases.demote(s)
		s.versioned = false
		s.changes.demote(s)
		s.dispute.end()
	}
	if was != raft.StateLeader && role == raft.StateLeader {
		s.changes.ledSince = s.now
	}
	if changed {
		s.abandonSent()
		s.leases.abandonSent(leader)
	}
	s.reads.leaderChanged(s)
	s.releaseHeld()
	if leader != 0 {
		s.askHeld()
	}
	s.maybePromote()
}

// maybePromote starts the lease clocks once the first entry of our term has
// been applied: from then on the published leases are all there are.
func (s *Stepper) maybePromote() {
	if s.role != raft.StateLeader {
		return
	}
	active := s.leases.active
	if simbug.On(simbug.OldLeaderExpires) {
		active = s.leases.lessor.Term() == s.term // that of another term has not been demoted
	}
	if v := s.cfg.View(); !active && v.Term >= s.term {
		s.leases.promote(s.now, s.term, v.Leases, s.cfg.ElectionTimeout)
		s.reads.pump(s)
		s.reads.stepEarly(s)
	}
	s.changes.resume(s)
}

// behindItsTerm reports a leader that has not applied its term's first entry yet.
func (s *Stepper) behindItsTerm() bool {
	return s.role == raft.StateLeader && !s.leases.active && !simbug.On(simbug.ReadBeforeTerm)
}

// check has the members compare their running hash, and settles the cluster's
// version and settings after an election.
func (s *Stepper) check() {
	if !s.leases.active || s.now < s.nextCheck {
		return
	}
	s.nextCheck = s.now + s.cfg.CheckEvery
	v := s.cfg.View()
	if !s.versioned {
		if v.ClusterVersion == "" {
			s.own(machine.ClusterVersion, machine.EncodeClusterVersion(machine.CurrentClusterVersion))
		}
		s.settleSettings(v.Settings)
	}
	s.versioned = true
	if s.disputed(v) || v.Index == s.checkedAt && !s.undecidedLong(v) || len(v.Members) == 1 && !v.Disputed {
		return
	}
	if s.own(machine.HashCheck, machine.EncodeHashCheck(v.Index, v.Hash)) != 0 {
		s.checkedAt = v.Index + 1 // the check is itself an entry
	}
}

// own proposes a command of the stepper's own and returns its id, 0 if raft
// did not take it.
func (s *Stepper) own(kind machine.Kind, body []byte) uint64 {
	b := NewBatch(len(body)+64, 0)
	id := s.cfg.NextID()
	b.Add(&machine.Command{Kind: kind, ID: id, Member: s.cfg.ID, Body: body})
	if simbug.On(simbug.OldLeaderExpires) {
		s.Propose(b)
		return id
	}
	b.stamp(s.wall)
	if s.r.Propose(b.Data) != nil {
		return 0
	}
	return id
}

// BestFollower is the voter that is furthest along, 0 if none is up to date
// enough to take over. Leader only.
func (s *Stepper) BestFollower() uint64 {
	var best, match uint64
	for id, p := range s.r.Status().Progress {
		if id != s.cfg.ID && !p.IsLearner && p.RecentActive && (p.Match > match || (p.Match == match && id < best)) {
			best, match = id, p.Match
		}
	}
	return best
}
