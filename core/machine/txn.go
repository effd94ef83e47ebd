package machine

import (
	"bytes"
	"cmp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

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
func (t *txnRun) choose(r *pb.TxnRequest) {
	ok := true
	for _, c := range r.Compare {
		if !t.holds(c) {
			ok = false
			break
		}
	}
	t.path = append(t.path, ok)
	for _, op := range branch(r, ok) {
		if nested := op.GetRequestTxn(); nested != nil {
			t.choose(nested)
		}
	}
}

func branch(r *pb.TxnRequest, ok bool) []*pb.RequestOp {
	if ok {
		return r.Success
	}
	return r.Failure
}

// take walks the path: it says whether the txn that is met now succeeds and
// gives the operations it executes.
func (t *txnRun) take(r *pb.TxnRequest) (bool, []*pb.RequestOp) {
	ok := t.path[t.next]
	t.next++
	return ok, branch(r, ok)
}

// holds evaluates one comparison. All keys of a range have to match; a missing
// key compares as zeros, except that comparing its value never holds.
func (t *txnRun) holds(c *pb.Compare) bool {
	if len(c.RangeEnd) == 0 {
		r, ok := t.state.Get(c.Key)
		return compare(c, r, ok)
	}
	res, err := t.state.Range(mvcc.RangeOptions{Key: c.Key, End: c.RangeEnd})
	if err != nil {
		return false
	}
	if len(res.KVs) == 0 {
		return compare(c, nil, false)
	}
	for _, r := range res.KVs {
		if !compare(c, r, true) {
			return false
		}
	}
	return true
}

func compare(c *pb.Compare, r mvcc.Record, exists bool) bool {
	if !exists && c.Target == pb.Compare_VALUE {
		return false
	}
	var kv mvcc.KV
	if exists {
		kv = r.Decode()
	}
	var result int
	switch c.Target {
	case pb.Compare_VALUE:
		result = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		result = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		result = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		result = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		result = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
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
func (t *txnRun) check(r *pb.TxnRequest) error {
	_, ops := t.take(r)
	for _, op := range ops {
		var err error
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			err = t.checkRevision(o.RequestRange.Revision)
		case *pb.RequestOp_RequestPut:
			p := putOf(o.RequestPut)
			err = checkPutState(t.state, t.leases, &p)
		case *pb.RequestOp_RequestTxn:
			err = t.check(o.RequestTxn)
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

// RangeOptions says in mvcc's terms what a range request asks for.
func RangeOptions(r *pb.RangeRequest) mvcc.RangeOptions {
	return mvcc.RangeOptions{
		Key: r.GetKey(), End: r.GetRangeEnd(), Rev: r.GetRevision(), Limit: r.GetLimit(),
		CountOnly: r.GetCountOnly(), KeysOnly: r.GetKeysOnly(),
		MinMod: r.GetMinModRevision(), MaxMod: r.GetMaxModRevision(),
		MinCreate: r.GetMinCreateRevision(), MaxCreate: r.GetMaxCreateRevision(),
		SortBy: mvcc.SortTarget(r.GetSortTarget()), Order: mvcc.SortOrder(r.GetSortOrder()),
	}
}

// writer executes the writes of a txn; nil in one that only reads.
type writer interface {
	reader
	Rev() int64
	put(p *putRequest) (prev mvcc.Record)
	deleteRange(key, end []byte, visit func(prev mvcc.Record)) int64
}

// execute runs the branch taken and appends the txn's response without its
// header. With want unset it makes no response and skips the reads.
func (t *txnRun) execute(b []byte, r *pb.TxnRequest, w writer, want bool) ([]byte, error) {
	ok, ops := t.take(r)
	if want {
		b = appendBool(b, 2, ok)
	}
	for _, op := range ops {
		var err error
		var at, inner int
		if want {
			b, at = open(b, 3)
		}
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			if !want {
				continue
			}
			b, inner = open(b, 1)
			if b, err = t.appendRange(b, o.RequestRange); err != nil {
				return nil, err
			}
		case *pb.RequestOp_RequestPut:
			p := putOf(o.RequestPut)
			prev := w.put(&p)
			if !want {
				continue
			}
			b, inner = open(b, 2)
			b = appendRevision(b, w.Rev())
			if p.prevKV && prev != nil {
				b = appendBytes(b, 2, prev)
			}
		case *pb.RequestOp_RequestDeleteRange:
			d := deleteRequest{key: o.RequestDeleteRange.Key, end: o.RequestDeleteRange.RangeEnd, prevKV: o.RequestDeleteRange.PrevKv}
			if !want {
				w.deleteRange(d.key, d.end, nil)
				continue
			}
			b, inner = open(b, 3)
			b = d.execute(b, w, true)
		case *pb.RequestOp_RequestTxn:
			if want {
				b, inner = open(b, 4)
				b = appendBytes(b, 1, nil) // etcd leaves a nested txn's header empty
			}
			if b, err = t.execute(b, o.RequestTxn, w, want); err != nil {
				return nil, err
			}
			if !want {
				continue
			}
		}
		b = shut(shut(b, inner), at)
	}
	return b, nil
}

func (t *txnRun) appendRange(b []byte, r *pb.RangeRequest) ([]byte, error) {
	res, err := t.state.Range(RangeOptions(r))
	if err != nil {
		return nil, err
	}
	return AppendRangeBody(appendRevision(b, res.Rev), res, r.KeysOnly), nil
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
	t := txnRun{state: v.KV, leases: v.Leases, rev: v.KV.Rev(), compactRev: v.KV.CompactRev()}
	t.choose(r)
	if err := t.check(r); err != nil {
		return nil, err
	}
	t.next = 0
	return t.execute(make([]byte, 0, 128), r, nil, true)
}
