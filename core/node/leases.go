package node

import (
	"errors"
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/simbug"
)

// leases is the leader's side of leases: renewals, remaining times, expiry.
//
// A renewal is answered only by a leader that has applied its term's first
// entry and whom a quorum confirmed after the renewal arrived; it counts from
// its arrival. So a leader that was replaced without knowing it cannot tell a
// client that its lease lives on. Once an expiry is proposed, renewals of that
// lease wait for its outcome (etcd PR 20590: renewal answered after revoke).
type leases struct {
	lessor *lease.Lessor
	active bool // this member leads and has applied its term's first entry

	held     []question         // nobody to ask at the moment
	waiting  map[uint64]renewal // by ticket of the read barrier
	parked   []renewal          // their lease's expiry is in the log
	sent     map[uint64]asked   // asked of the leader, by ticket
	own      map[uint64][]int64 // expiry proposals under way, by command id
	notes    map[uint64]int64   // remaining-time notes under way, by command id
	expiries int

	renewed, expired uint64 // ever, by this member
}

// renewal is one keep-alive or time-to-live question on its way.
type renewal struct {
	call     leaseCall
	received time.Duration
	from     uint64 // member that asked, 0 for a caller of ours
	ticket   uint64 // what the answer goes by: the caller's ticket or the peer's seq
	asked    time.Duration
	term     uint64
}

// question is what a caller of ours wants to know from the leader, whoever
// that is. Asking again does no harm, so it is held and repeated across
// elections until it is answered or too old: clients have a lease's life to
// lose by each refusal, and etcd's waits half a second after one.
type question struct {
	ticket uint64
	call   leaseCall
	at     time.Duration
}

// asked is a question sent to a leader.
type asked struct {
	leader uint64
	question
}

const (
	maxExpiriesPerTick = 2000
	maxNotesPerTick    = 200
	maxAsked           = 10 * time.Second
)

func (l *leases) init() {
	l.lessor = lease.NewLessor(lease.Config{})
	l.waiting, l.sent = map[uint64]renewal{}, map[uint64]asked{}
	l.own, l.notes = map[uint64][]int64{}, map[uint64]int64{}
}

func (l *leases) promote(now time.Duration, term uint64, table *lease.TableView, extend time.Duration) {
	l.active = true
	l.lessor.Promote(now, term, table.Each, extend)
}

// demote forgets all deadlines; members that wait for an answer are told to ask
// the new leader, callers of ours are held until there is one.
func (l *leases) demote(s *Stepper) {
	l.active = false
	l.lessor.Demote()
	for _, t := range slices.Sorted(maps.Keys(l.waiting)) {
		r := l.waiting[t]
		delete(l.waiting, t)
		s.answer(r, refusedNoLeader, leaseReply{})
	}
	for _, r := range l.parked {
		s.answer(r, refusedNoLeader, leaseReply{})
	}
	l.parked = nil
	clear(l.own)
	clear(l.notes)
	l.expiries = 0
}

// Renew asks for a lease to be renewed. The answer is a Completion with ticket.
func (s *Stepper) Renew(ticket uint64, id int64) {
	s.ask(question{ticket, leaseCall{id: id}, s.now})
}

// Remaining asks how long a lease has left, without renewing it.
func (s *Stepper) Remaining(ticket uint64, id int64) {
	s.ask(question{ticket, leaseCall{id: id, peek: true}, s.now})
}

func (s *Stepper) ask(q question) {
	switch {
	case s.role == raft.StateLeader:
		s.confirmThenRenew(renewal{call: q.call, received: s.now, ticket: q.ticket, asked: q.at, term: s.term})
	case s.leader != 0:
		s.leases.sent[q.ticket] = asked{s.leader, q}
		s.send(s.leader, &Message{kind: msgRenew, content: &content{seq: q.ticket, lease: q.call}})
	default:
		s.leases.held = append(s.leases.held, q)
	}
}

// askHeld asks again what found no leader.
func (s *Stepper) askHeld() {
	held := s.leases.held
	s.leases.held = nil
	for _, q := range held {
		s.ask(q)
	}
}

func (s *Stepper) confirmThenRenew(r renewal) {
	if s.Solo() || simbug.On(simbug.RenewUnconfirmed) {
		s.renew(r)
		return
	}
	t := s.cfg.NextID()
	s.leases.waiting[t] = r
	s.Read(t, r.received+maxAsked)
}

// confirmed takes a read barrier that a renewal waited for; false if the
// ticket is not one of those.
func (l *leases) confirmed(s *Stepper, ticket uint64) bool {
	r, ok := l.waiting[ticket]
	if !ok {
		return false
	}
	delete(l.waiting, ticket)
	s.renew(r)
	return true
}

// unconfirmed takes a read barrier that a renewal waited for and that came to
// nothing in time; false if the ticket is not one of those.
func (l *leases) unconfirmed(s *Stepper, ticket uint64) bool {
	r, ok := l.waiting[ticket]
	if !ok {
		return false
	}
	delete(l.waiting, ticket)
	s.answer(r, refusedNoLeader, leaseReply{})
	return true
}

// renew answers a confirmed renewal.
func (s *Stepper) renew(r renewal) {
	l := &s.leases
	if !l.active || r.term != s.term {
		s.answer(r, refusedNoLeader, leaseReply{})
		return
	}
	if r.call.peek {
		granted, ok := s.cfg.View().Leases.Lookup(r.call.id)
		if !ok {
			s.answer(r, refusedMissing, leaseReply{})
			return
		}
		left, _ := l.lessor.Remaining(r.call.id, s.now)
		s.answer(r, accepted, leaseReply{ttl: granted.TTL, remaining: int64(left / time.Second)})
		return
	}
	ttl, err := l.lessor.Renew(r.call.id, r.received)
	switch {
	case err == nil:
		l.renewed++
		s.answer(r, accepted, leaseReply{ttl: ttl})
	case errors.Is(err, lease.ErrExpiring) && simbug.On(simbug.RenewExpiring):
		s.answer(r, accepted, leaseReply{ttl: 1})
	case errors.Is(err, lease.ErrExpiring):
		l.parked = append(l.parked, r)
	case errors.Is(err, lease.ErrCheckpointed):
		// A noted remaining time would cut the renewed lease short after a
		// change of leader: it has to go first.
		s.note(r.call.id, 0)
		l.parked = append(l.parked, r)
	default:
		s.answer(r, refusedMissing, leaseReply{})
	}
}

func (s *Stepper) answer(r renewal, code refusal, reply leaseReply) {
	if r.from != 0 {
		s.send(r.from, &Message{kind: msgRenewReply, content: &content{seq: r.ticket, code: code, reply: reply}})
		return
	}
	if code == refusedNoLeader {
		s.leases.held = append(s.leases.held, question{r.ticket, r.call, r.asked})
		return
	}
	var err error
	if code != accepted {
		err = refusalError(code)
	}
	s.done(Completion{ID: r.ticket, Err: err, Lease: reply})
}

func (s *Stepper) receiveRenew(from uint64, m *Message) {
	r := renewal{call: m.lease, received: s.now, from: from, ticket: m.seq, term: s.term}
	if s.role != raft.StateLeader {
		s.answer(r, refusedNoLeader, leaseReply{})
		return
	}
	s.confirmThenRenew(r)
}

func (s *Stepper) receiveRenewReply(from uint64, m *Message) {
	q, ok := s.leases.sent[m.seq]
	if !ok || q.leader != from {
		return
	}
	delete(s.leases.sent, m.seq)
	s.answer(renewal{call: q.call, ticket: q.ticket, asked: q.at}, m.code, m.reply)
}

// abandonSent takes questions back from a leader that is no longer it.
func (l *leases) abandonSent(leader uint64) {
	for _, t := range slices.Sorted(maps.Keys(l.sent)) {
		if q := l.sent[t]; q.leader != leader {
			delete(l.sent, t)
			l.held = append(l.held, q.question)
		}
	}
}

// forgetOld drops questions that nobody answered; their callers have timed out.
func (l *leases) forgetOld(s *Stepper) {
	if len(l.sent)+len(l.held) == 0 {
		return // as in nearly every tick
	}
	for _, t := range slices.Sorted(maps.Keys(l.sent)) {
		if s.now-l.sent[t].at > maxAsked {
			delete(l.sent, t)
			s.done(Completion{ID: t, Err: ErrTimeout})
		}
	}
	l.held = slices.DeleteFunc(l.held, func(q question) bool {
		old := s.now-q.at > maxAsked
		if old {
			s.done(Completion{ID: q.ticket, Err: ErrTimeout})
		}
		return old
	})
}

// expire proposes the expiry of leases whose time is up, fenced by the term.
func (s *Stepper) expire() {
	l := &s.leases
	if !l.active || l.expiries > 0 && !simbug.On(simbug.OldLeaderExpires) {
		return // one proposal at a time keeps the order plain
	}
	ids := l.lessor.Expired(s.now, maxExpiriesPerTick)
	if len(ids) == 0 {
		return
	}
	id := s.own(machine.LeaseExpire, machine.EncodeLeaseExpire(s.term, ids))
	if id == 0 {
		for _, lid := range ids {
			l.lessor.ExpiryDone(lid)
		}
		return
	}
	l.own[id] = ids
	l.expiries++
}

// noteRemaining has the remaining time of long leases written down, so that a
// change of leader does not start them afresh every time.
func (s *Stepper) noteRemaining() {
	l := &s.leases
	if !l.active {
		return
	}
	for _, le := range l.lessor.Checkpoints(s.now, maxNotesPerTick) {
		s.note(le.ID, le.Remaining)
	}
}

func (s *Stepper) note(id, remaining int64) {
	for _, under := range s.leases.notes {
		if under == id {
			return // one at a time a lease; the renewal asks again after it
		}
	}
	cmd := s.own(machine.LeaseCheckpoint, machine.EncodeLeaseCheckpoint(id, remaining))
	if cmd == 0 {
		s.leases.lessor.CheckpointDone(id)
		return
	}
	s.leases.notes[cmd] = id
}

// apply follows what the machine did to leases.
func (l *leases) apply(s *Stepper, effects []machine.LeaseEffect) {
	if !l.active {
		return
	}
	for _, e := range effects {
		switch {
		case e.Granted:
			l.lessor.Granted(e.ID, e.TTL, s.now)
		case e.Checkpointed:
			l.lessor.Checkpointed(e.ID, e.Remaining)
		default:
			l.lessor.Revoked(e.ID)
		}
	}
}

// settle ends an expiry proposal that was applied: what the machine did not
// expire may be renewed again.
func (l *leases) settle(id uint64) {
	if lid, ok := l.notes[id]; ok {
		delete(l.notes, id)
		l.lessor.CheckpointDone(lid)
		return
	}
	ids, ok := l.own[id]
	if !ok {
		return
	}
	delete(l.own, id)
	l.expiries--
	l.expired += uint64(len(ids))
	for _, lid := range ids {
		l.lessor.ExpiryDone(lid)
	}
}

func (l *leases) unpark(s *Stepper) {
	if len(l.parked) == 0 {
		return
	}
	parked := l.parked
	l.parked = nil
	for _, r := range parked {
		s.renew(r)
	}
}
