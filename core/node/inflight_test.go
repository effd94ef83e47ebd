package node

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
)

// kept is how many requests a member remembers, and how many bytes of those it has sent.
func kept(s *Stepper) (requests, bytes int) {
	requests = len(s.inflight) + len(s.held) + len(s.reads.next) + len(s.reads.asked) + len(s.reads.ready)
	requests += len(s.leases.waiting) + len(s.leases.sent) + len(s.leases.held) + len(s.leases.parked)
	for _, b := range s.reads.ready {
		requests += len(b.tickets)
	}
	for _, b := range s.inflight {
		bytes += cap(b.Data)
	}
	return requests, bytes
}

const patience = 2 * time.Second // of the callers here

func (c *trio) read(at uint64) uint64 {
	id := c.nextID()
	c.steps[at].Read(id, c.now+patience)
	return id
}

func (c *trio) remove(at, member uint64) uint64 {
	c.t.Helper()
	id := c.nextID()
	cc, err := machine.ConfChangeContext(machine.Command{ID: id, Member: at}, membership.Change{Op: membership.Remove, Member: membership.Member{ID: member}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.steps[at].ChangeMembers(id, c.now+patience, cc.GetContext())
	return id
}

// A follower that hears its leader but is not heard stays in its term: what it
// sends and loses is not given up for a new leader's sake. It has to be for time's,
// and whoever asked then knows no more than that: it may be in the log yet.
func TestWhatIsLostWithinATermIsForgottenWithItsCallers(t *testing.T) {
	c := newTrio(t)
	var lost []frame
	c.sent = func(from uint64, e Envelope) {
		if from == 2 && e.Msg.kind == msgForward {
			lost = append(lost, frame{2, 1, encodedMessage(t, &e.Msg)})
		}
	}
	c.cut[[2]uint64{2, 1}] = true
	term := c.steps[2].Term()
	var puts, reads []uint64
	for range 300 {
		puts = append(puts, c.putBy(c.now+patience, 2, putBody(t, fmt.Sprint(c.now))))
		reads = append(reads, c.read(2))
		c.remove(2, 3)
		c.tick()
		if requests, bytes := kept(c.steps[2]); requests > 3*25 || bytes > 0 {
			t.Fatalf("after %v: %d requests and %d bytes are kept", c.now, requests, bytes)
		}
	}
	if s := c.steps[2]; s.Leader() != 1 || s.Term() != term {
		t.Fatalf("member 2 follows %d in term %d, want member 1 in %d", s.Leader(), s.Term(), term)
	}
	for _, id := range puts {
		if d, told := c.done[id]; told {
			t.Fatalf("put %d, which was sent, was told %v", id, d.Err)
		}
	}
	for _, id := range reads[:len(reads)-25] {
		if d := c.done[id]; !errors.Is(d.Err, ErrTimeout) {
			t.Fatalf("read %d was told %v, want ErrTimeout", id, d.Err)
		}
	}

	// A frame that was long under way: its put is executed, and its result is there.
	c.cut = nil
	c.wire = append(c.wire, lost[0])
	c.settle()
	if res, ok := c.results[puts[0]]; !ok || res.Err != nil {
		t.Fatalf("the put that came late: %+v, %t", res, ok)
	}
	// A refusal that was: nobody must hear of it any more.
	c.wire = append(c.wire, frame{1, 2, encodedMessage(t, &Message{kind: msgForwardReply, content: &content{seq: puts[1], code: refusedBusy}})})
	c.settle()
	if d, told := c.done[puts[1]]; told {
		t.Fatalf("a put that was given up was told %v", d.Err)
	}
	for range 30 {
		c.tick()
	}
	id, ticket := c.put(2, putBody(t, "after")), c.read(2)
	c.settle()
	if res, ok := c.results[id]; !ok || res.Err != nil {
		t.Errorf("a put afterwards: %+v, %t, %+v", res, ok, c.done[id])
	}
	if d, ok := c.done[ticket]; !ok || d.Err != nil {
		t.Errorf("a read afterwards: %+v, %t", d, ok)
	}
	if requests, _ := kept(c.steps[2]); requests != 0 {
		t.Errorf("%d requests are kept in the end", requests)
	}
}

// A follower that has no connection to its leader knows what has not gone there.
func TestWhatCannotBeSentWaitsForAConnectionAndIsExecutedOnceInOrder(t *testing.T) {
	c := newTrio(t)
	first := c.put(1, putBody(t, "first"))
	c.settle()
	down := true
	c.down = func(from, to uint64) bool { return down && from == 2 && to == 1 }
	var puts []uint64
	for n := range 5 {
		puts = append(puts, c.putBy(c.now+patience, 2, putBody(t, fmt.Sprint(n))))
		c.tick()
	}
	change, renewal := c.remove(2, 3), c.nextID()
	c.steps[2].Renew(renewal, 7)
	c.settle()
	if d := c.done[change]; !errors.Is(d.Err, ErrNoLeader) {
		t.Errorf("a change that was not sent was told %v, want ErrNoLeader", d.Err)
	}
	for _, id := range puts {
		if d, told := c.done[id]; told {
			t.Errorf("put %d, which waits, was told %v", id, d.Err)
		}
	}
	// One comes in the moment the connection is there: it must not overtake the others.
	down = false
	puts = append(puts, c.putBy(c.now+patience, 2, putBody(t, "last")))
	c.settle()
	c.tick()
	// Or between one that could not be sent and the next that could.
	tries := 0
	c.down = func(from, to uint64) bool {
		if from == 2 && to == 1 {
			tries++
		}
		return tries == 1
	}
	puts = append(puts, c.putBy(c.now+patience, 2, putBody(t, "one")), c.putBy(c.now+patience, 2, putBody(t, "two")))
	c.settle()
	c.tick()
	last := c.results[first].Rev
	for _, id := range puts {
		res := c.results[id]
		if res.Rev != last+1 {
			t.Errorf("put %d was executed at revision %d, the one before at %d; it was told %v", id, res.Rev, last, c.done[id].Err)
		}
		last = res.Rev
	}
	if d, told := c.done[renewal]; !told || !errors.Is(d.Err, ErrLeaseNotFound) {
		t.Errorf("the renewal was told %v, %t; want the leader's answer", d.Err, told)
	}
	if requests, _ := kept(c.steps[2]); requests != 0 || c.steps[2].heldBytes != 0 {
		t.Errorf("%d requests and %d bytes are kept in the end", requests, c.steps[2].heldBytes)
	}
}

func TestWhatCouldNotBeSentInTimeIsRefusedAndNeverExecuted(t *testing.T) {
	c := newTrio(t)
	down := true
	c.down = func(from, to uint64) bool { return down && from == 2 && to == 1 }
	var puts []uint64
	for range 100 {
		puts = append(puts, c.putBy(c.now+patience, 2, putBody(t, "k")))
		c.tick()
		if requests, bytes := kept(c.steps[2]); requests > 25 || bytes > 0 {
			t.Fatalf("after %v: %d requests and %d bytes are kept", c.now, requests, bytes)
		}
	}
	down = false
	for range 30 {
		c.tick()
	}
	const inTime = 81 // the first whose deadline was not over when the connection came
	for n, id := range puts {
		res, executed := c.results[id]
		if d, told := c.done[id]; executed != (n >= inTime) || told == executed || res.Err != nil || told && !errors.Is(d.Err, ErrNoLeader) {
			t.Errorf("put %d has the result %+v, %t, and was told %v, %t", n, res, executed, d.Err, told)
		}
	}
}

func TestReadsThatFindNoLeaderAreForgottenWithTheirCallers(t *testing.T) {
	c := newTrio(t)
	for _, other := range []uint64{1, 3} {
		c.cut[[2]uint64{2, other}], c.cut[[2]uint64{other, 2}] = true, true
	}
	for range 300 {
		ticket := c.read(2)
		for range patience/(100*time.Millisecond) + 1 {
			c.tick()
		}
		if d := c.done[ticket]; !errors.Is(d.Err, ErrTimeout) {
			t.Fatalf("the read was told %v, want ErrTimeout", d.Err)
		}
		if requests, _ := kept(c.steps[2]); requests > 0 {
			t.Fatalf("after %v: %d requests are kept", c.now, requests)
		}
	}
	if s := c.steps[2]; s.Leader() != 0 {
		t.Fatalf("member 2 follows %d", s.Leader())
	}
}

// A leader whose machine stands still confirms reads and renewals and cannot answer them.
func TestAnswersThatWaitForTheMachineAreForgottenWithTheirCallers(t *testing.T) {
	c := newTrio(t)
	c.tick()
	c.slow = 1
	c.put(2, putBody(t, "k"))
	c.settle()
	var reads, renewals []uint64
	most := int(2 * (maxAsked + patience) / (100 * time.Millisecond))
	for range 3 * most {
		reads = append(reads, c.read(1))
		for _, at := range []uint64{1, 2} {
			id := c.nextID()
			c.steps[at].Renew(id, 7)
			renewals = append(renewals, id)
		}
		c.tick()
		for at, s := range c.steps {
			if requests, _ := kept(s); requests > 4*most {
				t.Fatalf("after %v: member %d keeps %d requests", c.now, at, requests)
			}
		}
	}
	if s := c.steps[1]; s.Role() != raft.StateLeader || len(c.late) == 0 {
		t.Fatalf("member 1 is a %v, and %d tasks wait for its machine", s.Role(), len(c.late))
	}
	for _, id := range append(reads[:most], renewals[:most]...) {
		if d := c.done[id]; !errors.Is(d.Err, ErrTimeout) {
			t.Fatalf("request %d was told %v, want ErrTimeout", id, d.Err)
		}
	}
}
