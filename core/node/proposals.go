package node

import (
	"maps"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/simbug"
)

// What becomes of a batch: proposed by a leader, forwarded to one, or held until
// there is one; then spotted in the log, and settled when its place there is applied.

// Propose takes a batch of this member's clients' commands.
func (s *Stepper) Propose(b *Batch) {
	switch {
	case s.role == raft.StateLeader:
		s.propose(b)
	case s.leader != 0:
		s.forward(b)
	case s.heldBytes+len(b.Data) > maxHeldBytes:
		s.fail(b, ErrTooManyRequests)
	default:
		s.held = append(s.held, b)
		s.heldBytes += len(b.Data)
	}
}

func (s *Stepper) propose(b *Batch) {
	b.stamp(s.wall)
	if err := s.r.Propose(b.Data); err != nil {
		// raft drops a proposal when it holds too many uncommitted bytes or
		// hands leadership over. Nothing was appended.
		s.fail(b, ErrTooManyRequests)
		return
	}
	if simbug.On(simbug.AckBeforeCommit) {
		s.fail(b, nil)
	}
	if len(b.IDs) > 0 {
		s.track(b, 0)
	}
}

func (s *Stepper) forward(b *Batch) {
	s.send(s.leader, &Message{kind: msgForward, content: &content{seq: b.IDs[0], batch: b.Data}})
	s.track(b, s.leader)
}

// track remembers whose batch is on its way, not what is in it: it is never sent again.
func (s *Stepper) track(b *Batch, sentTo uint64) {
	b.Data, b.offs = nil, nil
	b.term, b.sentTo = s.term, sentTo
	s.inflight[b.IDs[0]] = b
}

func (s *Stepper) fail(b *Batch, err error) {
	for _, id := range b.IDs {
		s.done(Completion{ID: id, Err: err})
	}
}

// dropOverdue gives up batches nobody waits for any more. Of one that was sent
// nobody is told anything: it may be executed yet, and the results go from the
// machine to whoever waits. One that was seen in the log ends with its place there.
func (s *Stepper) dropOverdue() {
	for len(s.held) > 0 && s.held[0].deadline < s.now {
		s.heldBytes -= len(s.held[0].Data)
		s.fail(s.held[0], ErrNoLeader)
		s.held = s.held[1:]
	}
	maps.DeleteFunc(s.inflight, func(_ uint64, b *Batch) bool { return b.index == 0 && b.deadline < s.now })
}

func (s *Stepper) receiveForward(from uint64, m *Message) {
	if m.seq <= s.forwarded[from] && !simbug.On(simbug.ForwardTwice) {
		return // a copy: what was taken must not be taken again, nor called refused
	}
	s.forwarded[from] = m.seq
	code := refusedNoLeader
	if s.role == raft.StateLeader {
		b, err := adopt(m.batch)
		if err != nil {
			return // a peer that sends nonsense gets no answer
		}
		b.stamp(s.wall)
		if s.r.Propose(b.Data) == nil {
			return // it answers itself when it has applied the entry
		}
		code = refusedBusy
	}
	s.send(from, &Message{kind: msgForwardReply, content: &content{seq: m.seq, code: code}})
}

// spot notes where our batches went in the log, on a leader as on a follower.
func (s *Stepper) spot(ents []*raftpb.Entry) {
	if len(s.inflight) == 0 {
		return
	}
	for _, e := range ents {
		member, id, ok := entryID(e)
		if !ok || member != s.cfg.ID {
			continue
		}
		if b := s.inflight[id]; b != nil {
			b.index, b.iterm = e.GetIndex(), e.GetTerm()
		}
	}
}

// settle ends the bookkeeping of a batch of ours whose entry was applied: its
// waiters have their results from the machine.
func (s *Stepper) settle(e *raftpb.Entry) {
	if e.GetType() != raftpb.EntryType_EntryNormal {
		s.settleChange(e)
		return
	}
	if s.leases.expiries > 0 || len(s.leases.notes) > 0 || len(s.inflight) > 0 {
		if member, id, ok := machine.FirstID(e.GetData()); ok && member == s.cfg.ID {
			delete(s.inflight, id)
			s.leases.settle(id)
		}
	}
}

// settleReplaced fails batches whose place in the log was taken by another
// leader's entry: they can no longer take effect there. They were sent once
// only, so they never will.
func (s *Stepper) settleReplaced() {
	if len(s.inflight) == 0 {
		return
	}
	applied := s.r.AppliedIndex()
	var replaced []uint64
	for id, b := range s.inflight {
		if b.index != 0 && b.index <= applied && s.r.TermAt(b.index) != b.iterm {
			replaced = append(replaced, id)
		}
	}
	slices.Sort(replaced)
	for _, id := range replaced {
		b := s.inflight[id]
		delete(s.inflight, id)
		s.fail(b, ErrLeaderChanged)
	}
}

// abandonSent fails what was sent under a leadership that is over. It may or
// may not be in somebody's log: the caller learns that nobody knows. Batches
// whose log position is known here wait on: they will be applied or replaced.
func (s *Stepper) abandonSent() {
	for _, id := range slices.Sorted(maps.Keys(s.inflight)) {
		b := s.inflight[id]
		if b.term < s.term && b.index == 0 {
			delete(s.inflight, id)
			if simbug.On(simbug.TellRefused) {
				s.fail(b, ErrNoLeader)
			}
			s.fail(b, ErrLeaderChanged)
		}
	}
}

func (s *Stepper) releaseHeld() {
	held := s.held
	s.held, s.heldBytes = nil, 0
	for _, b := range held {
		s.Propose(b)
	}
}

const maxHeldBytes = 16 << 20 // batches waiting for a leader
