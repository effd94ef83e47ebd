package node

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// FuzzNextConfState: what checkpoints say of the voters before raft has been told of
// a change is what raft makes of it.
func FuzzNextConfState(f *testing.F) {
	f.Add([]byte{0, 2, 0, 3, 1, 2, 3, 1, 2, 3})
	f.Add([]byte{3, 2, 3, 2, 0, 2, 0, 2, 1, 2, 1, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		raft := tracker.MakeProgressTracker(1, 0)
		ours := &raftpb.ConfState{}
		// The first voter is there from the beginning: raft has no cluster without one.
		for script = append([]byte{byte(raftpb.ConfChangeType_ConfChangeAddNode), 0}, script...); len(script) > 1; script = script[2:] {
			typ, id := raftpb.ConfChangeType(script[0]%4), uint64(script[1]%8)+1
			cc := &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: &typ, NodeId: &id}}}
			cfg, progress, err := confchange.Changer{Tracker: raft, LastIndex: 1}.Simple(cc.GetChanges()...)
			if err != nil {
				continue // it would not have been proposed
			}
			raft.Config, raft.Progress = cfg, progress
			before := ours.String()
			next := nextConfState(ours, cc)
			if ours.String() != before {
				t.Fatalf("%v changed what was there: %v, was %v", cc, ours, before)
			}
			ours = next
			voters, learners := slices.Sorted(slices.Values(ours.GetVoters())), slices.Sorted(slices.Values(ours.GetLearners()))
			if want := raft.ConfState(); !slices.Equal(voters, want.GetVoters()) || !slices.Equal(learners, want.GetLearners()) {
				t.Fatalf("after %v: %v, raft has %v", cc, ours, want)
			}
		}
	})
}
