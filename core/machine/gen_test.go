package machine_test

import (
	"fmt"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
)

// gen makes random requests over few keys, so that they meet.
type gen struct {
	rng *rand.Rand
	rev func() int64 // about the present revision
}

func (g *gen) key() []byte { return []byte{"abcdefgh"[g.rng.IntN(8)]} }

func (g *gen) rangeEnd(key []byte) []byte {
	switch g.rng.IntN(6) {
	case 0:
		return []byte{0}
	case 1, 2:
		return g.key() // perhaps before key: an empty range
	case 3:
		return []byte{key[0] + 1}
	}
	return nil
}

func (g *gen) leaseID() int64 {
	if g.rng.IntN(3) > 0 {
		return 0
	}
	return int64(1 + g.rng.IntN(5))
}

func (g *gen) one(n int) bool { return g.rng.IntN(n) == 0 }

func (g *gen) revision() int64 {
	if g.one(3) {
		return max(g.rev()-int64(g.rng.IntN(12)), -2) + int64(g.rng.IntN(3))
	}
	return 0
}

func (g *gen) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Lease: g.leaseID(), PrevKv: g.one(2)}
	switch g.rng.IntN(8) {
	case 0:
		r.IgnoreValue = true
	case 1:
		r.IgnoreLease = true
		if !g.one(4) {
			r.Lease = 0
		}
		fallthrough
	default:
		r.Value = fmt.Appendf(nil, "v%d", g.rng.IntN(4))
	}
	if g.one(50) {
		r.Key = nil
	}
	return r
}

func (g *gen) rangeReq() *pb.RangeRequest {
	r := &pb.RangeRequest{Key: g.key(), Revision: g.revision(), CountOnly: g.one(8), KeysOnly: g.one(4)}
	r.RangeEnd = g.rangeEnd(r.Key)
	if g.one(3) {
		r.Limit = int64(g.rng.IntN(4))
	}
	if g.one(3) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.rng.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.rng.IntN(5))
	}
	if g.one(60) {
		r.SortTarget = 9
	}
	for _, f := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision} {
		if g.one(12) {
			*f = max(g.rev()-int64(g.rng.IntN(8)), 0)
		}
	}
	return r
}

func (g *gen) deleteReq() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{Key: g.key(), PrevKv: g.one(2)}
	if g.one(2) {
		r.RangeEnd = g.rangeEnd(r.Key)
	}
	return r
}

func (g *gen) compare() *pb.Compare {
	c := &pb.Compare{
		Result: pb.Compare_CompareResult(g.rng.IntN(4)),
		Target: pb.Compare_CompareTarget(g.rng.IntN(5)),
		Key:    g.key(),
	}
	if g.one(3) {
		c.RangeEnd = g.rangeEnd(c.Key)
	}
	small := int64(g.rng.IntN(3))
	switch c.Target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: small}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: max(g.revision(), 0)}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: max(g.revision(), 0)}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: fmt.Appendf(nil, "v%d", g.rng.IntN(4))}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: g.leaseID()}
	}
	if g.one(20) {
		c.TargetUnion = nil
	}
	return c
}

func (g *gen) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range g.rng.IntN(3) {
		r.Compare = append(r.Compare, g.compare())
	}
	for _, ops := range []*[]*pb.RequestOp{&r.Success, &r.Failure} {
		for range g.rng.IntN(4) {
			*ops = append(*ops, g.op(depth))
		}
	}
	return r
}

func (g *gen) op(depth int) *pb.RequestOp {
	switch n := g.rng.IntN(10); {
	case n < 3:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeReq()}}
	case n < 6:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.put()}}
	case n < 8:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: g.deleteReq()}}
	case depth > 0:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txn(depth - 1)}}
	case g.one(30):
		return &pb.RequestOp{}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.put()}}
}

// request is a random request with its kind.
func (g *gen) request() (machine.Kind, proto.Message) {
	switch n := g.rng.IntN(20); {
	case n < 5:
		return machine.Put, g.put()
	case n < 7:
		return machine.DeleteRange, g.deleteReq()
	case n < 14:
		return machine.Txn, g.txn(2)
	case n < 15:
		return machine.Compact, &pb.CompactionRequest{Revision: g.rev() - int64(g.rng.IntN(10)) + 1}
	case n < 18:
		return machine.LeaseGrant, &pb.LeaseGrantRequest{ID: int64(g.rng.IntN(6)), TTL: int64(g.rng.IntN(5))}
	default:
		return machine.LeaseRevoke, &pb.LeaseRevokeRequest{ID: int64(1 + g.rng.IntN(5))}
	}
}
