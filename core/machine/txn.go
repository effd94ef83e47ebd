package machine

import (
	"bytes"
	"cmp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/mvcc"
)

// A txn runs in three steps. First all comparisons, those of nested txns
// included, are made on the state before it, which settles the path through it.
// Then everything on that path that could be refused is checked, on that state
// too. Only then it is executed, and can't fail any more: a range sees the
// writes before it, nothing else does.

// reader is what a txn reads: a view, or a write transaction that shows its own
// writes.
type reader interface {
	Get(key []byte) (mvcc.Record, bool)
	Range(mvcc.RangeOptions) (mvcc.RangeResult, error)
}

// leaseReader is what it asks about leases.
type leaseReader interface {
	Lookup(id int64) (lease.Lease, bool)
}

// txnRun is one txn under way.
type txnRun struct {
	state           reader
	leases          leaseReader
	rev, compactRev int64  // before the txn
	path            []bool // which branch each txn takes, in the order in which they are met
	next            int    // position in path during check and execution
}

// choose settles the path.
func (t *txnRun) choose(r *txnRequest) {
	ok := true
	for i := range r.compare {
		if !t.holds(&r.compare[i]) {
			ok = false
			break
		}
	}
	t.path = append(t.path, ok)
	ops := r.branch(ok)
	for i := range ops {
		if ops[i].kind == opTxn {
			t.choose(ops[i].txn)
		}
	}
}

func (t *txnRequest) branch(ok bool) []operation {
	if ok {
		return t.success
	}
	return t.failure
}

// take walks the path: it says whether the txn that is met now succeeds and
// gives the operations it executes.
func (t *txnRun) take(r *txnRequest) (bool, []operation) {
	ok := t.path[t.next]
	t.next++
	return ok, r.branch(ok)
}

// holds evaluates one comparison. All keys of a range have to match; a missing
// key compares as zeros, except that comparing its value never holds.
func (t *txnRun) holds(c *comparison) bool {
	if len(c.end) == 0 {
		r, ok := t.state.Get(c.key)
		return c.holdsFor(r, ok)
	}
	res, err := t.state.Range(mvcc.RangeOptions{Key: c.key, End: c.end})
	if err != nil {
		return false
	}
	if len(res.KVs) == 0 {
		return c.holdsFor(nil, false)
	}
	for _, r := range res.KVs {
		if !c.holdsFor(r, true) {
			return false
		}
	}
	return true
}

func (c *comparison) holdsFor(r mvcc.Record, exists bool) bool {
	if !exists && c.target == pb.Compare_VALUE {
		return false
	}
	var kv mvcc.KV
	if exists {
		kv = r.Decode()
	}
	var result int
	switch c.target {
	case pb.Compare_VALUE:
		result = bytes.Compare(kv.Value, c.value())
	case pb.Compare_CREATE:
		result = cmp.Compare(kv.CreateRevision, c.operand(unionCreate))
	case pb.Compare_MOD:
		result = cmp.Compare(kv.ModRevision, c.operand(unionMod))
	case pb.Compare_VERSION:
		result = cmp.Compare(kv.Version, c.operand(unionVersion))
	case pb.Compare_LEASE:
		result = cmp.Compare(kv.Lease, c.operand(unionLease))
	}
	switch c.result {
	case pb.Compare_EQUAL:
		return result == 0
	case pb.Compare_NOT_EQUAL:
		return result != 0
	case pb.Compare_GREATER:
		return result > 0
	case pb.Compare_LESS:
		return result < 0
	}
	return true // etcd's answer to a result it doesn't know
}

// check refuses what the state before the txn doesn't allow.
func (t *txnRun) check(r *txnRequest) error {
	_, ops := t.take(r)
	for i := range ops {
		var err error
		switch o := &ops[i]; o.kind {
		case opRange:
			err = t.checkRevision(o.rng.Rev)
		case opPut:
			err = checkPutState(t.state, t.leases, &o.put)
		case opTxn:
			err = t.check(o.txn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkRevision is etcd's: unlike a range outside a txn, one inside takes a
// negative revision for compacted once anything was.
func (t *txnRun) checkRevision(rev int64) error {
	switch {
	case rev == 0:
		return nil
	case rev > t.rev:
		return mvcc.ErrFutureRev
	case rev < t.compactRev:
		return mvcc.ErrCompacted
	}
	return nil
}

// checkPutState refuses a put whose lease or whose key to take over from isn't there.
func checkPutState(state reader, leases leaseReader, p *putRequest) error {
	if p.lease != 0 {
		if _, ok := leases.Lookup(p.lease); !ok {
			return lease.ErrNotFound
		}
	}
	if p.ignoreValue || p.ignoreLease {
		if _, ok := state.Get(p.key); !ok {
			return ErrKeyNotFound
		}
	}
	return nil
}

// writer executes the writes of a txn; nil in one that only reads.
type writer interface {
	Rev() int64
	put(p *putRequest) (prev mvcc.Record)
	deleteRange(key, end []byte, visit func(prev mvcc.Record)) int64
}

// execute runs the branch taken and appends the txn's response without its
// header. With want unset it makes no response and skips the reads.
func (t *txnRun) execute(b []byte, r *txnRequest, w writer, want bool) ([]byte, error) {
	ok, ops := t.take(r)
	if !want {
		return nil, t.executeSilently(ops, w)
	}
	b = appendBool(b, 2, ok)
	for i := range ops {
		o := &ops[i]
		var outer, inner int
		b, outer = open(b, 3)
		b, inner = open(b, protowire.Number(o.kind))
		switch o.kind {
		case opRange:
			res, err := t.state.Range(o.rng)
			if err != nil {
				return nil, err
			}
			b = AppendRangeBody(appendRevision(b, res.Rev), res, o.rng.KeysOnly)
		case opPut:
			prev := w.put(&o.put)
			b = appendRevision(b, w.Rev())
			if o.put.prevKV && prev != nil {
				b = appendBytes(b, 2, prev)
			}
		case opDelete:
			b = o.del.execute(b, w, true)
		case opTxn:
			var err error
			b = appendBytes(b, 1, nil) // etcd leaves a nested txn's header empty
			if b, err = t.execute(b, o.txn, w, true); err != nil {
				return nil, err
			}
		}
		b = shut(shut(b, inner), outer)
	}
	return b, nil
}

func (t *txnRun) executeSilently(ops []operation, w writer) error {
	for i := range ops {
		switch o := &ops[i]; o.kind {
		case opPut:
			w.put(&o.put)
		case opDelete:
			w.deleteRange(o.del.key, o.del.end, nil)
		case opTxn:
			if _, err := t.execute(nil, o.txn, w, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// execute deletes and appends the response, with a nested header or without.
func (d *deleteRequest) execute(b []byte, w writer, nested bool) []byte {
	var prevs []mvcc.Record
	var visit func(mvcc.Record)
	if d.prevKV {
		visit = func(prev mvcc.Record) { prevs = append(prevs, prev) }
	}
	n := w.deleteRange(d.key, d.end, visit)
	if nested {
		b = appendRevision(b, w.Rev())
	}
	b = appendInt(b, 2, n)
	for _, prev := range prevs {
		b = appendBytes(b, 3, prev)
	}
	return b
}

// ReadOnly reports whether a txn changes nothing whichever branch it takes, so
// that it can be answered from a view.
func ReadOnly(r *pb.TxnRequest) bool {
	for _, ops := range [...][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			if op.GetRequestRange() == nil && (op.GetRequestTxn() == nil || !ReadOnly(op.GetRequestTxn())) {
				return false
			}
		}
	}
	return true
}

// ReadTxn answers a txn for which ReadOnly holds and that passed CheckTxn from a
// view: the wire bytes of its response without the header.
func ReadTxn(v *View, r *pb.TxnRequest) (body []byte, err error) {
	txn := txnOf(r)
	t := txnRun{state: v.KV, leases: v.Leases, rev: v.KV.Rev(), compactRev: v.KV.CompactRev()}
	t.choose(txn)
	if err := t.check(txn); err != nil {
		return nil, err
	}
	t.next = 0
	return t.execute(make([]byte, 0, 128), txn, nil, true)
}
