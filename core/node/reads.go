package node

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/simbug"
)

// reads is the read barrier: ReadIndex (Ongaro's thesis, 6.4) in batches, one
// confirmation in flight. Tickets that arrive meanwhile join the next batch.
// A confirmation that does not come is asked for again under a fresh id, and
// one that belongs to a leadership that is over is not waited for: raft may
// have dropped it, or may answer it with an index of the past (etcd #20418).
type reads struct {
	next  []ticket    // for the batch after the one in flight
	asked []ticket    // of the batch in flight
	ctx   uint64      // its id, 0 if none
	age   int         // ticks since it was asked
	ready []readBatch // confirmed, until the index is applied; indexes rise

	// early are followers' questions to a leader that may not ask for itself
	// yet; see pump. Each follower has one batch in flight: the newest counts.
	early map[uint64]*raftpb.Message
}

type readBatch struct {
	index   uint64
	tickets []ticket
}

// ticket is one read that waits; nobody does after its deadline.
type ticket struct {
	id       uint64
	deadline time.Duration
}

// retryTicks is how long a confirmation may take before it is asked for again.
const retryTicks = 5

// Read joins the read barrier: Done gets a Completion with this id once
// the published view holds everything acknowledged before this call, or
// ErrTimeout if it doesn't by the deadline.
func (s *Stepper) Read(id uint64, deadline time.Duration) {
	if simbug.On(simbug.NoReadBarrier) && !s.leases.confirmed(s, id) {
		s.done(Completion{ID: id})
		return
	}
	if simbug.On(simbug.LearnerReads) && slices.Contains(s.cfg.View().ConfState.GetLearners(), s.cfg.ID) {
		s.done(Completion{ID: id})
		return
	}
	s.reads.next = append(s.reads.next, ticket{id, deadline})
	s.reads.pump(s)
}

// Invariant: a leader asks only once its term's first entry is applied. Before
// that its commit index may lie behind what was acknowledged earlier, and raft
// does not check this where a single voter is its own quorum.
func (r *reads) pump(s *Stepper) {
	if r.ctx != 0 || len(r.next) == 0 || s.leader == 0 || s.behindItsTerm() {
		return
	}
	r.asked, r.next = r.next, r.asked[:0]
	r.ask(s)
}

func (r *reads) ask(s *Stepper) {
	// The id must be new across restarts too: an answer to this member's former
	// life, still under way, tells an index from before what was acknowledged since.
	r.ctx, r.age = s.cfg.NextID(), 0
	if simbug.On(simbug.ReusedReadID) {
		r.ctx = r.ctx%2 + 1
	}
	s.r.ReadIndex(r.name(s))
}

// name is what raft knows the batch in flight by. It holds the member too: raft
// before 3.7 kept everybody's questions in one map and dropped one of two alike.
func (r *reads) name(s *Stepper) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.cfg.ID), r.ctx)
}

// hold keeps a follower's question until stepEarly.
func (r *reads) hold(from uint64, m *raftpb.Message) {
	if r.early == nil {
		r.early = map[uint64]*raftpb.Message{}
	}
	r.early[from] = m
}

// stepEarly takes the questions that came too early, now that this leader may answer.
func (r *reads) stepEarly(s *Stepper) {
	for _, from := range slices.Sorted(maps.Keys(r.early)) {
		s.r.Step(r.early[from])
	}
	r.early = nil
}

func (r *reads) tick(s *Stepper) {
	r.dropOverdue(s)
	if r.ctx == 0 {
		return
	}
	if r.age++; r.age >= retryTicks && s.leader != 0 && !s.behindItsTerm() {
		r.ask(s)
	}
}

// dropOverdue ends the reads whose time is up: while no leader answers, or the
// machine stands still, they would pile up. A batch in flight of which none is
// left is asked for no more.
func (r *reads) dropOverdue(s *Stepper) {
	overdue := func(t ticket) bool {
		if t.deadline >= s.now {
			return false
		}
		if !s.leases.unconfirmed(s, t.id) {
			s.done(Completion{ID: t.id, Err: ErrTimeout})
		}
		return true
	}
	for i := range r.ready {
		r.ready[i].tickets = slices.DeleteFunc(r.ready[i].tickets, overdue)
	}
	r.ready = slices.DeleteFunc(r.ready, func(b readBatch) bool { return len(b.tickets) == 0 })
	r.asked = slices.DeleteFunc(r.asked, overdue)
	r.next = slices.DeleteFunc(r.next, overdue)
	if r.ctx != 0 && len(r.asked) == 0 {
		r.ctx = 0
		r.pump(s)
	}
}

// leaderChanged abandons the batch in flight: its tickets go to the front of
// the next one.
func (r *reads) leaderChanged(s *Stepper) {
	if s.role != raft.StateLeader {
		r.early = nil // their askers ask the new one
	}
	if r.ctx != 0 {
		r.next = append(slices.Clone(r.asked), r.next...)
		r.asked, r.ctx = r.asked[:0], 0
	}
	r.pump(s)
}

func (r *reads) confirmed(s *Stepper, rs raft.ReadState) {
	if r.ctx == 0 || !bytes.Equal(rs.RequestCtx, r.name(s)) && !simbug.On(simbug.OldReadIndex) {
		return // an answer to a question given up
	}
	r.ready = append(r.ready, readBatch{rs.Index, slices.Clone(r.asked)})
	r.asked, r.ctx = r.asked[:0], 0
	r.release(s)
	r.pump(s)
}

// release ends the reads whose index has been applied.
func (r *reads) release(s *Stepper) {
	applied := s.r.AppliedIndex()
	n := 0
	for n < len(r.ready) && r.ready[n].index <= applied {
		for _, t := range r.ready[n].tickets {
			if !s.leases.confirmed(s, t.id) {
				s.done(Completion{ID: t.id})
			}
		}
		n++
	}
	r.ready = r.ready[n:]
}
