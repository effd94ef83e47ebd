package spec

import (
	"bytes"
	"cmp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Txn executes a transaction: all comparisons and all checks are made on the
// state before it, then the operations of the branches chosen are executed in
// the order of their lists.
func (s *State) Txn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := checkTxn(r, s.MaxTxnOps); err != nil {
		return nil, err
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if _, err := writesOf(ops); err != nil {
			return nil, err
		}
	}
	p := s.plan(r)
	if err := s.allows(p); err != nil {
		return nil, err
	}
	c := change{s: s}
	resp := c.execute(p)
	resp.Header = c.header()
	c.done()
	return resp, nil
}

// plan is what is to be executed of a txn.
type plan struct {
	succeeded bool
	ops       []*pb.RequestOp
	nested    map[*pb.RequestOp]*plan
}

func (s *State) plan(r *pb.TxnRequest) *plan {
	p := &plan{succeeded: true, ops: r.Success, nested: make(map[*pb.RequestOp]*plan)}
	for _, c := range r.Compare {
		if !s.holds(c) {
			p.succeeded, p.ops = false, r.Failure
		}
	}
	for _, op := range p.ops {
		if t := op.GetRequestTxn(); t != nil {
			p.nested[op] = s.plan(t)
		}
	}
	return p
}

// holds evaluates a comparison: for every key of its range, or for a key of
// zeros if there is none, except that a missing value equals nothing.
func (s *State) holds(c *pb.Compare) bool {
	kvs := inRange(s.keys, c.Key, c.RangeEnd)
	if len(kvs) == 0 {
		return c.Target != pb.Compare_VALUE && holdsFor(c, &mvccpb.KeyValue{})
	}
	for _, kv := range kvs {
		if !holdsFor(c, kv) {
			return false
		}
	}
	return true
}

func holdsFor(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	order := 0
	switch c.Target {
	case pb.Compare_VALUE:
		order = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		order = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		order = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		order = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		order = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	case pb.Compare_LESS:
		return order < 0
	}
	return true
}

// allows says whether the present state allows all that is planned.
func (s *State) allows(p *plan) error {
	for _, op := range p.ops {
		var err error
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			// Unlike outside a txn, a negative revision counts as compacted once anything is.
			switch rev := o.RequestRange.Revision; {
			case rev == 0:
			case rev > s.rev:
				err = rpctypes.ErrFutureRev
			case rev < s.compactRev:
				err = rpctypes.ErrCompacted
			}
		case *pb.RequestOp_RequestPut:
			err = s.allowsPut(o.RequestPut)
		case *pb.RequestOp_RequestTxn:
			err = s.allows(p.nested[op])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *change) execute(p *plan) *pb.TxnResponse {
	resp := &pb.TxnResponse{Succeeded: p.succeeded}
	for _, op := range p.ops {
		r := &pb.ResponseOp{}
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			ranged, err := c.readRange(o.RequestRange)
			if err != nil {
				panic("spec: a range that was allowed failed: " + err.Error())
			}
			r.Response = &pb.ResponseOp_ResponseRange{ResponseRange: ranged}
		case *pb.RequestOp_RequestPut:
			r.Response = &pb.ResponseOp_ResponsePut{ResponsePut: c.put(o.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			r.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: c.deleteRange(o.RequestDeleteRange)}
		case *pb.RequestOp_RequestTxn:
			nested := c.execute(p.nested[op])
			nested.Header = &pb.ResponseHeader{} // etcd leaves it empty
			r.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: nested}
		}
		resp.Responses = append(resp.Responses, r)
	}
	return resp
}

// checkTxn checks each operation. A txn weighs as much as its longest list; the
// txns in it share what is left of the limit.
func checkTxn(r *pb.TxnRequest, maxOps int) error {
	weight := max(len(r.Compare), len(r.Success), len(r.Failure))
	if weight > maxOps {
		return rpctypes.ErrTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrEmptyKey
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			var err error
			switch o := op.Request.(type) {
			case *pb.RequestOp_RequestRange:
				err = checkRange(o.RequestRange)
			case *pb.RequestOp_RequestPut:
				err = checkPut(o.RequestPut)
			case *pb.RequestOp_RequestDeleteRange:
				if len(o.RequestDeleteRange.Key) == 0 {
					err = rpctypes.ErrEmptyKey
				}
			case *pb.RequestOp_RequestTxn:
				err = checkTxn(o.RequestTxn, maxOps-weight)
			default:
				err = rpctypes.ErrKeyNotFound
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// writes is what a list of operations may write on any path through it.
type writes struct {
	puts [][]byte
	dels []*pb.DeleteRangeRequest
}

func (w *writes) mayWrite(key []byte) bool {
	for _, p := range w.puts {
		if bytes.Equal(p, key) {
			return true
		}
	}
	for _, d := range w.dels {
		// etcd overlooks deletes of everything from a key on.
		if fromKey := bytes.Equal(d.RangeEnd, []byte{0}); !fromKey && contains(d.Key, d.RangeEnd, key) {
			return true
		}
	}
	return false
}

// writesOf refuses a key that is put twice, or put and deleted. The puts of a
// nested txn are held against this list's deletes and what nested txns before it
// write; its branches may put the same key; this list's puts are held against
// everything. (That a delete in a later nested txn goes unnoticed is etcd's rule.)
func writesOf(ops []*pb.RequestOp) (*writes, error) {
	w := &writes{}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			w.dels = append(w.dels, d)
		}
	}
	for _, op := range ops {
		t := op.GetRequestTxn()
		if t == nil {
			continue
		}
		then, err := writesOf(t.Success)
		if err != nil {
			return nil, err
		}
		otherwise, err := writesOf(t.Failure)
		if err != nil {
			return nil, err
		}
		for _, key := range append(append([][]byte(nil), then.puts...), otherwise.puts...) {
			if w.mayWrite(key) {
				return nil, rpctypes.ErrDuplicateKey
			}
		}
		w.puts = append(append(w.puts, then.puts...), otherwise.puts...)
		w.dels = append(append(w.dels, then.dels...), otherwise.dels...)
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			if w.mayWrite(p.Key) {
				return nil, rpctypes.ErrDuplicateKey
			}
			w.puts = append(w.puts, p.Key)
		}
	}
	return w, nil
}
