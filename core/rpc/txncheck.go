package rpc

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/musterhq/muster/core/interval"
)

// checkTxn applies etcd's rules for a txn's form: the number of operations,
// nested ones taking from what their parent left; a key in each; and no key
// written twice on any path through it.
func checkTxn(r *pb.TxnRequest, maxOps int) error {
	if err := checkTxnOps(r, maxOps); err != nil {
		return err
	}
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if _, err := collectWrites(branch); err != nil {
			return err
		}
	}
	return nil
}

func checkTxnOps(r *pb.TxnRequest, maxOps int) error {
	ops := max(len(r.Compare), len(r.Success), len(r.Failure))
	if ops > maxOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if err := checkOp(op, maxOps-ops); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, maxOps int) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		r := o.RequestRange
		if len(r.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
		if !validSort(int32(r.SortOrder), int32(r.SortTarget)) {
			return rpctypes.ErrGRPCInvalidSortOption
		}
	case *pb.RequestOp_RequestPut:
		p := o.RequestPut
		return (&putRequest{
			key: p.GetKey(), valueLen: len(p.GetValue()), lease: p.GetLease(),
			ignoreValue: p.GetIgnoreValue(), ignoreLease: p.GetIgnoreLease(),
		}).check()
	case *pb.RequestOp_RequestDeleteRange:
		if len(o.RequestDeleteRange.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	case *pb.RequestOp_RequestTxn:
		if o.RequestTxn == nil {
			return rpctypes.ErrGRPCKeyNotFound
		}
		return checkTxnOps(o.RequestTxn, maxOps)
	default:
		return rpctypes.ErrGRPCKeyNotFound
	}
	return nil
}

func validSort(order, target int32) bool {
	return order >= int32(pb.RangeRequest_NONE) && order <= int32(pb.RangeRequest_DESCEND) &&
		target >= int32(pb.RangeRequest_KEY) && target <= int32(pb.RangeRequest_VALUE)
}

// writes is what a list of operations may write, on whichever path.
type writes struct {
	puts map[string]struct{}
	dels interval.Tree[struct{}]
}

// mayWrite tells whether some path puts or deletes key.
func (w *writes) mayWrite(key string) bool {
	_, put := w.puts[key]
	return put || w.dels.Intersects(interval.Point([]byte(key)))
}

// add takes in what a nested txn writes. The smaller set goes into the larger
// one, so that deep nesting doesn't move the same keys again and again.
func (w *writes) add(o *writes) {
	if len(o.puts) > len(w.puts) {
		w.puts, o.puts = o.puts, w.puts
	}
	for k := range o.puts {
		w.puts[k] = struct{}{}
	}
	if o.dels.Len() > w.dels.Len() {
		w.dels, o.dels = o.dels, w.dels
	}
	o.dels.All(func(h *interval.Handle[struct{}]) bool {
		w.dels.Insert(h.Range, struct{}{})
		return true
	})
}

// collectWrites gathers the puts and deletes of ops and of the txns nested in
// them, and refuses a key that could be written twice: put twice, or put and
// deleted. The two branches of a nested txn exclude each other, so a key may
// be put in both. Deletes may overlap.
//
// As in etcd, a nested txn's puts are held against this list's deletes and
// what nested txns before it write, and this list's puts against everything.
func collectWrites(ops []*pb.RequestOp) (*writes, error) {
	w := &writes{puts: map[string]struct{}{}}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			w.dels.Insert(interval.Of(d.Key, d.RangeEnd), struct{}{})
		}
	}
	for _, op := range ops {
		t := op.GetRequestTxn()
		if t == nil {
			continue
		}
		then, err := collectWrites(t.Success)
		if err != nil {
			return nil, err
		}
		otherwise, err := collectWrites(t.Failure)
		if err != nil {
			return nil, err
		}
		for _, branch := range []*writes{then, otherwise} {
			for k := range branch.puts {
				if w.mayWrite(k) {
					return nil, rpctypes.ErrGRPCDuplicateKey
				}
			}
		}
		w.add(then)
		w.add(otherwise)
	}
	for _, op := range ops {
		p := op.GetRequestPut()
		if p == nil {
			continue
		}
		if w.mayWrite(string(p.Key)) {
			return nil, rpctypes.ErrGRPCDuplicateKey
		}
		w.puts[string(p.Key)] = struct{}{}
	}
	return w, nil
}
