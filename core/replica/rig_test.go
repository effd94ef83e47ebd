package replica

import (
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// disk is what a member would find after a crash.
type disk struct {
	start   Position
	entries []*raftpb.Entry
	hard    *raftpb.HardState
	conf    *raftpb.ConfState // of the state machine, at applied
	applied uint64
}

func (d *disk) last() uint64 { return d.start.Index + uint64(len(d.entries)) }

// write is what core/node does with an append task.
func (d *disk) write(t *AppendTask) {
	if t.HardState != nil {
		d.hard = proto.CloneOf(t.HardState)
	}
	if s := t.Snapshot; s != nil {
		md := s.GetMetadata()
		d.start, d.entries, d.conf, d.applied = Position{md.GetIndex(), md.GetTerm()}, nil, md.GetConfState(), md.GetIndex()
	}
	if len(t.Entries) > 0 {
		keep := t.Entries[0].GetIndex() - d.start.Index - 1
		d.entries = append(slices.Clone(d.entries[:keep]), t.Entries...)
	}
}

// node is one replica with what stands around it, all of it in the test's hands.
type node struct {
	*Replica
	t    testing.TB
	disk disk

	appends []*AppendTask // handed out, not written
	applies []*ApplyTask  // handed out, not carried out
	out     []*raftpb.Message
	reads   []raft.ReadState
	syncs   int // writes that had to be made durable

	next    uint64   // index that the next entry to apply must have
	applied []string // data of the entries carried out, with their index
}

// boot starts a replica from its disk.
func boot(t testing.TB, id uint64, d disk, change ...func(*Config)) *node {
	t.Helper()
	if d.hard != nil && d.hard.GetCommit() < d.applied { // as core/node's raisedTo
		d.hard = proto.CloneOf(d.hard)
		d.hard.Commit = &d.applied
	}
	n := &node{t: t, disk: d, next: d.applied + 1}
	c := Config{
		ID: id, HardState: d.hard, ConfState: d.conf, Start: d.start, Entries: slices.Clone(d.entries), Applied: d.applied,
		Snapshot: func() (*raftpb.Snapshot, error) { return n.snapshot(), nil },
	}
	for _, f := range change {
		f(&c)
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	n.Replica = r
	return n
}

// fresh is the disk of a founding member of a cluster of these voters.
func fresh(voters ...uint64) disk {
	one := uint64(1)
	return disk{
		start: Position{1, 1}, applied: 1, conf: &raftpb.ConfState{Voters: voters},
		hard: &raftpb.HardState{Term: &one, Commit: &one},
	}
}

// snapshot describes the state machine as it stands.
func (n *node) snapshot() *raftpb.Snapshot {
	index := n.next - 1
	term := n.TermAt(index)
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: n.disk.conf}}
}

// collect takes what raft wants done, and holds it to what must always be true.
func (n *node) collect() {
	n.t.Helper()
	for n.HasReady() {
		out := n.Ready()
		if out.Append != nil {
			n.appends = append(n.appends, out.Append)
		}
		if t := out.Apply; t != nil {
			for _, e := range t.Entries {
				if i := e.GetIndex() - n.disk.start.Index; e.GetIndex() > n.disk.last() || i > 0 && n.disk.entries[i-1].GetTerm() != e.GetTerm() {
					n.t.Fatalf("member %d may apply entry %d, its disk ends at %d", n.id, e.GetIndex(), n.disk.last())
				}
			}
			n.applies = append(n.applies, t)
		}
		for _, m := range out.Messages {
			n.mayBeSent(m)
		}
		n.out = append(n.out, out.Messages...)
		n.reads = append(n.reads, out.Reads...)
		if !out.More && n.HasReady() {
			n.t.Fatalf("member %d had more to do than it said: %+v", n.id, n.Ready())
		}
	}
}

// mayBeSent fails the test if a message promises what the disk does not hold.
func (n *node) mayBeSent(m *raftpb.Message) {
	n.t.Helper()
	switch m.GetType() {
	case raftpb.MessageType_MsgAppResp:
		if !m.GetReject() && m.GetIndex() > n.disk.last() {
			n.t.Fatalf("member %d acknowledges entry %d, its disk ends at %d", n.id, m.GetIndex(), n.disk.last())
		}
	case raftpb.MessageType_MsgVoteResp:
		if !m.GetReject() && (n.disk.hard.GetTerm() != m.GetTerm() || n.disk.hard.GetVote() != m.GetTo()) {
			n.t.Fatalf("member %d votes for %d in term %d, its disk says %v", n.id, m.GetTo(), m.GetTerm(), n.disk.hard)
		}
	}
}

// write carries out the oldest log write; false if there is none.
func (n *node) write() bool {
	n.t.Helper()
	if len(n.appends) == 0 {
		return false
	}
	t := n.appends[0]
	n.appends = n.appends[1:]
	n.disk.write(t)
	if t.NeedsSync() {
		n.syncs++
	}
	msgs, restore := n.Appended(t)
	if (restore != nil) != (t.Snapshot != nil) {
		n.t.Fatalf("restore %v after a write with checkpoint %v", restore, t.Snapshot)
	}
	if restore != nil {
		n.applies = append(n.applies, restore)
	}
	for _, m := range msgs {
		n.mayBeSent(m)
	}
	n.out = append(n.out, msgs...)
	n.collect()
	return true
}

// apply carries out the oldest apply task; false if there is none.
func (n *node) apply() bool {
	n.t.Helper()
	if len(n.applies) == 0 {
		return false
	}
	t := n.applies[0]
	n.applies = n.applies[1:]
	if t.Restore != nil {
		md := t.Restore.GetMetadata()
		n.applied = append(n.applied, fmt.Sprintf("restore %d", md.GetIndex()))
		n.next, n.disk.conf = md.GetIndex()+1, md.GetConfState()
	}
	for _, e := range t.Entries {
		if e.GetIndex() != n.next {
			n.t.Fatalf("member %d is to apply entry %d after %d", n.id, e.GetIndex(), n.next-1)
		}
		n.next++
		n.applied = append(n.applied, fmt.Sprintf("%d %s", e.GetIndex(), n.carryOut(e)))
	}
	n.disk.applied = max(n.disk.applied, n.next-1)
	n.Applied(t)
	n.collect()
	return true
}

func (n *node) carryOut(e *raftpb.Entry) string {
	n.t.Helper()
	var cc raftpb.ConfChangeI
	switch e.GetType() {
	case raftpb.EntryType_EntryNormal:
		return string(e.GetData())
	case raftpb.EntryType_EntryConfChange:
		cc = new(raftpb.ConfChange)
	default:
		cc = new(raftpb.ConfChangeV2)
	}
	if err := proto.Unmarshal(e.GetData(), cc.(proto.Message)); err != nil {
		n.t.Fatal(err)
	}
	n.disk.conf = n.ApplyConfChange(cc)
	return "conf"
}

// work carries out all that was asked for.
func (n *node) work() {
	n.t.Helper()
	n.collect()
	for n.write() || n.apply() {
	}
}

// cluster is some nodes and the messages between them.
type cluster struct {
	t     testing.TB
	nodes map[uint64]*node
	snaps []*raftpb.Message // announced checkpoints; the test sends them
}

func newCluster(t testing.TB, ids ...uint64) *cluster {
	t.Helper()
	c := &cluster{t: t, nodes: map[uint64]*node{}}
	for _, id := range ids {
		c.nodes[id] = boot(t, id, fresh(ids...))
	}
	return c
}

// elect makes a member the leader.
func (c *cluster) elect(id uint64) *node {
	c.t.Helper()
	n := c.nodes[id]
	if err := n.Campaign(); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
	if !n.IsLeader() || n.Leader() != id {
		c.t.Fatalf("member %d was not elected", id)
	}
	return n
}

// settle delivers and carries out everything until nothing is left to do.
func (c *cluster) settle() {
	c.t.Helper()
	for again := true; again; {
		again = false
		for _, id := range c.ids() {
			n := c.nodes[id]
			n.work()
			out := n.out
			n.out = nil
			for _, m := range out {
				again = true
				if m.GetType() == raftpb.MessageType_MsgSnap {
					n.PinSnapshot(m.GetTo(), m.GetSnapshot().GetMetadata().GetIndex())
					c.snaps = append(c.snaps, m)
				} else if to := c.nodes[m.GetTo()]; to != nil {
					to.Step(m)
					to.collect()
				}
			}
		}
	}
}

func (c *cluster) ids() []uint64 {
	var ids []uint64
	for id := range c.nodes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
