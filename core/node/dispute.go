package node

import (
	"maps"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/machine"
)

// dispute is about who is wrong when members' hashes differ.
//
// The leader's hash goes through the log once a second and each member compares
// it with its own (machine.HashCheck). As long as they are equal that is all. A
// member that has another one tells the leader, which then asks everybody for
// theirs and puts the verdict into the log: the hash of a majority of the voters
// is right, whoever led, and members that have another one stop. A leader that
// has diverged itself is thus stopped by its own entry. While there is no
// majority for any hash, nobody can tell what is right, so nothing may be served:
// an undecided verdict raises the CORRUPT alarm. It lasts until a check finds a
// majority after all, for another voter has come, or the operator has removed the
// one he takes to be wrong. Until then there is a check every ten seconds, also if
// nothing is written. An alarm that was raised by hand is none of this.
//
// A verdict costs no majority its members, so it can't take the quorum away.
type dispute struct {
	checked []machine.Checked // this member's own hashes at the last checks
	differs bool              // the last check found another hash than the leader's
	again   time.Duration     // when that is told again: the word may be lost, and without writes there is no other check

	// The leader's part.
	index   uint64 // in dispute; 0: none
	began   time.Duration
	hashes  map[uint64]uint64 // by member
	judged  bool              // there has been a verdict
	accused []uint64          // the verdicts so far named these

	decided   uint64   // index of the last verdict that named anybody:
	convicted []uint64 // these, who may tell again before they have heard it
}

// disputeTime is how long a dispute waits for members that don't answer.
const disputeTime = 10 * time.Second

func (d *dispute) end() { d.index, d.hashes, d.judged, d.accused = 0, nil, false, nil }

func (d *dispute) own(index uint64) (uint64, bool) {
	for _, c := range d.checked {
		if c.Index == index {
			return c.Hash, true
		}
	}
	return 0, false
}

// noteChecked takes what this member found when it applied checks.
func (s *Stepper) noteChecked(found []machine.Checked) {
	const keep = 8
	d := &s.dispute
	for _, c := range found {
		if d.checked = append(d.checked, c); len(d.checked) > keep {
			d.checked = d.checked[1:]
		}
		if c.Differs && !d.differs {
			d.again = s.now + s.cfg.CheckEvery
		}
		d.differs = c.Differs
		if c.Differs || s.leases.active && s.cfg.View().Disputed { // the latter may end the alarm
			s.tellOf(c.Index)
		}
	}
}

// tellAgain repeats that this member's hash differs, until a verdict or an equal check:
// of each check that found so, as the leader may not have come to the last ones itself.
func (s *Stepper) tellAgain() {
	d := &s.dispute
	if !d.differs || s.now < d.again || s.cfg.View().Disputed {
		return
	}
	d.again = s.now + s.cfg.CheckEvery
	for _, c := range d.checked {
		if c.Differs {
			s.tellOf(c.Index)
		}
	}
}

// tellOf tells the leader of this member's hash, which may be itself: then the check
// was another leader's.
func (s *Stepper) tellOf(index uint64) {
	if h, ok := s.dispute.own(index); ok && s.leases.active {
		s.takeHash(s.cfg.ID, index, h)
		return
	}
	s.tellHash(s.leader, index)
}

func (s *Stepper) tellHash(to, index uint64) {
	if h, ok := s.dispute.own(index); ok && to != 0 && to != s.cfg.ID {
		s.send(to, &Message{kind: msgHash, content: &content{seq: index, hash: h}})
	}
}

func (s *Stepper) receiveHash(from uint64, m *Message) {
	if s.leases.active {
		s.takeHash(from, m.seq, m.hash)
	}
}

// takeHash takes a member's hash, and asks all for theirs if this is the first.
func (s *Stepper) takeHash(from, index, hash uint64) {
	d := &s.dispute
	if index == d.decided && slices.Contains(d.convicted, from) {
		return
	}
	own, known := d.own(index)
	if !known || d.index != 0 && d.index != index {
		s.checkedAt = 0 // a later check will show it again, also if nothing is written
		return
	}
	if d.index == 0 {
		d.index, d.began = index, s.now
		d.hashes = map[uint64]uint64{s.cfg.ID: own}
		s.askHashes(s.cfg.View())
	}
	d.hashes[from] = hash
	s.judge(s.cfg.View())
}

func (s *Stepper) askHashes(v *machine.View) {
	for _, m := range v.Members {
		if _, told := s.dispute.hashes[m.ID]; !told {
			s.send(m.ID, &Message{kind: msgAskHash, content: &content{seq: s.dispute.index}})
		}
	}
}

// judge proposes the verdict as soon as a majority has one hash, and again for
// each member that turns out to have another one. It reports whether there is
// nothing to be said: all that have told agree, and a majority has.
func (s *Stepper) judge(v *machine.View) (agreed bool) {
	d := &s.dispute
	right, ok := majority(v.ConfState.GetVoters(), d.hashes)
	if !ok {
		return false
	}
	var wrong []uint64
	for _, id := range slices.Sorted(maps.Keys(d.hashes)) {
		if d.hashes[id] != right && !slices.Contains(d.accused, id) {
			wrong = append(wrong, id)
		}
	}
	if len(wrong) == 0 && (d.judged || !v.Disputed) {
		return !d.judged
	}
	if s.own(machine.HashVerdict, machine.Verdict{Index: d.index, Hash: right, Diverged: wrong}.Encode()) != 0 {
		d.judged = true
		d.accused = append(d.accused, wrong...)
		d.decided, d.convicted = d.index, d.accused
	}
	return false
}

// majority is the hash that more than half of the voters have.
func majority(voters []uint64, hashes map[uint64]uint64) (uint64, bool) {
	votes := map[uint64]int{}
	for _, id := range voters {
		if h, told := hashes[id]; told {
			if votes[h]++; votes[h] > len(voters)/2 {
				return h, true
			}
		}
	}
	return 0, false
}

// disputed is called at the time of each check and reports that a dispute is
// under way, so that no other index is checked.
func (s *Stepper) disputed(v *machine.View) bool {
	d := &s.dispute
	if d.index == 0 {
		return false
	}
	if s.now-d.began >= disputeTime || d.judged {
		if !d.judged {
			s.checkedAt = 0 // some can't tell of that index
		}
		d.end()
		return false
	}
	agreed := s.judge(v) // or raft may have refused the entry
	s.askHashes(v)
	if !s.allHeardFrom(v) {
		return true
	}
	if _, ok := majority(v.ConfState.GetVoters(), d.hashes); !ok {
		s.alarmCorrupt(v)
		d.end() // the next check may find a voter more
	} else if agreed {
		d.end()
	}
	return true
}

// undecidedLong reports, every now and then, that it is time for another check although
// nothing has been written: a voter more may be there.
func (s *Stepper) undecidedLong(v *machine.View) bool {
	return v.Disputed && s.now >= s.dispute.began+disputeTime
}

// allHeardFrom reports whether every voter that is there has told its hash.
func (s *Stepper) allHeardFrom(v *machine.View) bool {
	for _, id := range v.ConfState.GetVoters() {
		_, told := s.dispute.hashes[id]
		if at, heard := s.heard[id]; !told && heard && s.now-at < s.cfg.ElectionTimeout {
			return false
		}
	}
	return true
}

// alarmCorrupt stops reads and writes while nobody can tell whose state is right.
func (s *Stepper) alarmCorrupt(v *machine.View) {
	if v.HasAlarm(pb.AlarmType_CORRUPT) {
		return
	}
	told := slices.Sorted(maps.Keys(s.dispute.hashes))
	s.own(machine.HashVerdict, machine.Verdict{Index: s.dispute.index, Diverged: told, Undecided: true}.Encode())
}
