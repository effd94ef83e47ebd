package replica

import (
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// behind is a cluster whose leader has dropped from its window what member 3,
// which heard nothing of it, needs next; announced is the checkpoint for it.
func behind(t *testing.T) (c *cluster, leader *node, announced *raftpb.Message) {
	t.Helper()
	c = &cluster{t: t, nodes: map[uint64]*node{}}
	for id := range uint64(3) {
		c.nodes[id+1] = boot(t, id+1, fresh(1, 2, 3), func(c *Config) { c.KeepBytes = 100 })
	}
	leader = c.elect(1)
	away := c.nodes[3]
	delete(c.nodes, 3)
	for range 20 {
		propose(t, leader, strings.Repeat("x", 40))
		c.settle()
	}
	if first, _ := leader.win.FirstIndex(); first < 10 {
		t.Fatalf("the window still begins at %d", first)
	}
	c.nodes[3] = away
	for range 5 {
		leader.Tick()
		c.settle()
		if len(c.snaps) > 0 {
			return c, leader, c.snaps[0]
		}
	}
	t.Fatal("no checkpoint was offered")
	return nil, nil, nil
}

func TestAFollowerBeyondTheWindowGetsACheckpointAndThenTheLogAfterIt(t *testing.T) {
	c, leader, m := behind(t)
	at := m.GetSnapshot().GetMetadata().GetIndex()
	for range 10 { // while it travels, more than the window would keep
		propose(t, leader, strings.Repeat("y", 40))
		c.settle()
	}
	f := c.nodes[3]
	f.Step(m)
	f.collect()
	if len(f.appends) != 1 || f.appends[0].Snapshot.GetMetadata().GetIndex() != at || !f.appends[0].NeedsSync() {
		t.Fatalf("writes %+v, want the checkpoint at %d", f.appends, at)
	}
	if len(f.out) != 0 || f.AppliedIndex() >= at {
		t.Fatalf("before it is durable it says %v and has applied %d", f.out, f.AppliedIndex())
	}
	f.write()
	if len(f.applies) == 0 || f.applies[0].Restore.GetMetadata().GetIndex() != at {
		t.Fatalf("to be applied: %+v, want the checkpoint first", f.applies)
	}
	if f.AppliedIndex() >= at {
		t.Errorf("applied %d before the machine has loaded the checkpoint", f.AppliedIndex())
	}
	f.apply()
	if f.AppliedIndex() != at {
		t.Errorf("applied %d after the checkpoint at %d", f.AppliedIndex(), at)
	}
	leader.ReportSnapshot(3, true)
	c.settle()
	for range 3 {
		leader.Tick()
		c.settle()
	}
	if f.AppliedIndex() != leader.AppliedIndex() || !slices.ContainsFunc(f.applied, func(s string) bool { return strings.Contains(s, "y") }) {
		t.Fatalf("the follower stands at %d, the leader at %d", f.AppliedIndex(), leader.AppliedIndex())
	}
	propose(t, leader, "z")
	c.settle()
	if pin, held := leader.win.pins[3]; held && pin <= at {
		t.Errorf("the log is still held from %d on, where the checkpoint stood", pin)
	}
}

func TestLogIsHeldForACheckpointOnItsWayAndNotForEver(t *testing.T) {
	for name, end := range map[string]func(*node){
		"failed": func(n *node) { n.ReportSnapshot(3, false) },
		"arrived, and nothing came of it": func(n *node) {
			n.ReportSnapshot(3, true)
			for range (patience + 1) * 10 {
				n.Tick()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, leader, m := behind(t)
			delete(c.nodes, 3)
			at := m.GetSnapshot().GetMetadata().GetIndex()
			for range 20 {
				propose(t, leader, strings.Repeat("y", 40))
				c.settle()
			}
			if first, _ := leader.win.FirstIndex(); first > at+1 {
				t.Fatalf("the window begins at %d while the checkpoint at %d travels", first, at)
			}
			end(leader)
			if n := len(leader.win.pins); n != 0 {
				t.Fatalf("%d pins are left", n)
			}
			leader.win.trim(leader.AppliedIndex())
			if first, _ := leader.win.FirstIndex(); first <= at+1 {
				t.Errorf("the window still begins at %d", first)
			}
		})
	}
}

func TestARestartBetweenCheckpointAndItsLoadingStandsAtTheCheckpoint(t *testing.T) {
	c, leader, m := behind(t)
	f := c.nodes[3]
	f.Step(m)
	f.collect()
	f.write() // durable, not loaded: now the process dies
	c.nodes[3] = boot(t, 3, f.disk)
	if at := m.GetSnapshot().GetMetadata().GetIndex(); c.nodes[3].AppliedIndex() != at {
		t.Fatalf("starts at %d, the checkpoint stands at %d", c.nodes[3].AppliedIndex(), at)
	}
	leader.ReportSnapshot(3, true)
	for range 3 {
		leader.Tick()
		c.settle()
	}
	if got, want := c.nodes[3].AppliedIndex(), leader.AppliedIndex(); got != want {
		t.Errorf("stands at %d, the leader at %d", got, want)
	}
}
