package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func propose(t testing.TB, n *node, data string) {
	t.Helper()
	if err := n.Propose([]byte(data)); err != nil {
		t.Fatal(err)
	}
	n.collect()
}

func TestNothingIsAppliedOrAnsweredBeforeItsWriteIsReportedDurable(t *testing.T) {
	n := boot(t, 1, fresh(1))
	if err := n.Campaign(); err != nil {
		t.Fatal(err)
	}
	n.collect()
	if n.IsLeader() || len(n.appends) != 1 || n.appends[0].HardState.GetVote() != 1 || !n.appends[0].NeedsSync() {
		t.Fatalf("leads: %t, writes %+v; want a vote to be written first", n.IsLeader(), n.appends)
	}
	n.write()
	if !n.IsLeader() || n.Term() != 2 {
		t.Fatalf("leads: %t, term %d", n.IsLeader(), n.Term())
	}
	n.work()
	propose(t, n, "a")
	propose(t, n, "b")
	if n.InFlight() != 2 || len(n.applies) != 0 {
		t.Fatalf("%d writes under way, %d tasks to apply before any is durable", n.InFlight(), len(n.applies))
	}
	n.write()
	if len(n.applies) != 1 || string(n.applies[0].Entries[0].GetData()) != "a" || len(n.applies[0].Entries) != 1 {
		t.Fatalf("to be applied after the first write: %+v", n.applies)
	}
	if n.AppliedIndex() != 2 {
		t.Errorf("applied %d before the task was handed back", n.AppliedIndex())
	}
	n.work()
	if want := []string{"2 ", "3 a", "4 b"}; !slices.Equal(n.applied, want) || n.AppliedIndex() != 4 || n.InFlight() != 0 {
		t.Errorf("applied %q up to %d, want %q", n.applied, n.AppliedIndex(), want)
	}
}

func TestAFollowersAcknowledgementAndVoteComeWithTheWriteAndNotBefore(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	leader, follower := c.elect(1), c.nodes[2]
	propose(t, leader, "a")
	for leader.write() {
	}
	for _, m := range leader.out {
		if m.GetTo() == 2 {
			follower.Step(m)
		}
	}
	leader.out = nil
	follower.collect()
	if len(follower.out) != 0 || len(follower.appends) != 1 {
		t.Fatalf("says %v with %d writes under way", follower.out, len(follower.appends))
	}
	follower.write()
	if len(follower.out) != 1 || follower.out[0].GetType() != raftpb.MessageType_MsgAppResp || len(follower.applies) != 0 {
		t.Fatalf("after the write it says %v and applies %v", follower.out, follower.applies)
	}

	typ, from, to, term, index := raftpb.MessageType_MsgVote, uint64(3), uint64(2), uint64(9), uint64(9)
	follower.out = nil
	for range 20 {
		follower.Tick() // the leader was silent, or a vote would be refused unheard
	}
	follower.work()
	follower.out = nil
	follower.Step(&raftpb.Message{Type: &typ, From: &from, To: &to, Term: &term, LogTerm: &term, Index: &index})
	follower.collect()
	if len(follower.out) != 0 || len(follower.appends) != 1 || follower.appends[0].HardState.GetVote() != 3 {
		t.Fatalf("says %v, writes %v; want its vote written first", follower.out, follower.appends)
	}
	follower.write()
	if len(follower.out) != 1 || follower.out[0].GetType() != raftpb.MessageType_MsgVoteResp || follower.out[0].GetReject() {
		t.Fatalf("after the write it says %v", follower.out)
	}
}

func TestOnlyALeaderTakesProposals(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	c.elect(1)
	if err := c.nodes[2].Propose([]byte("x")); !errors.Is(err, raft.ErrProposalDropped) {
		t.Errorf("a follower: %v, want ErrProposalDropped", err)
	}
	if out := c.nodes[2]; out.HasReady() {
		t.Error("a follower passed a proposal on")
	}
	c.nodes[1].TransferLeader(2)
	if err := c.nodes[1].Propose([]byte("x")); !errors.Is(err, raft.ErrProposalDropped) {
		t.Errorf("a leader that hands over: %v, want ErrProposalDropped", err)
	}
	c.settle()
	if !c.nodes[2].IsLeader() || c.nodes[1].IsLeader() || c.nodes[1].Leader() != 2 {
		t.Error("leadership was not handed over")
	}
}

func TestARestartKeepsTermAndVoteAndAppliesAnewWhatFollowsTheState(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	leader := c.elect(1)
	for _, s := range []string{"a", "b", "c"} {
		propose(t, leader, s)
		c.settle()
	}
	n := c.nodes[2]
	d := n.disk
	d.applied = 3 // the checkpoint that it starts from is older
	again := boot(t, 2, d)
	again.work()
	if want := []string{"4 b"}; !slices.Equal(again.applied, want) {
		// The commit index lags behind by what was never written by itself.
		t.Errorf("applied %q, want %q", again.applied, want)
	}
	if again.Term() != n.Term() {
		t.Errorf("term %d, was %d", again.Term(), n.Term())
	}
	// It voted for 1 in this term and must remember: nobody else gets that vote.
	typ, from, to, term, index := raftpb.MessageType_MsgVote, uint64(3), uint64(2), n.Term(), uint64(99)
	again.out = nil
	again.Step(&raftpb.Message{Type: &typ, From: &from, To: &to, Term: &term, LogTerm: &term, Index: &index})
	again.work()
	if len(again.out) != 1 || !again.out[0].GetReject() {
		t.Errorf("voted twice in term %d: %v", term, again.out)
	}
}

// A follower hears what is committed after it has the entry, and tells the leader so:
// it has nothing to write, nor to wait for.
func TestAFollowerThatHearsOfACommitAnswersWithoutAWrite(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	leader := c.elect(1)
	propose(t, leader, "a")
	c.settle()
	n := c.nodes[2]
	before := n.syncs
	propose(t, leader, "b")
	c.settle()
	if got := n.syncs - before; got != 1 {
		t.Errorf("%d syncs for one entry and its commit, want 1", got)
	}
	if len(n.applied) == 0 || n.applied[len(n.applied)-1] != "4 b" {
		t.Errorf("applied %q, want the last to be 4 b", n.applied)
	}
}

// What waits for a write that is under way goes behind it.
func TestAnAnswerWithNothingToWriteWaitsForTheWritesBeforeIt(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	c.elect(1)
	c.settle()
	n := c.nodes[2]
	typ, from, to, term := raftpb.MessageType_MsgApp, uint64(1), uint64(2), n.Term()
	entry := &raftpb.Entry{Type: raftpb.EntryType_EntryNormal.Enum(), Term: &term, Index: new(uint64), Data: []byte("a")}
	*entry.Index = 3
	app := func(index uint64, commit uint64, entries ...*raftpb.Entry) *raftpb.Message {
		return &raftpb.Message{Type: &typ, From: &from, To: &to, Term: &term, LogTerm: &term, Index: &index, Commit: &commit, Entries: entries}
	}
	n.Step(app(2, 2, entry))
	n.collect()
	n.Step(app(3, 3))
	n.collect()
	if len(n.out) != 0 || n.InFlight() != 2 || n.appends[1].NeedsSync() {
		t.Fatalf("%d answers, %d writes under way, the second one synced: %t", len(n.out), n.InFlight(), n.appends[1].NeedsSync())
	}
	n.write()
	n.write()
	if len(n.out) != 2 || n.out[1].GetIndex() != 3 {
		t.Fatalf("answers %v, want two, the last up to 3", n.out)
	}
}

func TestACommitIndexAloneIsNotWorthAWriteAndRidesAlong(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	leader := c.elect(1)
	propose(t, leader, "a")
	c.settle()
	if lazy, written := leader.lazy, leader.disk.hard.GetCommit(); lazy.GetCommit() != 3 || written >= 3 {
		t.Fatalf("lazy %v, on disk %d; want commit 3 to be left unwritten", lazy, written)
	}
	propose(t, leader, "b")
	if h := leader.appends[0].HardState; h.GetCommit() != 3 || h.GetTerm() != 2 || h.GetVote() != 1 || leader.lazy != nil {
		t.Errorf("entry 4 is written with %v, want commit 3 along; lazy %v", h, leader.lazy)
	}
	c.settle()
	if got := leader.disk.hard.GetCommit(); got != 3 {
		t.Errorf("on disk is commit %d, want 3", got)
	}
}

func TestNewRefusesALogThatDoesNotMeetTheState(t *testing.T) {
	d := fresh(1)
	early, late := uint64(3), uint64(4)
	for want, c := range map[string]Config{
		"commit index 3":                 {ID: 1, ConfState: d.conf, Start: Position{4, 1}, Applied: 4, HardState: &raftpb.HardState{Commit: &early}},
		"entries in between are missing": {ID: 1, ConfState: d.conf, Start: Position{5, 1}, Applied: 4},
		"log ends at 1 before":           {ID: 1, ConfState: d.conf, Start: Position{1, 1}, Applied: 4, HardState: &raftpb.HardState{Commit: &late}},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

func TestMessagesForOthersAndRaftsOwnAreDropped(t *testing.T) {
	n := boot(t, 1, fresh(1, 2, 3))
	for _, typ := range []raftpb.MessageType{raftpb.MessageType_MsgHup, raftpb.MessageType_MsgStorageAppendResp, raftpb.MessageType_MsgHeartbeat} {
		from, to, term := uint64(2), uint64(1), uint64(7)
		if typ == raftpb.MessageType_MsgHeartbeat {
			to = 3
		}
		n.Step(&raftpb.Message{Type: &typ, From: &from, To: &to, Term: &term})
		if n.HasReady() {
			t.Errorf("%v for %d was taken: %+v", typ, to, n.Ready())
		}
	}
}

// change is a configuration change of one member.
func change(typ raftpb.ConfChangeType, id uint64) *raftpb.ConfChangeV2 {
	return &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: &typ, NodeId: &id}}}
}

func TestAConfigurationChangeCountsFromItsApplicationOn(t *testing.T) {
	c := newCluster(t, 1)
	leader := c.elect(1)
	if err := leader.ProposeConfChange(change(raftpb.ConfChangeType_ConfChangeAddLearnerNode, 2)); err != nil {
		t.Fatal(err)
	}
	leader.collect()
	leader.write()
	if _, conf, _ := leader.win.InitialState(); len(conf.GetLearners()) != 0 {
		t.Error("raft was told of a learner before the change was applied")
	}
	leader.work()
	if _, conf, _ := leader.win.InitialState(); !slices.Equal(conf.GetLearners(), []uint64{2}) {
		t.Fatalf("conf state %v after the change", conf)
	}
	if p, ok := leader.Status().Progress[2]; !ok || !p.IsLearner {
		t.Fatalf("progress of the learner: %+v", p)
	}
	// A learner counts for nothing: the lone voter goes on without it.
	propose(t, leader, "alone")
	leader.work()
	if !slices.Contains(leader.applied, "4 alone") {
		t.Fatalf("applied %q", leader.applied)
	}
	// As a voter it does count, and it comes from an empty log.
	c.nodes[2] = boot(t, 2, disk{conf: &raftpb.ConfState{}})
	c.settle()
	if err := leader.ProposeConfChange(change(raftpb.ConfChangeType_ConfChangeAddNode, 2)); err != nil {
		t.Fatal(err)
	}
	leader.work()
	propose(t, leader, "together")
	leader.work()
	if slices.Contains(leader.applied, "6 together") {
		t.Fatal("an entry was committed without the second voter")
	}
}

func TestALeaderThatIsRemovedStepsDown(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	leader := c.elect(1)
	if err := leader.ProposeConfChange(change(raftpb.ConfChangeType_ConfChangeRemoveNode, 1)); err != nil {
		t.Fatal(err)
	}
	c.settle()
	if leader.IsLeader() {
		t.Error("a removed leader still leads")
	}
	if _, conf, _ := c.nodes[2].win.InitialState(); !slices.Equal(conf.GetVoters(), []uint64{2, 3}) {
		t.Errorf("the others' conf state is %v", conf)
	}
}

func TestAReadIsConfirmedByAQuorumAndNotWithout(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	leader := c.elect(1)
	leader.ReadIndex([]byte("alone"))
	leader.work()
	leader.out = nil // nobody hears of it
	if len(leader.reads) != 0 {
		t.Fatalf("confirmed by nobody: %+v", leader.reads)
	}
	leader.ReadIndex([]byte("heard"))
	c.settle()
	if n := len(leader.reads); n == 0 || string(leader.reads[n-1].RequestCtx) != "heard" || leader.reads[n-1].Index != 2 {
		t.Fatalf("got %+v, want the read confirmed at index 2", leader.reads)
	}
}

// TestRandomSchedules has three members take turns as chance wants: messages are
// lost, doubled and late, disks and machines are slow, members crash and come
// back with what their disk holds. The rig checks what each is told to do; here
// the members are held against each other.
func TestRandomSchedules(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	applied, restored := 0, 0
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			small := func(c *Config) { c.KeepBytes = 8 } // so that members need checkpoints
			c := &cluster{t: t, nodes: map[uint64]*node{}}
			for id := range uint64(3) {
				c.nodes[id+1] = boot(t, id+1, fresh(1, 2, 3), small)
			}
			decided := map[uint64]string{} // by index
			var wire []*raftpb.Message
			proposed := 0
			for range 3000 {
				id := 1 + rng.Uint64N(3)
				n := c.nodes[id]
				switch rng.IntN(16) {
				case 0:
					n.Tick()
				case 1, 2, 3, 4, 5, 6, 7:
					if len(wire) == 0 {
						n.Tick()
						break
					}
					i := rng.IntN(min(len(wire), 4))
					m := wire[i]
					if rng.IntN(20) > 0 {
						wire = slices.Delete(wire, i, i+1)
					}
					if rng.IntN(20) > 0 {
						c.nodes[m.GetTo()].Step(proto.CloneOf(m))
						c.nodes[m.GetTo()].collect()
					}
					if m.GetType() == raftpb.MessageType_MsgSnap {
						c.nodes[m.GetFrom()].ReportSnapshot(m.GetTo(), rng.IntN(4) > 0)
					}
				case 8, 9, 10:
					n.write()
				case 11, 12, 13:
					n.apply()
				case 14:
					if n.Propose(fmt.Appendf(nil, "p%d", proposed)) == nil {
						proposed++
					}
				case 15:
					if rng.IntN(20) == 0 {
						c.nodes[id] = boot(t, id, n.disk, small)
						n = c.nodes[id]
					}
				}
				n.collect()
				for _, m := range c.nodes {
					for _, msg := range m.out {
						if msg.GetType() == raftpb.MessageType_MsgSnap {
							m.PinSnapshot(msg.GetTo(), msg.GetSnapshot().GetMetadata().GetIndex())
						}
					}
					wire = append(wire, m.out...)
					m.out = nil
					for _, a := range m.applied {
						var index uint64
						if _, err := fmt.Sscan(a, &index); err != nil {
							restored++
							continue
						}
						if was, ok := decided[index]; ok && was != a {
							t.Fatalf("member %d applied %q, another one %q", m.id, a, was)
						}
						decided[index] = a
					}
					m.applied = m.applied[:0]
				}
			}
			applied += len(decided)
		})
	}
	if n := int(seeds); applied < 20*n || restored < n/2 {
		t.Errorf("%d entries and %d checkpoints in %d runs; the test tests little", applied, restored, n)
	}
}
