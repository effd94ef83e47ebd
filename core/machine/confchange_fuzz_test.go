package machine_test

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/internal/choices"
)

// rawChange is the operation whose entry is taken from the script as it stands.
const rawChange = 5

// scriptedChange is a membership change made of bytes: an operation, an id, peer URLs;
// or an entry as it may come from a log that something else has written.
func scriptedChange(t testing.TB, s *choices.Script, index uint64) *raftpb.ConfChangeV2 {
	t.Helper()
	op := s.Next() % (rawChange + 1)
	if op == rawChange {
		b := s.Bytes(int(s.Next()))
		cc := new(raftpb.ConfChangeV2)
		if proto.Unmarshal(b, cc) != nil {
			return new(raftpb.ConfChangeV2)
		}
		return cc
	}
	id := uint64(s.Next())
	if id >= 0xf0 {
		id += ^uint64(0xff) // the ids of raft's disk and of its state machine are the last ones there are
	}
	c := membership.Change{
		Op:     []membership.Op{membership.AddVoter, membership.AddLearner, membership.Promote, membership.Remove, membership.UpdatePeer}[op],
		Member: membership.Member{ID: id},
	}
	for urls := s.Next(); urls > 0; urls >>= 4 {
		c.Member.PeerURLs = append(c.Member.PeerURLs, "http://"+string(rune('a'+urls&15)))
	}
	cc, err := machine.ConfChangeContext(machine.Command{ID: index, Member: 1}, c)
	if err != nil {
		t.Fatal(err)
	}
	return cc
}

// raftsView is what raft makes of the changes that it is told.
type raftsView struct{ tracker tracker.ProgressTracker }

func (r *raftsView) conf() *raftpb.ConfState { return r.tracker.ConfState() }

func (r *raftsView) apply(cc *raftpb.ConfChangeV2) error {
	cfg, progress, err := confchange.Changer{Tracker: r.tracker, LastIndex: 1}.Simple(cc.GetChanges()...)
	if err == nil {
		r.tracker.Config, r.tracker.Progress = cfg, progress
	}
	return err
}

// FuzzMembershipChanges plays changes as the log brings them. Whether one is
// refused is known before it is applied; what is refused changes nothing; what is
// not, raft takes too and comes to the same voters and learners; and a member that
// starts from a checkpoint of any moment goes on like one that was there.
func FuzzMembershipChanges(f *testing.F) {
	const addVoter, addLearner, promote, remove, update = 0, 1, 2, 3, 4
	f.Add([]byte{addLearner, 7, 3, promote, 7, 0, remove, 1, 0, addVoter, 1, 9})
	f.Add([]byte{addLearner, 7, 3, addLearner, 8, 4, update, 2, 0x15, update, 2, 3})
	f.Add([]byte{remove, 1, 0, remove, 2, 0, addVoter, 0, 3, addVoter, 2, 4})
	cc, err := machine.ConfChangeContext(machine.Command{ID: 1, Member: 1}, membership.Change{Op: membership.Remove, Member: membership.Member{ID: 2}})
	if err != nil {
		f.Fatal(err)
	}
	b := marshal(f, cc)
	f.Add(append([]byte{rawChange, byte(len(b))}, b...))
	three := uint64(3)
	cc.Changes[0].NodeId = &three // raft is told of another member
	b = marshal(f, cc)
	f.Add(append([]byte{rawChange, byte(len(b))}, b...))
	f.Fuzz(func(t *testing.T, script []byte) {
		raft := &raftsView{tracker.MakeProgressTracker(1, 0)}
		typ := raftpb.ConfChangeType_ConfChangeAddNode
		for _, m := range founders() {
			if err := raft.apply(&raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: &typ, NodeId: &m.ID}}}); err != nil {
				t.Fatal(err)
			}
		}
		always := newPair(t).m
		restarted := newPair(t).m
		s := choices.ScriptOf(script, 300)
		for index := uint64(1); s.Left(); index++ {
			cc := scriptedChange(t, s, index)
			before := always.Publish().Members
			allowed := always.CheckConfChange(cc)
			if machine.Fatal(allowed) {
				continue // the member would have stopped
			}
			if allowed == nil {
				if err := raft.apply(cc); err != nil {
					t.Fatalf("raft refuses what the members took: %v: %v", cc, err)
				}
			}
			res := always.ApplyConfChange(index, 1, cc, raft.conf())
			again := restarted.ApplyConfChange(index, 1, cc, raft.conf())
			always.EndEntry(index, 1)
			restarted.EndEntry(index, 1)
			if !sameError(res.Err, allowed) || !sameError(again.Err, allowed) {
				t.Fatalf("%v: it was to be %v, and is %v; after a restart %v", cc, allowed, res.Err, again.Err)
			}
			v := always.Publish()
			if allowed != nil && !reflect.DeepEqual(v.Members, before) {
				t.Fatalf("%v was refused with %v and made %v of %v", cc, allowed, v.Members, before)
			}
			voters, learners := roles(v.Members)
			if got := raft.conf(); !slices.Equal(voters, got.GetVoters()) || !slices.Equal(learners, got.GetLearners()) {
				t.Fatalf("after %v: raft has %v; the members are %v", cc, got, v.Members)
			}
			restored, err := machine.Restore(machine.Config{}, dump(t, restarted.Publish()))
			if err != nil {
				t.Fatalf("a checkpoint after %v is refused: %v", cc, err)
			}
			restarted = restored
			if w := restored.Publish(); w.Hash != v.Hash || !reflect.DeepEqual(w.Members, v.Members) {
				t.Fatalf("after %v and a restart: %x %v, without one %x %v", cc, w.Hash, w.Members, v.Hash, v.Members)
			}
		}
	})
}

func sameError(a, b error) bool {
	return (a == nil) == (b == nil) && (a == nil || errors.Is(a, b) || a.Error() == b.Error())
}

// roles sorts members' ids by what they are.
func roles(members []membership.Member) (voters, learners []uint64) {
	for _, m := range members {
		if m.IsLearner {
			learners = append(learners, m.ID)
		} else {
			voters = append(voters, m.ID)
		}
	}
	return voters, learners
}
