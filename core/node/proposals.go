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
// there is one and a connection to it; then spotted in the log, and settled when its place there is applied.

// Propose takes a batch of this member's clients' commands.
func (s *Stepper) Propose(b *Batch) {
	switch {
	case s.role == raft.StateLeader:
		s.propose(b)
	case s.leader != 0 && len(s.held) == 0:
		s.forward(b)
	default:
		s.hold(b)
	}
}

// hold keeps a batch in the order of the ids, which is that of its client's calls.
func (s *Stepper) hold(b *Batch) {
	if s.heldBytes+len(b.Data) > maxHeldBytes {
		s.fail(b, ErrTooManyRequests)
		return
	}
	at := len(s.held)
	for at > 0 && s.held[at-1].IDs[0] > b.IDs[0] {
		at--
	}
	s.held = slices.Insert(s.held, at, b)
	s.heldBytes += len(b.Data)
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

// MustWait reports that a message is a batch that may not be sent, for one before it was
// not: whoever receives batches takes none that has been overtaken. It goes to Unsent, too.
func (s *Stepper) MustWait(e *Envelope) bool {
	return e.Msg.kind == msgForward && len(s.held) > 0 && s.held[0].IDs[0] < e.Msg.seq
}

// Unsent takes back a message to a peer that there is no connection to. What callers of
// ours wait for is tried again with the next tick, until they have stopped waiting:
// nobody else would tell that it was lost.
func (s *Stepper) Unsent(e *Envelope) {
	s.r.ReportUnreachable(e.To)
	switch e.Msg.kind {
	case msgForward:
		if b := s.unsent(e); b != nil {
			b.Data = e.Msg.batch
			s.hold(b)
		}
	case msgChange:
		if b := s.unsent(e); b != nil {
			s.fail(b, ErrNoLeader)
		}
	case msgRenew:
		if q, ok := s.leases.sent[e.Msg.seq]; ok && q.leader == e.To {
			delete(s.leases.sent, e.Msg.seq)
			s.leases.held = append(s.leases.held, q.question)
		}
	}
}

// unsent forgets that a batch was sent, nil if that has been given up already.
func (s *Stepper) unsent(e *Envelope) *Batch {
	b := s.inflight[e.Msg.seq]
	if b == nil || b.sentTo != e.To || b.index != 0 {
		return nil
	}
	delete(s.inflight, e.Msg.seq)
	return b
}

// track remembers whose batch is on its way, not what is in it: it is never sent again.
func (s *Stepper) track(b *Batch, sentTo uint64) {
	b.Data = nil
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

// releaseHeld proposes or sends what waits, if there is a leader.
func (s *Stepper) releaseHeld() {
	if s.leader == 0 {
		return
	}
	held := s.held
	s.held, s.heldBytes = nil, 0
	for _, b := range held {
		s.Propose(b)
	}
}

const maxHeldBytes = 16 << 20 // batches waiting for a leader, or a connection to it
