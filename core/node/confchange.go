package node

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// confChange is the one configuration change this leader has under way. raft
// allows one at a time; a second is refused here rather than silently turned
// into an empty entry.
type confChange struct {
	id    uint64 // waiter
	index uint64 // 0 until seen in the log
}

// ProposeConfChange asks for a configuration change. Its outcome is the
// machine's result for id; a refusal comes as a Completion.
func (s *Stepper) ProposeConfChange(id uint64, cc *raftpb.ConfChangeV2) {
	switch {
	case s.role != raft.StateLeader:
		s.done(Completion{ID: id, Err: ErrNotLeader})
	case s.confChange != nil || !s.leases.active:
		s.done(Completion{ID: id, Err: ErrTooManyRequests})
	default:
		s.confChange = &confChange{id: id}
		if s.r.ProposeConfChange(cc) != nil {
			s.confChange = nil
			s.done(Completion{ID: id, Err: ErrTooManyRequests})
		}
	}
}

// TransferLeader starts handing leadership to another voter.
func (s *Stepper) TransferLeader(to uint64) { s.r.TransferLeader(to) }
