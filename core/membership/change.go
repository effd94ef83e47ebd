package membership

import (
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/simbug"
)

// Op is what a Change does.
type Op string

// The operations. Their text is part of the log's format.
const (
	AddVoter   Op = "add-voter"
	AddLearner Op = "add-learner"
	Promote    Op = "promote"
	Remove     Op = "remove"
	UpdatePeer Op = "update-peer-urls"
)

// ErrBadChange means that a change cannot be read or names no known operation.
var ErrBadChange = errors.New("membership: unreadable change")

// Change is one requested change of the membership. Add needs the whole member,
// UpdatePeer id and peer URLs, the others only the id.
type Change struct {
	Op     Op     `json:"op"`
	Member Member `json:"member"`
}

// Marshal encodes the change for the context of a raft configuration change.
func (c Change) Marshal() ([]byte, error) { return json.Marshal(c) }

// UnmarshalChange reads what Marshal wrote.
func UnmarshalChange(b []byte) (Change, error) {
	var c Change
	if err := json.Unmarshal(b, &c); err != nil {
		return Change{}, fmt.Errorf("%w: %w", ErrBadChange, err)
	}
	if _, err := c.raftType(); err != nil {
		return Change{}, err
	}
	return c, nil
}

func (c Change) raftType() (raftpb.ConfChangeType, error) {
	switch c.Op {
	case AddVoter, Promote:
		return raftpb.ConfChangeAddNode, nil
	case AddLearner:
		if simbug.On(simbug.LearnerVotes) {
			return raftpb.ConfChangeAddNode, nil
		}
		return raftpb.ConfChangeAddLearnerNode, nil
	case Remove:
		return raftpb.ConfChangeRemoveNode, nil
	case UpdatePeer:
		return raftpb.ConfChangeUpdateNode, nil
	}
	return 0, fmt.Errorf("%w: operation %q", ErrBadChange, c.Op)
}

// ConfChange gives the raft configuration change that carries out c; context is
// what raft is to hand through to the state machine.
func (c Change) ConfChange(context []byte) (*raftpb.ConfChangeV2, error) {
	typ, err := c.raftType()
	if err != nil {
		return nil, err
	}
	id := c.Member.ID
	return &raftpb.ConfChangeV2{
		Changes: []*raftpb.ConfChangeSingle{{Type: &typ, NodeId: &id}},
		Context: context,
	}, nil
}

// Matches reports whether cc tells raft the same as c tells the state machine.
// A mismatch can only come from a bug or from damage and must not be applied by
// halves.
func (c Change) Matches(cc *raftpb.ConfChangeV2) bool {
	typ, err := c.raftType()
	if err != nil || len(cc.GetChanges()) != 1 {
		return false
	}
	one := cc.GetChanges()[0]
	return one.GetType() == typ && one.GetNodeId() == c.Member.ID
}
