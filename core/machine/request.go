package machine

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/musterhq/muster/core/mvcc"
)

// txnRequest is an etcdserverpb.TxnRequest in a form that is cheap to read from
// its bytes and can be used again. Its slices alias what it was read from.
type txnRequest struct {
	compare          []comparison
	success, failure []operation
}

// comparison is an etcdserverpb.Compare.
type comparison struct {
	result     pb.Compare_CompareResult
	target     pb.Compare_CompareTarget
	key, end   []byte
	union      protowire.Number // which operand was given, by its field; 0: none
	number     int64
	operandVal []byte
}

// The fields of Compare's operands.
const (
	unionVersion = 4
	unionCreate  = 5
	unionMod     = 6
	unionValue   = 7
	unionLease   = 8
)

type opKind uint8

// The fields of RequestOp.
const (
	opRange  opKind = 1
	opPut    opKind = 2
	opDelete opKind = 3
	opTxn    opKind = 4
)

// operation is an etcdserverpb.RequestOp; what kind names is set. 0 is none.
type operation struct {
	kind opKind
	rng  mvcc.RangeOptions
	put  putRequest
	del  deleteRequest
	txn  *txnRequest
}

// maxNesting is how deep txns may be nested in one another in bytes that are to
// be read at all; how deep they may be is settled by the limit of operations.
const maxNesting = 1000

// parse reads a request. Fields that come twice are merged as protobuf has it.
func (t *txnRequest) parse(b []byte, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("%w: txns nested too deep", ErrMalformed)
	}
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		b = rest
		if f.typ != protowire.BytesType {
			continue
		}
		switch f.num {
		case 1:
			t.compare = grow(t.compare)
			err = last(t.compare).parse(f.b)
		case 2:
			t.success = grow(t.success)
			err = last(t.success).parse(f.b, depth)
		case 3:
			t.failure = grow(t.failure)
			err = last(t.failure).parse(f.b, depth)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// grow adds a zero element.
func grow[E any](s []E) []E {
	var zero E
	return append(s, zero)
}

func last[E any](s []E) *E { return &s[len(s)-1] }

// reset empties the request for the next use, unless it has become so large
// that keeping it would be a waste.
func (t *txnRequest) reset() {
	const keep = 256
	if cap(t.compare) > keep || cap(t.success) > keep || cap(t.failure) > keep {
		*t = txnRequest{}
		return
	}
	clear(t.compare)
	clear(t.success)
	clear(t.failure)
	t.compare, t.success, t.failure = t.compare[:0], t.success[:0], t.failure[:0]
}

func (c *comparison) parse(b []byte) error {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		b = rest
		switch {
		case f.typ == protowire.VarintType:
			switch f.num {
			case 1:
				c.result = pb.Compare_CompareResult(f.u)
			case 2:
				c.target = pb.Compare_CompareTarget(f.u)
			case unionVersion, unionCreate, unionMod, unionLease:
				c.union, c.number = f.num, int64(f.u)
			}
		case f.typ != protowire.BytesType:
		case f.num == 3:
			c.key = f.b
		case f.num == unionValue:
			c.union, c.operandVal = f.num, f.b
		case f.num == 64:
			c.end = f.b
		}
	}
	return nil
}

// operand is the number to compare with, 0 if another one was given.
func (c *comparison) operand(union protowire.Number) int64 {
	if c.union != union {
		return 0
	}
	return c.number
}

func (c *comparison) value() []byte {
	if c.union != unionValue {
		return nil
	}
	return c.operandVal
}

func (o *operation) parse(b []byte, depth int) error {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		b = rest
		if f.typ != protowire.BytesType || f.num > protowire.Number(opTxn) {
			continue
		}
		if kind := opKind(f.num); kind != o.kind {
			*o = operation{kind: kind} // of several kinds the last one counts
		}
		switch o.kind {
		case opRange:
			err = parseRange(&o.rng, f.b)
		case opPut:
			err = o.put.parse(f.b)
		case opDelete:
			err = o.del.parse(f.b)
		case opTxn:
			if o.txn == nil {
				o.txn = new(txnRequest)
			}
			err = o.txn.parse(f.b, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parseRange reads an etcdserverpb.RangeRequest.
func parseRange(o *mvcc.RangeOptions, b []byte) error {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		b = rest
		if f.typ == protowire.BytesType {
			switch f.num {
			case 1:
				o.Key = f.b
			case 2:
				o.End = f.b
			}
			continue
		}
		if f.typ != protowire.VarintType {
			continue
		}
		switch f.num {
		case 3:
			o.Limit = int64(f.u)
		case 4:
			o.Rev = int64(f.u)
		case 5:
			o.Order = mvcc.SortOrder(f.u)
		case 6:
			o.SortBy = mvcc.SortTarget(f.u)
		case 8:
			o.KeysOnly = f.u != 0
		case 9:
			o.CountOnly = f.u != 0
		case 10:
			o.MinMod = int64(f.u)
		case 11:
			o.MaxMod = int64(f.u)
		case 12:
			o.MinCreate = int64(f.u)
		case 13:
			o.MaxCreate = int64(f.u)
		}
	}
	return nil
}

// txnOf takes over a decoded request.
func txnOf(r *pb.TxnRequest) *txnRequest {
	t := &txnRequest{compare: make([]comparison, 0, len(r.GetCompare()))}
	for _, c := range r.GetCompare() {
		t.compare = append(t.compare, comparisonOf(c))
	}
	t.success = opsOf(r.GetSuccess())
	t.failure = opsOf(r.GetFailure())
	return t
}

func comparisonOf(c *pb.Compare) comparison {
	out := comparison{result: c.GetResult(), target: c.GetTarget(), key: c.GetKey(), end: c.GetRangeEnd()}
	switch u := c.GetTargetUnion().(type) {
	case *pb.Compare_Version:
		out.union, out.number = unionVersion, u.Version
	case *pb.Compare_CreateRevision:
		out.union, out.number = unionCreate, u.CreateRevision
	case *pb.Compare_ModRevision:
		out.union, out.number = unionMod, u.ModRevision
	case *pb.Compare_Value:
		out.union, out.operandVal = unionValue, u.Value
	case *pb.Compare_Lease:
		out.union, out.number = unionLease, u.Lease
	}
	return out
}

func opsOf(ops []*pb.RequestOp) []operation {
	out := make([]operation, 0, len(ops))
	for _, op := range ops {
		var o operation
		switch r := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			o.kind, o.rng = opRange, RangeOptions(r.RequestRange)
		case *pb.RequestOp_RequestPut:
			o.kind, o.put = opPut, putOf(r.RequestPut)
		case *pb.RequestOp_RequestDeleteRange:
			d := r.RequestDeleteRange
			o.kind, o.del = opDelete, deleteRequest{key: d.GetKey(), end: d.GetRangeEnd(), prevKV: d.GetPrevKv()}
		case *pb.RequestOp_RequestTxn:
			o.kind, o.txn = opTxn, txnOf(r.RequestTxn)
		}
		out = append(out, o)
	}
	return out
}

func putOf(r *pb.PutRequest) putRequest {
	return putRequest{
		key: r.GetKey(), value: r.GetValue(), lease: r.GetLease(),
		prevKV: r.GetPrevKv(), ignoreValue: r.GetIgnoreValue(), ignoreLease: r.GetIgnoreLease(),
	}
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
