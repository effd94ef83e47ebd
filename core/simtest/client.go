package simtest

import (
	"fmt"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/node"
)

// client runs one operation after another on members of its choice.
type client struct {
	w    *World
	id   int
	at   int // slot of the member it talks to
	ops  int
	last string // what it is doing, for the report, and
	to   string // to which key, if to one
	done bool   // served once after the faults ended
	end  bool   // asks for nothing more

	floor int64 // what had been acknowledged or shown to anybody when its operation began

	lease    int64
	leaseTTL time.Duration
}

const (
	opTimeout = 4 * time.Second
	keysAlive = 6  // keys in use at a time
	opsPerKey = 60 // then a new generation of keys: keeps histories checkable
)

func newClient(w *World, id int) *client {
	c := &client{w: w, id: id, at: w.anyone().slot}
	w.after(w.between(0, 500*time.Millisecond), c.next)
	return c
}

// finish has the client prove that it is served again, then stop.
func (c *client) finish() { c.end = true }

func (c *client) next() {
	w := c.w
	if w.failure != nil || c.done {
		return
	}
	if w.chance(0.05) {
		c.at = w.anyone().slot
	}
	m := w.members[c.at]
	if !m.up() {
		c.at = w.anyone().slot
		w.after(w.between(50*time.Millisecond, 300*time.Millisecond), c.next)
		return
	}
	w.stats.Ops++
	generation := int(w.stats.Ops) / (keysAlive * opsPerKey)
	key := numbered("k", generation, w.rng.IntN(keysAlive))
	c.ops++
	value := numbered("c", c.id, c.ops)
	switch x := w.rng.IntN(100); {
	case c.end:
		c.write(m, key, opRecord{kind: opPut, value: value})
	case w.opts.leasesOnly && x < 80:
		c.leaseOp(m, value)
	case x < 30:
		c.read(m, key)
	case x < 35:
		c.readAll(m, generation)
	case x < 60:
		c.write(m, key, opRecord{kind: opPut, value: value})
	case x < 65:
		c.txn(m, value)
	case x < 66:
		c.call(m, "delete all", "", func(id uint64) {
			m.propose(id, machine.DeleteRange, &pb.DeleteRangeRequest{Key: []byte("t"), RangeEnd: []byte("u"), PrevKv: true})
		}, func(outcome, bool) {})
	case x < 72:
		c.write(m, key, opRecord{kind: opDelete})
	case x < 87:
		c.write(m, key, opRecord{kind: opCAS, expect: c.guess(m, key), value: value})
	case x < 96:
		c.leaseOp(m, value)
	default:
		c.compact(m)
	}
}

// numbered is what, a-b; one is made for every operation.
func numbered(what string, a, b int) string {
	var buf [48]byte
	return string(strconv.AppendInt(append(strconv.AppendInt(append(buf[:0], what...), int64(a), 10), '-'), int64(b), 10))
}

// guess is a value for a compare-and-swap to expect: what the member has now,
// perhaps stale.
func (c *client) guess(m *member, key string) string {
	if r, ok := m.n.View().KV.Get([]byte(key)); ok {
		return string(r.Value())
	}
	return ""
}

// call runs one operation: start hands it to the member under an id, by which
// its outcome comes back. The result says whether there was one in time.
func (c *client) call(m *member, what, key string, start func(id uint64), finish func(outcome, bool)) {
	w := c.w
	c.last, c.to = what, key
	over := false
	c.floor = max(w.acked, w.shown)
	end := func(o outcome, known bool) {
		if over {
			return
		}
		over = true
		if !known {
			w.stats.Unknown++
		}
		finish(o, known)
		if known && o.err == nil {
			c.done = c.end
			w.acked = max(w.acked, o.res.Rev)
		}
		think := w.between(0, w.shape.think)
		if o.err != nil || !known {
			think += 100 * time.Millisecond
			c.at = w.anyone().slot
		}
		w.after(think, c.next)
	}
	m.do(m.life, func() {
		id := m.drawID()
		m.waiting[id] = func(o outcome) { w.after(w.between(0, time.Millisecond), func() { end(o, true) }) }
		start(id)
	})
	w.agenda.addLater(w.now+opTimeout, func() { end(outcome{}, false) })
}

// propose hands one command to a member.
func (m *member) propose(id uint64, kind machine.Kind, req proto.Message) {
	m.hand(id, kind, m.w.truth.ask(commandID{m.id, id}, req))
}

// hand is propose for an encoded request.
func (m *member) hand(id uint64, kind machine.Kind, body []byte) {
	b := node.NewBatch(256, m.clock()+opTimeout)
	b.Add(&machine.Command{Kind: kind, ID: id, Member: m.id, Body: body})
	m.step(func(s *node.Stepper) { s.Propose(b) })
}

// read asks for a linearizable read as Node.ReadBarrier does.
func (m *member) read(id uint64) {
	if m.solo {
		m.complete(id, outcome{})
		return
	}
	m.step(func(s *node.Stepper) { s.Read(id, m.clock()+opTimeout) })
}

func (c *client) read(m *member, key string) {
	h := c.w.begin(key, opRecord{kind: opGet})
	c.call(m, "get", key, m.read, func(o outcome, known bool) {
		if !known || o.err != nil {
			c.w.drop(h) // a read without an answer says nothing
			return
		}
		c.w.truth.read(c.w, m, o.view, c.floor, []string{key})
		value := ""
		if r, ok := o.view.KV.Get([]byte(key)); ok {
			value = string(r.Value())
		}
		c.w.finish(h, value, true)
	})
}

// readAll reads keys of several clients at one revision.
func (c *client) readAll(m *member, generation int) {
	c.call(m, "range", "", m.read, func(o outcome, known bool) {
		if !known || o.err != nil {
			return
		}
		keys := make([]string, 0, 2*keysAlive)
		for i := range keysAlive {
			keys = append(keys, numbered("k", generation, i), txnKeys[i])
		}
		c.w.truth.read(c.w, m, o.view, c.floor, keys)
	})
}

// txnKeys are written by transactions alone.
var txnKeys = [keysAlive]string{"t0", "t1", "t2", "t3", "t4", "t5"}

// txn changes several keys in one revision; truth and specification check what
// comes of it.
func (c *client) txn(m *member, value string) {
	w := c.w
	key := func() []byte { return []byte(txnKeys[w.rng.IntN(keysAlive)]) }
	put := func(k []byte, v string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: k, Value: []byte(v), PrevKv: true}}}
	}
	del := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("t0"), RangeEnd: []byte("t2"), PrevKv: true}}}
	all := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("t"), RangeEnd: []byte("u")}}}
	// A revision that may be compacted: that all members have to see alike.
	past := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{
		Key: []byte("t"), RangeEnd: []byte("u"), Revision: max(0, w.acked-w.rng.Int64N(60)),
	}}}
	nested := &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: key(), Target: pb.Compare_CREATE, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_CreateRevision{}}},
		Success: []*pb.RequestOp{put([]byte("t3"), value+"n"), all},
		Failure: []*pb.RequestOp{del},
	}}}
	req := &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: key(), Target: pb.Compare_VERSION, Result: pb.Compare_LESS, TargetUnion: &pb.Compare_Version{Version: 3}}},
		Success: []*pb.RequestOp{put([]byte("t4"), value), nested, put([]byte("t5"), value), past},
		Failure: []*pb.RequestOp{all, del, put([]byte("t2"), value), all},
	}
	c.call(m, "txn", "", func(id uint64) { m.propose(id, machine.Txn, req) }, func(outcome, bool) {})
}

func (c *client) write(m *member, key string, op opRecord) {
	h := c.w.begin(key, op)
	var kind machine.Kind
	var req proto.Message
	switch op.kind {
	case opPut:
		kind, req = machine.Put, &pb.PutRequest{Key: []byte(key), Value: []byte(op.value)}
	case opDelete:
		kind, req = machine.DeleteRange, &pb.DeleteRangeRequest{Key: []byte(key)}
	default:
		cmp := &pb.Compare{Key: []byte(key), Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Value{Value: []byte(op.expect)}}
		if op.expect == "" {
			cmp = &pb.Compare{Key: []byte(key), Target: pb.Compare_VERSION, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Version{}}
		}
		kind, req = machine.Txn, &pb.TxnRequest{
			Compare: []*pb.Compare{cmp},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(op.value)}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}},
		}
	}
	c.call(m, op.kind.String(), key, func(id uint64) { m.propose(id, kind, req) }, func(o outcome, known bool) {
		if !known || o.err != nil {
			if neverHappened(o.err) {
				c.w.drop(h)
				return
			}
			c.w.finish(h, "", false)
			return
		}
		result := ""
		if op.kind == opCAS {
			var resp pb.TxnResponse
			if err := proto.Unmarshal(o.res.Body, &resp); err != nil {
				c.w.fail("txn reply: %v", err)
			}
			result = "lost"
			if resp.GetSucceeded() {
				result = "won"
			} else if len(resp.GetResponses()) == 0 {
				c.w.fail("a txn was acknowledged without its answer")
			} else if kvs := resp.GetResponses()[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
				result = "lost to " + string(kvs[0].GetValue())
			}
		}
		c.w.finish(h, result, true)
	})
}

// neverHappened reports errors after which the command certainly has no effect.
func neverHappened(err error) bool {
	return err == node.ErrNoLeader || err == node.ErrTooManyRequests //nolint:errorlint // the stepper returns these bare
}

func (c *client) leaseOp(m *member, value string) {
	w := c.w
	called := w.now
	switch {
	case c.lease == 0:
		lid := int64(c.id+1)<<32 | int64(c.ops)
		ttl := 2 + w.rng.Int64N(w.shape.leaseTTL-1)
		w.leases.of(lid).ttl = time.Duration(ttl) * time.Second
		w.leases.of(lid).lastTry = w.now
		c.call(m, "grant", "", func(id uint64) {
			m.propose(id, machine.LeaseGrant, &pb.LeaseGrantRequest{ID: lid, TTL: ttl})
		}, func(o outcome, known bool) {
			if known && o.err == nil {
				c.lease, c.leaseTTL = lid, time.Duration(ttl)*time.Second
				w.leases.promised(w, lid, c.leaseTTL, called)
			}
		})
	case w.chance(0.6):
		lid, ttl := c.lease, c.leaseTTL
		w.leases.of(lid).lastTry = w.now
		c.call(m, "renew", "", func(id uint64) {
			m.step(func(s *node.Stepper) { s.Renew(id, lid) })
		}, func(o outcome, known bool) {
			switch {
			case known && o.err == nil:
				w.leases.promised(w, lid, ttl, called)
			case known && o.err == node.ErrLeaseNotFound: //nolint:errorlint // bare
				c.lease = 0
			}
		})
	case w.chance(0.7):
		lid := c.lease
		c.call(m, "put with lease", "", func(id uint64) {
			m.propose(id, machine.Put, &pb.PutRequest{Key: c.leaseKey(lid), Value: []byte(value), Lease: lid})
		}, func(outcome, bool) {})
	case w.chance(0.3):
		lid := c.lease
		c.call(m, "take a key from its lease", "", func(id uint64) {
			m.propose(id, machine.Put, &pb.PutRequest{Key: c.leaseKey(lid), Value: []byte(value)})
		}, func(outcome, bool) {})
	case w.chance(0.3):
		lid := c.lease
		c.lease = 0
		w.leases.of(lid).revoked = true
		c.call(m, "revoke", "", func(id uint64) {
			m.propose(id, machine.LeaseRevoke, &pb.LeaseRevokeRequest{ID: lid})
		}, func(outcome, bool) {})
	default:
		c.lease = 0 // abandon it
		w.after(time.Millisecond, c.next)
	}
}

// leaseKey is one of several that a lease may take with it.
func (c *client) leaseKey(lid int64) []byte { return fmt.Appendf(nil, "lease/%d/%d", lid, c.ops%3) }

func (c *client) compact(m *member) {
	rev := m.n.View().KV.Rev() - c.w.rng.Int64N(40)
	if rev < 1 {
		c.w.after(time.Millisecond, c.next)
		return
	}
	c.call(m, "compact", "", func(id uint64) {
		m.propose(id, machine.Compact, &pb.CompactionRequest{Revision: rev})
	}, func(outcome, bool) {})
}
