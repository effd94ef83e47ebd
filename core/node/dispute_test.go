package node

import (
	"bytes"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
)

func TestAMajorityOfTheVotersSaysWhoseHashIsRight(t *testing.T) {
	three, four := []uint64{1, 2, 3}, []uint64{1, 2, 3, 4}
	for name, test := range map[string]struct {
		voters []uint64
		hashes map[uint64]uint64
		right  uint64
		ok     bool
	}{
		"two of three, the leader is odd":      {three, map[uint64]uint64{1: 7, 2: 8, 3: 8}, 8, true},
		"two of three, the third is not heard": {three, map[uint64]uint64{1: 7, 2: 7}, 7, true},
		"one against one":                      {three, map[uint64]uint64{1: 7, 2: 8}, 0, false},
		"three opinions":                       {three, map[uint64]uint64{1: 7, 2: 8, 3: 9}, 0, false},
		"two of four are no majority":          {four, map[uint64]uint64{1: 7, 2: 7, 3: 8, 4: 8}, 0, false},
		"two of two":                           {three[:2], map[uint64]uint64{1: 7, 2: 8}, 0, false},
		"alone":                                {three[:1], map[uint64]uint64{1: 7, 2: 8}, 7, true},
		"learners have no vote":                {three, map[uint64]uint64{1: 7, 2: 8, 4: 8, 5: 8}, 0, false},
	} {
		if right, ok := majority(test.voters, test.hashes); right != test.right || ok != test.ok {
			t.Errorf("%s: %d, %v; want %d, %v", name, right, ok, test.right, test.ok)
		}
	}
}

func TestHashesTravelBetweenMembers(t *testing.T) {
	for _, m := range []*Message{{kind: msgHash, content: &content{seq: 1 << 40, hash: 1<<64 - 1}}, {kind: msgAskHash, content: &content{seq: 5}}} {
		b, err := m.AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeMessage(b)
		if err != nil || got.kind != m.kind || got.seq != m.seq || got.hash != m.hash {
			t.Errorf("%+v became %+v, %v", m, got, err)
		}
		if _, err := DecodeMessage(bytes.Clone(b[:len(b)-1])); err == nil {
			t.Errorf("half of %+v was taken", m)
		}
	}
}

// propose takes a command of member 1's through the log.
func (c *trio) propose(kind machine.Kind, body []byte) {
	b := NewBatch(64, time.Hour)
	b.Add(&machine.Command{Kind: kind, ID: c.nextID(), Member: 1, Body: body})
	c.steps[1].Propose(b)
	c.settle()
}

func TestAnAlarmRaisedByHandIsNoDispute(t *testing.T) {
	c := newTrio(t)
	body, err := proto.Marshal(&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 2, Alarm: pb.AlarmType_CORRUPT})
	if err != nil {
		t.Fatal(err)
	}
	c.propose(machine.Alarm, body)
	asked := 0
	c.sent = func(_ uint64, e Envelope) {
		if e.Msg.kind == msgAskHash {
			asked++
		}
	}
	for range 50 { // five checks
		c.tick()
		c.put(1, nil) // something new to check
	}
	if got, want := c.views[3].Alarms, []machine.RaisedAlarm{{Member: 2, Type: pb.AlarmType_CORRUPT}}; !slices.Equal(got, want) || asked != 0 {
		t.Errorf("alarms %v, want %v; hashes asked for %d times", got, want, asked)
	}
}

func TestWithoutAMajorityForAnyHashNobodyServes(t *testing.T) {
	c := newTrio(t)
	for id := range c.apps { // each its own history
		c.apps[id].Machine.Apply(0, 1, (&machine.Command{Kind: machine.Put, Body: []byte{0x0a, 1, byte('a' + id)}}).AppendTo(nil), false)
	}
	for range 50 {
		c.tick()
	}
	v := c.views[2]
	if !v.HasAlarm(pb.AlarmType_CORRUPT) || !v.Disputed || len(v.Alarms) != 3 {
		t.Fatalf("alarms %v, disputed %v", v.Alarms, v.Disputed)
	}
}

// A cluster in which nobody writes makes no entry that a later check could be about.
func TestADifferenceIsFoundOutWithoutAnyWrite(t *testing.T) {
	for name, test := range map[string]struct {
		slow uint64 // whose machine stands still until member 3 has told
		lost bool   // what member 3 tells at first
	}{
		"in peace":                                      {},
		"though the word of it is lost once":            {lost: true},
		"though the leader carries the check out later": {slow: 1},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTrio(t)
			for range 15 { // what a beginning has to be checked
				c.tick()
			}
			c.put(1, []byte{0x0a, 1, 'a'})
			c.settle()
			c.forge(3)
			c.put(1, []byte{0x0a, 1, 'c'})
			c.settle()
			told := false
			c.sent = func(from uint64, e Envelope) {
				if from == 3 && e.Msg.kind == msgHash && !told {
					told = true
					c.cut[[2]uint64{3, 1}] = test.lost
				}
				if slices.Contains(c.steps[1].dispute.accused, 3) {
					c.slow = 3 // it would stop
				}
			}
			c.slow = test.slow
			for range 15 {
				c.tick()
			}
			if !told {
				t.Fatal("member 3 found no difference")
			}
			c.cut[[2]uint64{3, 1}] = false
			if test.slow != 0 {
				c.slow = 0
				c.catchUp(test.slow)
			}
			for range 30 {
				c.tick()
			}
			if n := c.views[1].Diverged; n != 1 {
				t.Fatalf("%d members are known to have diverged, want one", n)
			}
		})
	}
}

// forge gives a member another state than its log makes.
func (c *trio) forge(id uint64) {
	c.apps[id].Machine.Apply(0, 1, (&machine.Command{Kind: machine.Put, Body: []byte{0x0a, 1, 'b'}}).AppendTo(nil), false)
}

func (c *trio) ticks(n int) {
	for range n {
		c.tick()
	}
}

// Nobody may write meanwhile, so there is no entry that would bring about a check.
func TestAnUndecidedDisputeEndsWhenAVoterIsBack(t *testing.T) {
	c := newTrio(t)
	isolate := func(cut bool) {
		for _, other := range []uint64{1, 3} {
			c.cut[[2]uint64{2, other}], c.cut[[2]uint64{other, 2}] = cut, cut
		}
	}
	c.ticks(15)
	c.forge(3)
	isolate(true)
	c.ticks(15)
	c.put(1, []byte{0x0a, 1, 'c'})
	c.ticks(100)
	if !c.views[1].Disputed {
		t.Fatal("no alarm while one says this and one says that")
	}
	isolate(false)
	c.sent = func(uint64, Envelope) {
		if slices.Contains(c.steps[1].dispute.accused, 3) {
			c.slow = 3 // it would stop
		}
	}
	c.ticks(150)
	if v := c.views[1]; v.Disputed || v.HasAlarm(pb.AlarmType_CORRUPT) || v.Diverged != 1 {
		t.Fatalf("two of three agree; disputed %v, alarms %v, %d diverged", v.Disputed, v.Alarms, v.Diverged)
	}
}

// A leader whose machine is always late has never come to the last check when it is told of that.
func TestEachCheckThatFoundADifferenceIsToldOfAgain(t *testing.T) {
	c := newTrio(t)
	c.ticks(15)
	c.cut[[2]uint64{3, 1}] = true // or it would have more checked, in which there is no difference
	told := map[uint64]int{}
	c.sent = func(from uint64, e Envelope) {
		if from == 3 && e.Msg.kind == msgHash {
			told[e.Msg.seq]++
		}
	}
	const first, last = 100, 110
	for index := range uint64(last + 1 - first) {
		c.steps[3].noteChecked([]machine.Checked{{Index: first + index, Hash: 7, Differs: true}})
		c.ticks(9) // sooner than what is told is told again
	}
	c.ticks(20)
	for index := uint64(first); index <= last; index++ {
		if told[index] < 2 {
			t.Errorf("the leader was told %d times of index %d", told[index], index)
		}
	}
	before := told[last]
	c.steps[3].noteChecked([]machine.Checked{{Index: last + 1, Hash: 7}})
	c.ticks(30)
	if told[last] != before {
		t.Errorf("it is told of a difference that is none any more")
	}
}

// A right member may tell of a leader that has been convicted since, or too late.
func TestADisputeInWhichAllAgreeKeepsNoOtherFromBeingFound(t *testing.T) {
	c := newTrio(t)
	c.ticks(15)
	s := c.steps[1]
	last := s.dispute.checked[len(s.dispute.checked)-1]
	s.Receive(3, &Message{kind: msgHash, content: &content{seq: last.Index, hash: last.Hash}})
	c.forge(3)
	c.put(1, []byte{0x0a, 1, 'c'})
	c.sent = func(uint64, Envelope) {
		if slices.Contains(s.dispute.accused, 3) {
			c.slow = 3
		}
	}
	c.ticks(40)
	if n := c.views[1].Diverged; n != 1 {
		t.Fatalf("%d members are known to have diverged after four seconds, want one", n)
	}
}

// catchUp has a member's machine do what it was late to do.
func (c *trio) catchUp(id uint64) {
	c.t.Helper()
	for _, t := range c.late {
		done, _, err := c.apps[id].Run(t)
		if err != nil {
			c.t.Fatal(err)
		}
		c.steps[id].ApplyFinished(done)
	}
	c.late = nil
}
