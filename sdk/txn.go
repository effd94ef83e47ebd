package sdk

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Txn is an atomic change: if all compares of If hold, Then runs, otherwise Else. All of it takes one revision. A
// transaction that only reads is repeated like a read.
type Txn struct {
	If         []Cmp
	Then, Else []Op
}

// Op is one operation of a transaction.
type Op struct {
	req *pb.RequestOp
	err error
}

// OpPut sets a key.
func OpPut(key string, value []byte, opts ...Option) Op {
	r, err := newRequest(onPut, key, value, opts)
	if err != nil {
		return Op{err: err}
	}
	return Op{req: &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r.put()}}}
}

// OpGet reads a key or range, as it is when the operation's turn comes.
func OpGet(key string, opts ...Option) Op {
	r, err := newRequest(onGet, key, nil, opts)
	if err != nil {
		return Op{err: err}
	}
	return Op{req: &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r.get()}}}
}

// OpDelete removes a key or range.
func OpDelete(key string, opts ...Option) Op {
	r, err := newRequest(onDelete, key, nil, opts)
	if err != nil {
		return Op{err: err}
	}
	return Op{req: &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r.delete()}}}
}

// OpTxn nests a transaction.
func OpTxn(t Txn) Op {
	r, err := t.request()
	if err != nil {
		return Op{err: err}
	}
	return Op{req: &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}}
}

// Cmp is a condition on a key. A key that doesn't exist has create revision, mod revision, version and lease 0; a
// compare of its value never holds.
type Cmp struct {
	cmp *pb.Compare
	err error
}

// CmpValue compares a key's value by op, one of = != < >.
func CmpValue(key, op string, value []byte) Cmp {
	c := newCmp(key, op, pb.Compare_VALUE)
	c.cmp.TargetUnion = &pb.Compare_Value{Value: value}
	return c
}

// CmpVersion compares a key's version; CmpVersion(key, "=", 0) holds if the key doesn't exist.
func CmpVersion(key, op string, version int64) Cmp {
	c := newCmp(key, op, pb.Compare_VERSION)
	c.cmp.TargetUnion = &pb.Compare_Version{Version: version}
	return c
}

// CmpCreate compares a key's create revision.
func CmpCreate(key, op string, rev int64) Cmp {
	c := newCmp(key, op, pb.Compare_CREATE)
	c.cmp.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: rev}
	return c
}

// CmpMod compares the revision of a key's last change.
func CmpMod(key, op string, rev int64) Cmp {
	c := newCmp(key, op, pb.Compare_MOD)
	c.cmp.TargetUnion = &pb.Compare_ModRevision{ModRevision: rev}
	return c
}

// CmpLease compares the lease a key is bound to.
func CmpLease(key, op string, lease int64) Cmp {
	c := newCmp(key, op, pb.Compare_LEASE)
	c.cmp.TargetUnion = &pb.Compare_Lease{Lease: lease}
	return c
}

// WithRange demands the condition of every key from the compare's key up to, not including, end.
func (c Cmp) WithRange(end string) Cmp { return c.ranged([]byte(end)) }

// WithPrefix demands the condition of every key that begins with the compare's key.
func (c Cmp) WithPrefix() Cmp { return c.ranged(prefixEnd(c.cmp.GetKey())) }

func (c Cmp) ranged(end []byte) Cmp {
	if c.err != nil || c.cmp == nil {
		return c
	}
	return Cmp{cmp: &pb.Compare{
		Key: c.cmp.GetKey(), RangeEnd: end, Result: c.cmp.GetResult(), Target: c.cmp.GetTarget(), TargetUnion: c.cmp.GetTargetUnion(),
	}}
}

func newCmp(key, op string, target pb.Compare_CompareTarget) Cmp {
	c := Cmp{cmp: &pb.Compare{Key: []byte(key), Target: target}}
	switch op {
	case "=":
		c.cmp.Result = pb.Compare_EQUAL
	case "!=":
		c.cmp.Result = pb.Compare_NOT_EQUAL
	case "<":
		c.cmp.Result = pb.Compare_LESS
	case ">":
		c.cmp.Result = pb.Compare_GREATER
	default:
		c.err = fmt.Errorf("%w: compare of key %q by %q; use one of = != < >", ErrInvalid, key, op)
	}
	return c
}

func (t Txn) request() (*pb.TxnRequest, error) {
	r := &pb.TxnRequest{Compare: make([]*pb.Compare, 0, len(t.If))}
	for _, c := range t.If {
		if c.err != nil {
			return nil, c.err
		}
		if c.cmp == nil {
			return nil, fmt.Errorf("%w: zero Cmp in Txn.If; use the Cmp… functions", ErrInvalid)
		}
		r.Compare = append(r.Compare, c.cmp)
	}
	var err error
	if r.Success, err = requests(t.Then); err != nil {
		return nil, err
	}
	if r.Failure, err = requests(t.Else); err != nil {
		return nil, err
	}
	return r, nil
}

func requests(ops []Op) ([]*pb.RequestOp, error) {
	out := make([]*pb.RequestOp, 0, len(ops))
	for _, o := range ops {
		if o.err != nil {
			return nil, o.err
		}
		if o.req == nil {
			return nil, fmt.Errorf("%w: zero Op in Txn; use the Op… functions", ErrInvalid)
		}
		out = append(out, o.req)
	}
	return out, nil
}

// Txn runs a transaction. After ErrUnknownOutcome a guarded transaction may be repeated as it is: its compares decide.
func (c *Client) Txn(ctx context.Context, t Txn) (TxnResult, error) {
	r, err := t.request()
	if err != nil {
		return TxnResult{}, err
	}
	resp, err := pb.NewKVClient(c.conn).Txn(ctx, r)
	if err != nil {
		return TxnResult{}, err
	}
	return txnResult(resp), nil
}
