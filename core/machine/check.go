package machine

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/interval"
)

// The checks of a request's form need no state. core/rpc makes them before it
// proposes, so that a bad request costs no log entry; Apply makes them again,
// because what comes out of the log is not to be trusted to have passed there.

// CheckPut refuses a put that contradicts itself.
func CheckPut(r *pb.PutRequest) error {
	p := putOf(r)
	return p.check()
}

func (p *putRequest) check() error {
	switch {
	case len(p.key) == 0:
		return ErrEmptyKey
	case p.ignoreValue && len(p.value) != 0:
		return ErrValueProvided
	case p.ignoreLease && p.lease != 0:
		return ErrLeaseProvided
	}
	return nil
}

func putOf(r *pb.PutRequest) putRequest {
	return putRequest{
		key: r.GetKey(), value: r.GetValue(), lease: r.GetLease(),
		prevKV: r.GetPrevKv(), ignoreValue: r.GetIgnoreValue(), ignoreLease: r.GetIgnoreLease(),
	}
}

// CheckRange refuses a range without a key or with an unknown order.
func CheckRange(r *pb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return ErrEmptyKey
	}
	if o := r.GetSortOrder(); o < pb.RangeRequest_NONE || o > pb.RangeRequest_DESCEND {
		return fmt.Errorf("%w: order %d", ErrInvalidSortOption, o)
	}
	if t := r.GetSortTarget(); t < pb.RangeRequest_KEY || t > pb.RangeRequest_VALUE {
		return fmt.Errorf("%w: target %d", ErrInvalidSortOption, t)
	}
	return nil
}

// CheckDelete refuses a delete without a key.
func CheckDelete(r *pb.DeleteRangeRequest) error {
	if len(r.GetKey()) == 0 {
		return ErrEmptyKey
	}
	return nil
}

// CheckTxn refuses a txn with too many operations, with a bad one, or with a key
// that would be written twice.
func CheckTxn(r *pb.TxnRequest, maxOps int) error {
	if err := checkOps(r, maxOps); err != nil {
		return err
	}
	for _, branch := range [...][]*pb.RequestOp{r.Success, r.Failure} {
		if _, err := collectWrites(branch); err != nil {
			return err
		}
	}
	return nil
}

// checkOps checks each operation. A txn weighs as much as the longest of its
// lists; what is left of the limit is for the txns nested in it, which bounds
// their depth as well.
func checkOps(r *pb.TxnRequest, maxOps int) error {
	weight := max(len(r.GetCompare()), len(r.GetSuccess()), len(r.GetFailure()))
	if weight > maxOps {
		return fmt.Errorf("%w: %d, at most %d", ErrTooManyOps, weight, maxOps)
	}
	for _, c := range r.GetCompare() {
		if len(c.GetKey()) == 0 {
			return ErrEmptyKey
		}
	}
	for _, branch := range [...][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range branch {
			if err := checkOp(op, maxOps-weight); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, maxOps int) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return CheckRange(o.RequestRange)
	case *pb.RequestOp_RequestPut:
		return CheckPut(o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return CheckDelete(o.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkOps(o.RequestTxn, maxOps)
	}
	return fmt.Errorf("%w: empty operation", ErrKeyNotFound) // etcd's answer
}

// writes is what a list of operations may write, on whichever path through it.
// A delete from a key on (range_end "\x00") is not in it: etcd doesn't hold puts
// against those either, and lets the later of the two win.
type writes struct {
	puts map[string]struct{}
	dels interval.Tree[struct{}]
}

func (w *writes) has(key string) bool {
	if _, put := w.puts[key]; put {
		return true
	}
	return w.dels.Len() > 0 && w.dels.Intersects(interval.Point([]byte(key)))
}

// addAll takes in what a nested txn writes: the smaller set goes into the larger.
func (w *writes) addAll(o *writes) {
	if o == nil {
		return
	}
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
// deleted. The branches of one nested txn exclude each other, so a key may be
// put in both; deletes may overlap. Exactly as in etcd, the puts of a nested txn
// are held against the deletes of this list and of the nested txns before it, not
// of those after it; this list's own puts against everything. Nil stands for no
// writes.
func collectWrites(ops []*pb.RequestOp) (*writes, error) {
	if !severalWrites(ops) {
		return soleWrite(ops), nil
	}
	w := &writes{puts: make(map[string]struct{})}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil && !(len(d.RangeEnd) == 1 && d.RangeEnd[0] == 0) {
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
		for _, branch := range [...]*writes{then, otherwise} {
			if branch == nil {
				continue
			}
			for k := range branch.puts {
				if w.has(k) {
					return nil, ErrDuplicateKey // which key comes first is chance: it isn't named
				}
			}
		}
		w.addAll(then)
		w.addAll(otherwise)
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			if w.has(string(p.Key)) {
				return nil, fmt.Errorf("%w: %q", ErrDuplicateKey, p.Key)
			}
			w.puts[string(p.Key)] = struct{}{}
		}
	}
	return w, nil
}

// severalWrites reports whether ops could write anything twice at all. Most
// txns can't, and are spared the bookkeeping.
func severalWrites(ops []*pb.RequestOp) bool {
	n := 0
	for _, op := range ops {
		switch op.GetRequest().(type) {
		case *pb.RequestOp_RequestTxn:
			return true
		case *pb.RequestOp_RequestPut, *pb.RequestOp_RequestDeleteRange:
			n++
		}
	}
	return n > 1
}

func soleWrite(ops []*pb.RequestOp) *writes {
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			return &writes{puts: map[string]struct{}{string(p.Key): {}}}
		}
		if d := op.GetRequestDeleteRange(); d != nil && !(len(d.RangeEnd) == 1 && d.RangeEnd[0] == 0) {
			w := &writes{puts: make(map[string]struct{})}
			w.dels.Insert(interval.Of(d.Key, d.RangeEnd), struct{}{})
			return w
		}
	}
	return nil
}
