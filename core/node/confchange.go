package node

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/replica"
	"github.com/musterhq/muster/core/simbug"
)

// Refusals of a membership change. Nothing was proposed.
var (
	ErrChangeUnderWay   = errors.New("another change of the members is under way; try again when it is done")
	ErrNotEnoughStarted = errors.New("too few members would be started; start the ones that were added, or remove one that is down first")
	ErrUnhealthy        = errors.New("too few members have been connected for long enough; wait, or bring the missing ones back")
	ErrLearnerNotReady  = errors.New("the learner lags too far behind the leader to be promoted, or is not heard; wait until it has caught up, or bring it back")

	// errLeaderMoves: the leader was asked to remove itself and hands its
	// leadership over first, so that the cluster is not without one for an
	// election time-out. The next leader will take the change.
	errLeaderMoves = errors.New("the leader hands its leadership over before it is removed")
)

// learnerReadyPercent is how much of the leader's log a learner must have.
const learnerReadyPercent = 90

// changes is the leader's side of membership changes. raft allows one at a
// time; a second is refused here rather than silently turned into an empty entry.
type changes struct {
	underWay   bool   // one was proposed here and is not applied:
	member, id uint64 // this command,
	index      uint64 // which stands there in the log, 0: not yet
	// waiting came to a leader that has not applied yet what was committed when
	// it came: the rules must not be held against members of the past. At its
	// term's beginning that is all that came before.
	waiting *changeRequest
	asked   map[uint64][]uint64 // the latest requests of each other member: a copy is no request
	// sharedUntil is what was committed when the members last changed: up to here
	// a member that is gone may have answered.
	sharedUntil uint64
	ledSince    time.Duration        // when this member became leader
	moved       uint64               // term in which leadership was handed over for a removal
	restored    uint64               // index of the last checkpoint that raft took
	unsafe      []*replica.ApplyTask // the first has a change that may be forgotten to be committed
}

// changeRequest is a change that a caller of ours (from 0) or another member asks for.
type changeRequest struct {
	from    uint64
	seq     uint64 // what a refusal goes by
	context []byte // machine.ConfChangeContext's
	// deadline is when a caller of ours stops waiting.
	deadline time.Duration
	after    uint64 // what has to be applied before it is decided
}

// ChangeMembers asks for a membership change, encoded as machine.ConfChangeContext
// does, whose command has this id. Its outcome is the machine's result for id; a
// refusal comes as a Completion until the deadline, when its caller stops waiting.
// Like any request it is sent to the leader once.
func (s *Stepper) ChangeMembers(id uint64, deadline time.Duration, context []byte) {
	switch {
	case s.role == raft.StateLeader:
		s.takeChange(changeRequest{seq: id, context: context, deadline: deadline})
	case s.leader != 0:
		s.track(&Batch{IDs: []uint64{id}, deadline: deadline}, s.leader)
		s.send(s.leader, &Message{kind: msgChange, content: &content{seq: id, batch: context}})
	default:
		s.done(Completion{ID: id, Err: ErrNoLeader})
	}
}

// receiveChange takes another member's request, unless it is a copy of one.
func (s *Stepper) receiveChange(from uint64, m *Message) {
	c := &s.changes
	if slices.Contains(c.asked[from], m.seq) && !simbug.On(simbug.ChangeTwice) {
		return
	}
	if c.asked == nil {
		c.asked = map[uint64][]uint64{}
	}
	asked := append(c.asked[from], m.seq)
	c.asked[from] = asked[max(0, len(asked)-maxAskedChanges):]
	s.takeChange(changeRequest{from: from, seq: m.seq, context: m.batch})
}

// maxAskedChanges is how many requests of a member are remembered.
const maxAskedChanges = 16

// takeChange is the leader's answer to a request. What it accepts is answered
// by the asking member itself, when it has applied it.
func (s *Stepper) takeChange(r changeRequest) {
	if err := s.tryChange(r); err != nil {
		s.refuseChange(r, err)
	}
}

func (s *Stepper) refuseChange(r changeRequest, err error) {
	if r.from == 0 {
		s.done(Completion{ID: r.seq, Err: err})
		return
	}
	s.send(r.from, &Message{kind: msgForwardReply, content: &content{seq: r.seq, code: refusalOf(err)}})
}

func (s *Stepper) tryChange(r changeRequest) error {
	if s.role != raft.StateLeader {
		return ErrNoLeader
	}
	c, err := machine.ParseChangeCommand(r.context)
	if err != nil {
		return err
	}
	if r.from != 0 && c.Member != r.from {
		return fmt.Errorf("%w: a change in another member's name", errBadMessage)
	}
	// What is committed will be applied here, too. It may be applied elsewhere
	// already, and the next change be asked for: the followers alone can commit
	// while this member's disk takes its time.
	committed := s.r.Committed()
	busy := s.changes.underWay && (s.changes.index == 0 || s.changes.index > committed) || s.changes.waiting != nil
	if busy && !simbug.On(simbug.SecondChange) {
		return ErrChangeUnderWay
	}
	if r.after == 0 {
		r.after = committed
	}
	if !s.canChange(r.after) {
		s.changes.waiting = &r
		return nil
	}
	if err := s.mayChange(c.Change); err != nil {
		return err
	}
	if s.movesFirst(c.Change) {
		return errLeaderMoves
	}
	machine.StampTime(c.Bytes, s.wall)
	cc, err := c.ConfChange()
	if err != nil {
		return err
	}
	if s.r.ProposeConfChange(cc) != nil {
		return ErrNoLeader // raft is handing leadership over
	}
	s.changes.underWay, s.changes.index, s.changes.member, s.changes.id = true, 0, c.Member, c.ID
	switch {
	case simbug.On(simbug.ChangeAtProposal):
		s.r.ApplyConfChange(cc)
	case simbug.On(simbug.ChangeToldRefused):
		return ErrUnhealthy
	case simbug.On(simbug.ChangeAckEarly) && r.from == 0:
		s.done(Completion{ID: c.ID})
	}
	if r.from == 0 {
		s.track(&Batch{IDs: []uint64{c.ID}, deadline: r.deadline}, 0)
	}
	return nil
}

// canChange: raft turns a change into nothing until the leader has applied the
// one before and all that came before its term.
func (s *Stepper) canChange(after uint64) bool {
	if simbug.On(simbug.SecondChange) || simbug.On(simbug.ChangeBeforeTerm) && !s.changes.underWay {
		return true
	}
	return s.leases.active && !s.changes.underWay && s.r.AppliedIndex() >= after && s.r.TermAt(s.r.AppliedIndex()) == s.term
}

// resume takes up the request that waited for this leader to begin.
func (c *changes) resume(s *Stepper) {
	if c.waiting == nil || !s.canChange(c.waiting.after) {
		return
	}
	r := *c.waiting
	c.waiting = nil
	s.takeChange(r)
}

// demote forgets what a leader had under way. A change in the log may still be
// applied; who asked for it learns that from its own log.
func (c *changes) demote(s *Stepper) {
	c.underWay = false
	if r := c.waiting; r != nil {
		c.waiting = nil
		s.refuseChange(*r, ErrNoLeader)
	}
}

// noteAppended finds the change under way among what goes into the log.
func (c *changes) noteAppended(ents []*raftpb.Entry) {
	if !c.underWay || c.index != 0 {
		return
	}
	for _, e := range ents {
		if e.GetType() == raftpb.EntryType_EntryNormal {
			continue
		}
		if member, id, ok := entryID(e); ok && member == c.member && id == c.id {
			c.index = e.GetIndex()
		}
	}
}

// apply hands on a task for the machine, a change of the members only when its
// commit is on the disk. Of two members the one that stays could not find out any
// more that the other was removed: it would wait for its vote for ever.
func (s *Stepper) apply(t *replica.ApplyTask) {
	change := hasChange(t) && !simbug.On(simbug.ForgetCommit)
	if change {
		s.eff.Append = append(s.eff.Append, s.r.CommitTask())
	}
	if change || len(s.changes.unsafe) > 0 {
		s.changes.unsafe = append(s.changes.unsafe, t)
		return
	}
	s.eff.Apply = append(s.eff.Apply, t)
}

// applyDurable hands on the first change that waited, and what waited behind it
// up to the next one.
func (s *Stepper) applyDurable() {
	waited := s.changes.unsafe
	n := 1
	for n < len(waited) && !hasChange(waited[n]) {
		n++
	}
	s.eff.Apply = append(s.eff.Apply, waited[:n]...)
	s.changes.unsafe = slices.Delete(waited, 0, n)
}

// hide keeps from a member that it is removed until that is sure to be remembered
// here: it leaves when it hears of it.
func (c *changes) hide(m *raftpb.Message) {
	if len(c.unsafe) == 0 || m.Commit == nil {
		return
	}
	for _, e := range c.unsafe[0].Entries {
		if e.GetType() != raftpb.EntryType_EntryNormal && e.GetIndex() <= m.GetCommit() && removes(e) == m.GetTo() {
			before := e.GetIndex() - 1
			m.Commit = &before
			return
		}
	}
}

// removes is the member that a change removes, 0 if none.
func removes(e *raftpb.Entry) uint64 {
	cc, err := decodeConfChange(e)
	if err != nil || len(cc.GetChanges()) != 1 || cc.GetChanges()[0].GetType() != raftpb.ConfChangeType_ConfChangeRemoveNode {
		return 0
	}
	return cc.GetChanges()[0].GetNodeId()
}

// isPast reports whether a task began before the last checkpoint was taken. raft
// goes by the members in that since, and changes from before it would be made a
// second time: a voter be a learner again, one that was removed come back.
func (c *changes) isPast(t *replica.ApplyTask) bool {
	n := len(t.Entries)
	return n > 0 && t.Entries[n-1].GetIndex() <= c.restored && !simbug.On(simbug.ChangeFromPast)
}

func hasChange(t *replica.ApplyTask) bool {
	return slices.ContainsFunc(t.Entries, func(e *raftpb.Entry) bool { return e.GetType() != raftpb.EntryType_EntryNormal })
}

// settleChange ends the bookkeeping of a change that was applied.
func (s *Stepper) settleChange(e *raftpb.Entry) {
	member, id, ok := entryID(e)
	if !ok {
		return
	}
	if member == s.cfg.ID {
		delete(s.inflight, id)
	}
	if s.changes.underWay && s.changes.member == member && s.changes.id == id {
		s.changes.underWay = false
	}
}

// movesFirst starts handing leadership over if the change removes this leader,
// once a term: if that comes to nothing, the removal goes ahead without it. Not so
// if one other stays, whom nobody could tell that the removal was committed.
func (s *Stepper) movesFirst(c membership.Change) bool {
	two := len(s.cfg.View().ConfState.GetVoters()) == 2
	if c.Op != membership.Remove || c.Member.ID != s.cfg.ID || s.changes.moved == s.term && !two {
		return false
	}
	to := s.BestFollower()
	if to == 0 {
		return two
	}
	s.changes.moved = s.term
	s.r.TransferLeader(to)
	return true
}

// mayChange holds a change against etcd's strict rules: no change may take the
// quorum away from those who are up. What may never be is the machine's to
// refuse, on every member alike.
func (s *Stepper) mayChange(c membership.Change) error {
	set, err := membership.NewSet(s.cfg.View().Members, nil)
	if err != nil {
		return err
	}
	if m, known := set.Lookup(c.Member.ID); c.Op == membership.Promote && (m.IsLearner || !known) {
		if err := s.learnerReady(c.Member.ID); err != nil {
			return err
		}
	}
	if s.cfg.NoStrictReconfig {
		return nil
	}
	voters, connected := s.connectedVoters(set)
	switch c.Op {
	case membership.AddVoter, membership.AddLearner:
		if c.Op == membership.AddVoter && !set.ReadyToAdd() {
			return ErrNotEnoughStarted
		}
		// The new member counts as one that is down.
		if voters > 1 && connected < (voters+1)/2+1 {
			return ErrUnhealthy
		}
	case membership.Promote:
		if !set.ReadyToPromote() {
			return ErrNotEnoughStarted
		}
	case membership.Remove:
		m, _ := set.Lookup(c.Member.ID)
		switch {
		case m.IsLearner:
		case !set.ReadyToRemove(c.Member.ID):
			return ErrNotEnoughStarted
		case !s.inContact(c.Member.ID): // down: no part of the active quorum, if this one is of it
			if s.inTouch(set) <= voters/2 {
				return ErrUnhealthy
			}
		case connected-1 < 1+(voters-1)/2:
			return ErrUnhealthy
		}
	}
	return nil
}

func (s *Stepper) learnerReady(id uint64) error {
	if simbug.On(simbug.PromoteUnready) {
		return nil
	}
	progress := s.r.Status().Progress
	p, ok := progress[id]
	if !ok {
		return fmt.Errorf("%w: %s", membership.ErrIDNotFound, formatID(id))
	}
	// One that is not there would make the quorum larger and not help to reach it.
	if p.Match*100 < progress[s.cfg.ID].Match*learnerReadyPercent || !s.inContact(id) {
		return ErrLearnerNotReady
	}
	return nil
}

// connectedVoters counts the voters, and those of them that have been connected
// to this member for the health interval; it itself is one.
func (s *Stepper) connectedVoters(set *membership.Set) (voters, connected int) {
	for _, m := range set.Members() {
		if m.IsLearner {
			continue
		}
		voters++
		if m.ID == s.cfg.ID || s.inContact(m.ID) && s.connectedFor(m.ID) {
			connected++
		}
	}
	return voters, connected
}

// inTouch counts the voters that this member is in contact with, and itself. One
// that stood still for a while takes everybody for down.
func (s *Stepper) inTouch(set *membership.Set) (n int) {
	for _, m := range set.Members() {
		if !m.IsLearner && s.inContact(m.ID) {
			n++
		}
	}
	return n
}

// inContact reports whether a member was heard within an election time-out: a
// connection alone stays up while the process behind it stands still. A new
// leader has not heard everybody yet, for followers don't talk to each other:
// at first a connection is all it can go by. One that stood still knows nothing:
// what it hears first may have been sent by who is gone.
func (s *Stepper) inContact(id uint64) bool {
	if id == s.cfg.ID {
		return true
	}
	if s.drowsy || s.standsStill() {
		return false
	}
	if at, ok := s.heard[id]; ok && at >= s.awake && s.now-at <= s.cfg.ElectionTimeout {
		return true
	}
	if s.now-s.changes.ledSince > s.cfg.ElectionTimeout {
		return false
	}
	if s.cfg.ConnectedSince == nil {
		return true
	}
	_, ok := s.cfg.ConnectedSince(id)
	return ok
}

func (s *Stepper) connectedFor(id uint64) bool {
	if s.cfg.ConnectedSince == nil {
		return true
	}
	since, ok := s.cfg.ConnectedSince(id)
	return ok && s.now-since >= s.cfg.HealthInterval
}

// entryID gives member and id of an entry's first command, a configuration
// change's too.
func entryID(e *raftpb.Entry) (member, id uint64, ok bool) {
	if e.GetType() == raftpb.EntryType_EntryNormal {
		return machine.FirstID(e.GetData())
	}
	cc, err := decodeConfChange(e)
	if err != nil || len(cc.GetContext()) == 0 {
		return 0, 0, false
	}
	c, err := machine.ParseCommand(cc.GetContext())
	return c.Member, c.ID, err == nil
}

// NeedsConfirmation reports whether who asked for a change, and finds it applied, is to
// take another command (a Noop) through the log before saying so: with that entry a
// majority has on its disks that the change is committed. They could forget so in a
// power cut, and if the leader was lost in the same moment count on who was removed, or
// not on who was promoted, for ever (raft goes by applied changes; so does etcd). An
// addition is not confirmed: that may take the vote of one that has yet to come up,
// and nobody relies on it before.
func NeedsConfirmation(c membership.Change) bool {
	return c.Op != membership.AddVoter && c.Op != membership.AddLearner && !simbug.On(simbug.ChangeUnconfirmed)
}

// TransferLeader starts handing leadership to another voter.
func (s *Stepper) TransferLeader(to uint64) { s.r.TransferLeader(to) }
