package rpc

import (
	"context"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/mvcc"
)

// kvServer is etcd's KV service. It isn't registered through the generated
// code: its requests and replies are the lean ones of request.go and reply.go.
type kvServer struct {
	*member
	puts   sync.Pool // *putRequest
	ranges sync.Pool // *rangeRequest
}

// register puts the service on s under etcd's name and descriptor.
func (k *kvServer) register(g *guard, s grpc.ServiceRegistrar) error {
	desc := grpc.ServiceDesc{
		ServiceName: pb.KV_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil), // the handlers below know their server
		Metadata:    pb.KV_ServiceDesc.Metadata,
		Streams: []grpc.StreamDesc{{
			StreamName:    "RangeStream",
			ServerStreams: true,
			Handler:       k.rangeStream,
		}},
	}
	for name, serve := range map[string]func(context.Context, func(any) error) (any, error){
		"Range":       k.serveRange,
		"Put":         k.servePut,
		"DeleteRange": k.serveDeleteRange,
		"Txn":         k.serveTxn,
		"Compact":     k.serveCompact,
	} {
		h, err := g.hot("/"+desc.ServiceName+"/"+name, serve)
		if err != nil {
			return err
		}
		desc.Methods = append(desc.Methods, grpc.MethodDesc{MethodName: name, Handler: h})
	}
	s.RegisterService(&desc, k)
	return nil
}

func (k *kvServer) servePut(ctx context.Context, decode func(any) error) (any, error) {
	r, _ := k.puts.Get().(*putRequest)
	if r == nil {
		r = new(putRequest)
	}
	if err := decode(r); err != nil {
		return nil, err
	}
	err := r.check()
	var reply any
	if err == nil {
		reply, err = k.propose(ctx, machine.Put, r.body)
	}
	r.release()
	k.puts.Put(r)
	return reply, err
}

func (r *putRequest) check() error {
	switch {
	case len(r.key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.ignoreValue && r.valueLen != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.ignoreLease && r.lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func (k *kvServer) serveRange(ctx context.Context, decode func(any) error) (any, error) {
	r, _ := k.ranges.Get().(*rangeRequest)
	if r == nil {
		r = new(rangeRequest)
	}
	if err := decode(r); err != nil {
		return nil, err
	}
	reply, err := k.rangeNow(ctx, r)
	r.release()
	k.ranges.Put(r)
	if err != nil {
		return nil, err
	}
	return reply, nil
}

func (k *kvServer) rangeNow(ctx context.Context, r *rangeRequest) (*encoded, error) {
	if len(r.key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	if r.order < int32(mvcc.OrderNone) || r.order > int32(mvcc.OrderDescend) ||
		r.target < int32(mvcc.SortKey) || r.target > int32(mvcc.SortValue) {
		return nil, rpctypes.ErrGRPCInvalidSortOption
	}
	if !r.serializable {
		if k.node.IsLearner() {
			return nil, rpctypes.ErrGRPCNotSupportedForLearner
		}
		if err := k.node.ReadBarrier(ctx); err != nil {
			return nil, toStatus(err)
		}
	}
	state := k.node.View()
	if state.HasAlarm(pb.AlarmType_CORRUPT) {
		return nil, rpctypes.ErrGRPCCorrupt
	}
	view := state.KV
	if r.simple() {
		return k.one(view, r), nil
	}
	res, err := view.Range(mvcc.RangeOptions{
		Key: r.key, End: r.end, Rev: r.rev, Limit: r.limit, CountOnly: r.countOnly, KeysOnly: r.keysOnly,
		MinMod: r.minMod, MaxMod: r.maxMod, MinCreate: r.minCreate, MaxCreate: r.maxCreate,
		SortBy: mvcc.SortTarget(r.target), Order: mvcc.SortOrder(r.order),
	})
	if err != nil {
		return nil, toStatus(err)
	}
	return k.id.rangeReply(view.Rev(), k.node.Term(), res.KVs, res.More, res.Count, r.keysOnly), nil
}

// one answers a look at a single key.
func (k *kvServer) one(view *mvcc.View, r *rangeRequest) *encoded {
	rec, ok := view.Get(r.key)
	if !ok {
		return k.id.rangeReply(view.Rev(), k.node.Term(), nil, false, 0, false)
	}
	kvs := [1]mvcc.Record{rec}
	return k.id.rangeReply(view.Rev(), k.node.Term(), kvs[:], false, 1, r.keysOnly)
}

func (k *kvServer) serveDeleteRange(ctx context.Context, decode func(any) error) (any, error) {
	r := new(pb.DeleteRangeRequest)
	if err := decode(r); err != nil {
		return nil, err
	}
	if err := machine.CheckDelete(r); err != nil {
		return nil, toStatus(err)
	}
	return k.proposeMessage(ctx, machine.DeleteRange, r)
}

// serveTxn takes a txn through the log, unless it only reads: then it is
// answered from the view, like a range.
func (k *kvServer) serveTxn(ctx context.Context, decode func(any) error) (any, error) {
	r := new(pb.TxnRequest)
	if err := decode(r); err != nil {
		return nil, err
	}
	if err := machine.CheckTxn(r, int(k.node.View().Settings.MaxTxnOps)); err != nil {
		return nil, toStatus(err)
	}
	if !machine.ReadOnly(r) {
		return k.proposeMessage(ctx, machine.Txn, r)
	}
	if ranges, serializable := readsOf(r); ranges == 0 || !serializable {
		if err := k.node.ReadBarrier(ctx); err != nil {
			return nil, toStatus(err)
		}
	}
	view := k.node.View()
	if view.HasAlarm(pb.AlarmType_CORRUPT) {
		return nil, rpctypes.ErrGRPCCorrupt
	}
	body, err := machine.ReadTxn(view, r)
	if err != nil {
		return nil, toStatus(err)
	}
	return k.id.splice(view.KV.Rev(), k.node.Term(), body), nil
}

// readsOf counts the ranges of a txn that only reads, and tells whether all of
// them may be stale. A txn that compares and reads nothing is not serializable
// for that: etcd takes it so and can answer it stale.
func readsOf(r *pb.TxnRequest) (ranges int, serializable bool) {
	serializable = true
	for _, ops := range [...][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if rng := op.GetRequestRange(); rng != nil {
				ranges++
				serializable = serializable && rng.Serializable
				continue
			}
			n, s := readsOf(op.GetRequestTxn())
			ranges += n
			serializable = serializable && s
		}
	}
	return ranges, serializable
}

// serveCompact answers once the compaction holds for every reader. Freeing the
// memory goes on in the background whether "physical" was asked for or not:
// no result ever depends on it.
func (k *kvServer) serveCompact(ctx context.Context, decode func(any) error) (any, error) {
	r := new(pb.CompactionRequest)
	if err := decode(r); err != nil {
		return nil, err
	}
	return k.proposeMessage(ctx, machine.Compact, r)
}

// rangeStream is refused by name: clients that know it (Kubernetes) fall back
// to Range on Unimplemented and on nothing else.
func (k *kvServer) rangeStream(any, grpc.ServerStream) error {
	return unsupported("RangeStream")
}

// unsupported names what isn't there.
func unsupported(what string) error {
	return status.Errorf(codes.Unimplemented, "muster: %s is not supported yet", what)
}
