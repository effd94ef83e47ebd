package machine

import (
	"bytes"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/interval"
	"github.com/musterhq/muster/core/mvcc"
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

// CheckRange refuses a range without a key or with an unknown order.
func CheckRange(r *pb.RangeRequest) error {
	o := RangeOptions(r)
	return checkRange(&o)
}

func checkRange(o *mvcc.RangeOptions) error {
	switch {
	case len(o.Key) == 0:
		return ErrEmptyKey
	case o.Order < mvcc.OrderNone || o.Order > mvcc.OrderDescend:
		return fmt.Errorf("%w: order %d", ErrInvalidSortOption, o.Order)
	case o.SortBy < mvcc.SortKey || o.SortBy > mvcc.SortValue:
		return fmt.Errorf("%w: target %d", ErrInvalidSortOption, o.SortBy)
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
func CheckTxn(r *pb.TxnRequest, maxOps int) error { return txnOf(r).check(maxOps) }

func (t *txnRequest) check(maxOps int) error {
	if err := t.checkOps(maxOps); err != nil {
		return err
	}
	for _, ops := range [...][]operation{t.success, t.failure} {
		if !severalWrites(ops) {
			continue
		}
		if _, err := collectWrites(ops); err != nil {
			return err
		}
	}
	return nil
}

// checkOps checks each operation. A txn weighs as much as the longest of its
// lists; what is left of the limit is for each of the txns nested in it, which
// bounds their depth as well.
func (t *txnRequest) checkOps(maxOps int) error {
	weight := max(len(t.compare), len(t.success), len(t.failure))
	if weight > maxOps {
		return fmt.Errorf("%w: %d, at most %d", ErrTooManyOps, weight, maxOps)
	}
	for i := range t.compare {
		if len(t.compare[i].key) == 0 {
			return ErrEmptyKey
		}
	}
	for _, ops := range [...][]operation{t.success, t.failure} {
		for i := range ops {
			if err := ops[i].check(maxOps - weight); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *operation) check(maxOps int) error {
	switch o.kind {
	case opRange:
		return checkRange(&o.rng)
	case opPut:
		return o.put.check()
	case opDelete:
		if len(o.del.key) == 0 {
			return ErrEmptyKey
		}
		return nil
	case opTxn:
		return o.txn.checkOps(maxOps)
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

func (w *writes) addDelete(d *deleteRequest) {
	if !bytes.Equal(d.end, []byte{0}) {
		w.dels.Insert(interval.Of(d.key, d.end), struct{}{})
	}
}

// addAll takes in what a nested txn writes: the smaller set goes into the larger.
func (w *writes) addAll(o *writes) {
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
// of those after it; this list's own puts against everything.
func collectWrites(ops []operation) (*writes, error) {
	w := &writes{puts: make(map[string]struct{})}
	for i := range ops {
		if ops[i].kind == opDelete {
			w.addDelete(&ops[i].del)
		}
	}
	for i := range ops {
		if ops[i].kind != opTxn {
			continue
		}
		then, err := collectWrites(ops[i].txn.success)
		if err != nil {
			return nil, err
		}
		otherwise, err := collectWrites(ops[i].txn.failure)
		if err != nil {
			return nil, err
		}
		for _, nested := range [...]*writes{then, otherwise} {
			for k := range nested.puts {
				if w.has(k) {
					return nil, ErrDuplicateKey // which key comes first is chance: it isn't named
				}
			}
		}
		w.addAll(then)
		w.addAll(otherwise)
	}
	for i := range ops {
		if ops[i].kind != opPut {
			continue
		}
		key := string(ops[i].put.key)
		if w.has(key) {
			return nil, fmt.Errorf("%w: %q", ErrDuplicateKey, key)
		}
		w.puts[key] = struct{}{}
	}
	return w, nil
}

// severalWrites reports whether ops could write anything twice at all. Most
// txns can't, and are spared the bookkeeping.
func severalWrites(ops []operation) bool {
	n := 0
	for i := range ops {
		switch ops[i].kind {
		case opTxn:
			return true
		case opPut, opDelete:
			n++
		}
	}
	return n > 1
}
