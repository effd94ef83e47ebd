package lease

import (
	"container/heap"
	"time"
)

// A change of leader starts every lease afresh. For a lease of hours that is a
// long extension, so the leader writes down from time to time how much of it is
// left. What is written must never outlive a renewal: see ErrCheckpointed.

// Checkpoints hands out up to max leases whose remaining time is due to be
// written down, as leases with Remaining set. Each is being recorded until
// Checkpointed or CheckpointDone.
func (l *Lessor) Checkpoints(now time.Duration, max int) []Lease {
	var out []Lease
	for len(out) < max && len(l.checks) > 0 && l.checks[0].at <= now {
		d := heap.Pop(&l.checks).(due)
		c, ok := l.leases[d.id]
		if !ok {
			continue
		}
		left := c.deadline - now
		if left <= 0 {
			continue // about to expire
		}
		if at, ok := l.nextCheckpoint(c, now); ok {
			heap.Push(&l.checks, due{at: at, id: d.id})
		}
		remaining := int64((left + time.Second - 1) / time.Second)
		if remaining >= c.ttl || c.expiring || c.recording {
			continue
		}
		c.recording = true
		l.leases[d.id] = c
		out = append(out, Lease{ID: d.id, TTL: c.ttl, Remaining: remaining})
	}
	return out
}

// CheckpointDone notes that the proposal to record the lease's remaining time
// came to nothing.
func (l *Lessor) CheckpointDone(id int64) {
	if c, ok := l.leases[id]; ok {
		c.recording = false
		l.leases[id] = c
	}
}

// nextCheckpoint is when the lease should be looked at next; false if it has too
// little left for that to be worth an entry in the log.
func (l *Lessor) nextCheckpoint(c clock, now time.Duration) (time.Duration, bool) {
	every := l.cfg.CheckpointInterval
	if every < 0 || seconds(c.ttl) <= every {
		return 0, false
	}
	return now + every, true
}
