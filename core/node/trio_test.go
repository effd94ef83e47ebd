package node

import (
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/replica"
)

// trio is a cluster of three steppers in one goroutine: what one sends the
// others hear at once, as frames, and every disk is immediate.
type trio struct {
	t     testing.TB
	steps map[uint64]*Stepper
	apps  map[uint64]*Applier
	views map[uint64]*machine.View
	wire  []frame
	cut   map[[2]uint64]bool         // from one to another nothing arrives
	down  func(from, to uint64) bool // nothing is sent, and the one knows it
	slow  uint64                     // its machine stands still:
	late  []*replica.ApplyTask
	now   time.Duration
	ids   uint64

	results map[uint64]machine.Result // by command id
	done    map[uint64]Completion     // by ticket
	sent    func(from uint64, e Envelope)
}

// frame is a message on its way.
type frame struct {
	from, to uint64
	bytes    []byte
}

// deafHub hears nothing.
type deafHub struct{}

func (deafHub) Notify(int64, []mvcc.Event) {}
func (deafHub) Reset(int64)                {}

func newTrio(t testing.TB) *trio {
	t.Helper()
	c := &trio{
		t: t, steps: map[uint64]*Stepper{}, apps: map[uint64]*Applier{}, views: map[uint64]*machine.View{}, cut: map[[2]uint64]bool{},
		results: map[uint64]machine.Result{}, done: map[uint64]Completion{}, sent: func(uint64, Envelope) {}, down: func(uint64, uint64) bool { return false },
	}
	var members []membership.Member
	for id := range uint64(3) {
		members = append(members, membership.Member{ID: id + 1, PeerURLs: []string{"http://" + formatID(id+1)}})
	}
	for id := range uint64(3) {
		c.start(id+1, members)
	}
	c.steps[1].Campaign()
	c.settle()
	if c.steps[1].Role() != raft.StateLeader {
		t.Fatal("member 1 was not elected")
	}
	return c
}

func (c *trio) start(id uint64, members []membership.Member) {
	c.t.Helper()
	m, err := machine.New(machine.Config{}, members...)
	if err != nil {
		c.t.Fatal(err)
	}
	p := bootstrapPosition
	m.EndEntry(p.Index, p.Term)
	c.views[id] = m.Publish()
	r, err := replica.New(replica.Config{
		ID: id, HardState: raisedTo(nil, p), ConfState: c.views[id].ConfState, Start: replica.Position(p), Applied: p.Index,
		Snapshot: func() (*raftpb.Snapshot, error) { return nil, raft.ErrSnapshotTemporarilyUnavailable },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.apps[id] = &Applier{Machine: m, Hub: deafHub{}, Self: id, Publish: func(v *machine.View) { c.views[id] = v }}
	c.steps[id] = NewStepper(StepperConfig{
		ID: id, Replica: r, View: func() *machine.View { return c.views[id] }, NextID: c.nextID, ElectionTimeout: time.Second,
	})
	c.steps[id].SetTime(c.now, 1)
}

func (c *trio) nextID() uint64 { c.ids++; return c.ids }

// tick lets a tenth of a second pass everywhere.
func (c *trio) tick() {
	c.now += 100 * time.Millisecond
	for id := range uint64(3) {
		c.steps[id+1].SetTime(c.now, int64(c.now))
		c.steps[id+1].Tick()
	}
	c.settle()
}

// settle carries out everything until nothing is left to do.
func (c *trio) settle() {
	c.t.Helper()
	for again := true; again; {
		again = false
		for id := range uint64(3) {
			again = c.carryOut(id+1) || again
		}
		wire := c.wire
		c.wire = nil
		for _, f := range wire {
			again = true
			if !c.cut[[2]uint64{f.from, f.to}] {
				c.deliver(f)
			}
		}
	}
}

func (c *trio) deliver(f frame) {
	c.t.Helper()
	m, err := DecodeMessage(f.bytes)
	if err != nil {
		c.t.Fatalf("member %d sent %x: %v", f.from, f.bytes, err)
	}
	c.steps[f.to].Receive(f.from, m)
}

func (c *trio) carryOut(id uint64) (did bool) {
	c.t.Helper()
	s := c.steps[id]
	eff := s.Take()
	for _, e := range eff.Send {
		if s.MustWait(&e) || c.down(id, e.To) {
			s.Unsent(&e)
			continue
		}
		c.sent(id, e)
		b, err := e.Msg.AppendTo(nil)
		if err != nil {
			c.t.Fatal(err)
		}
		c.wire = append(c.wire, frame{id, e.To, b})
	}
	for _, d := range eff.Done {
		c.done[d.ID] = d
	}
	for _, t := range eff.Append {
		s.Appended(t)
	}
	if id == c.slow {
		c.late = append(c.late, eff.Apply...)
		eff.Apply = nil
	}
	for _, t := range eff.Apply {
		done, results, err := c.apps[id].Run(t)
		if err != nil {
			c.t.Fatalf("member %d: apply: %v", id, err)
		}
		for _, r := range results {
			c.results[r.ID] = r
		}
		s.ApplyFinished(done)
	}
	return len(eff.Append)+len(eff.Apply)+len(eff.Send)+len(eff.Done) > 0
}

// put proposes a put at a member and returns its id.
func (c *trio) put(at uint64, body []byte) uint64 { return c.putBy(time.Hour, at, body) }

func (c *trio) putBy(deadline time.Duration, at uint64, body []byte) uint64 {
	b := NewBatch(64, deadline)
	id := c.nextID()
	b.Add(&machine.Command{Kind: machine.Put, ID: id, Member: at, Body: body})
	c.steps[at].Propose(b)
	return id
}

// hashes are the members' running hashes; they must be equal.
func (c *trio) hashes() []uint64 {
	var hs []uint64
	for id := range uint64(3) {
		hs = append(hs, c.views[id+1].Hash)
	}
	slices.Sort(hs)
	return slices.Compact(hs)
}
