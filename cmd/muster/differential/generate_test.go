package differential

import (
	"fmt"
	"math"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// generator makes random programs over few keys and leases, so that they meet.
type generator struct {
	*rand.Rand
	choose bool // the server chooses some of the leases' ids
}

// generate is tree n of a seed: nothing else goes into it.
func generate(seed, n uint64) Program {
	g := generator{Rand: rand.New(rand.NewPCG(seed, n))}
	g.choose = g.one(3)
	p := Program{Name: fmt.Sprintf("tree %d of seed %d", n, seed)}
	steps := 5 + g.IntN(25)
	streams := 0
	if g.one(5) {
		streams = 1 + g.IntN(2)
	}
	for range steps {
		switch {
		case streams > 0 && g.one(3):
			p.Steps = append(p.Steps, g.watchStep(g.IntN(streams)))
		case g.one(200):
			p.Steps = append(p.Steps, g.large()...)
		default:
			p.Steps = append(p.Steps, g.unary())
		}
	}
	return p
}

func (g generator) one(n int) bool { return g.IntN(n) == 0 }

// pick chooses one of several.
func pick[T any](g generator, all ...T) T { return all[g.IntN(len(all))] }

// keys are at most twelve, the writes that settle needs included: from thirteen
// on etcd's sort puts equals in any order.
func (g generator) key() []byte {
	if g.one(8) {
		return []byte(pick(g, "\x00", "a\x00", "ab", "\xff", "b/1"))
	}
	return []byte{"abcdef"[g.IntN(6)]}
}

// keyOrNone gives an empty key now and then.
func (g generator) keyOrNone() []byte {
	if g.one(60) {
		return nil
	}
	return g.key()
}

func (g generator) end(key []byte) []byte {
	switch g.IntN(8) {
	case 0:
		return []byte{0}
	case 1, 2, 3:
		return g.key() // perhaps before key: an empty range
	case 4:
		if len(key) > 0 {
			return append(append([]byte(nil), key[:len(key)-1]...), key[len(key)-1]+1)
		}
	}
	return nil
}

func (g generator) value() []byte {
	switch g.IntN(12) {
	case 0:
		return nil
	case 1:
		return make([]byte, g.IntN(5000))
	}
	return fmt.Appendf(nil, "v%d", g.IntN(4))
}

// revision is 0 mostly, else somewhere about what matters.
func (g generator) revision() int64 {
	switch g.IntN(8) {
	case 0:
		return now(-g.IntN(10))
	case 1:
		return now(g.IntN(4) - 1)
	case 2:
		return compacted(g.IntN(4) - 2)
	case 3:
		if g.one(4) {
			return pick(g, int64(-1), 1, 2, -5, huge, math.MinInt64)
		}
	}
	return 0
}

func (g generator) bound() int64 {
	if g.one(20) {
		return pick(g, int64(-1), 1, huge, math.MinInt64)
	}
	return now(-g.IntN(12))
}

func (g generator) lease() int64 {
	switch g.IntN(8) {
	case 0:
		return picked(g.IntN(3))
	case 1, 2:
		return int64(1 + g.IntN(4))
	case 3:
		if g.one(4) {
			return pick(g, int64(-7), 99, huge, math.MinInt64)
		}
	}
	return 0
}

func (g generator) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.keyOrNone(), Value: g.value(), Lease: g.lease(), PrevKv: g.one(2)}
	if g.one(8) {
		r.IgnoreValue = true
		if !g.one(6) {
			r.Value = nil
		}
	}
	if g.one(8) {
		r.IgnoreLease = true
		if !g.one(6) {
			r.Lease = 0
		}
	}
	return r
}

func (g generator) rangeRequest() *pb.RangeRequest {
	r := &pb.RangeRequest{Key: g.keyOrNone(), Revision: g.revision(), CountOnly: g.one(8), KeysOnly: g.one(4), Serializable: g.one(4)}
	r.RangeEnd = g.end(r.Key)
	if g.one(4) {
		r.Key, r.RangeEnd = everything[0], everything[1]
	}
	if g.one(3) {
		r.Limit = pick(g, int64(1), 2, 3, 100, huge, -1)
	}
	if g.one(3) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.IntN(5))
	}
	if g.one(50) {
		r.SortOrder = pick(g, pb.RangeRequest_SortOrder(-1), 3, math.MaxInt32)
	}
	if g.one(50) {
		r.SortTarget = pick(g, pb.RangeRequest_SortTarget(-1), 5, math.MinInt32)
	}
	for _, f := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision} {
		if g.one(10) {
			*f = g.bound()
		}
	}
	return r
}

func (g generator) deleteRequest() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{Key: g.keyOrNone(), PrevKv: g.one(2)}
	r.RangeEnd = g.end(r.Key)
	return r
}

func (g generator) compare() *pb.Compare {
	c := &pb.Compare{
		Result: pb.Compare_CompareResult(g.IntN(4)),
		Target: pb.Compare_CompareTarget(g.IntN(5)),
		Key:    g.keyOrNone(),
	}
	if g.one(3) {
		c.RangeEnd = g.end(c.Key)
	}
	operand := c.Target
	switch {
	case g.one(40):
		c.Target = pick(g, pb.Compare_CompareTarget(-1), 5, 100)
	case g.one(40):
		c.Result = pick(g, pb.Compare_CompareResult(-1), 4, 100)
	case g.one(30):
		operand = pb.Compare_CompareTarget(g.IntN(5)) // another than the target's
	case g.one(30):
		return c // none
	}
	switch operand {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: int64(g.IntN(4)) - 1}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: g.revision()}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.revision()}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: g.lease()}
	}
	return c
}

// txn is a tree. What etcd doesn't survive is left out: a put that keeps a value
// or lease which a delete "from key on" before it in the txn has taken away.
func (g generator) txn(depth int) *pb.TxnRequest {
	r := g.branches(depth)
	if deletesFromKey(r) {
		forgetIgnores(r)
	}
	return r
}

func (g generator) branches(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range g.IntN(3) {
		r.Compare = append(r.Compare, g.compare())
	}
	for _, ops := range []*[]*pb.RequestOp{&r.Success, &r.Failure} {
		for range g.IntN(4) {
			*ops = append(*ops, g.op(depth))
		}
	}
	if g.one(40) {
		g.crowd(r)
	}
	return r
}

// crowd fills a list up to about the limit of 128 operations.
func (g generator) crowd(r *pb.TxnRequest) {
	n := pick(g, 60, 100, 126, 127, 128, 129)
	switch g.IntN(3) {
	case 0:
		for len(r.Compare) < n {
			r.Compare = append(r.Compare, &pb.Compare{Key: g.key(), Result: pb.Compare_GREATER, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: -1}})
		}
	case 1:
		for len(r.Success) < n {
			r.Success = append(r.Success, opRange(&pb.RangeRequest{Key: g.key()}))
		}
	default:
		for len(r.Failure) < n {
			r.Failure = append(r.Failure, opDelete(&pb.DeleteRangeRequest{Key: g.key()}))
		}
	}
}

func (g generator) op(depth int) *pb.RequestOp {
	switch n := g.IntN(10); {
	case n < 3:
		return opRange(g.rangeRequest())
	case n < 6:
		return opPut(g.put())
	case n < 8:
		return opDelete(g.deleteRequest())
	case depth > 0:
		return opTxn(g.branches(depth - 1))
	case g.one(30):
		return &pb.RequestOp{}
	}
	return opPut(g.put())
}

func deletesFromKey(r *pb.TxnRequest) bool {
	found := false
	eachOp(r, func(op *pb.RequestOp) {
		if d := op.GetRequestDeleteRange(); d != nil && string(d.RangeEnd) == "\x00" {
			found = true
		}
	})
	return found
}

func forgetIgnores(r *pb.TxnRequest) {
	eachOp(r, func(op *pb.RequestOp) {
		if p := op.GetRequestPut(); p != nil {
			p.IgnoreValue, p.IgnoreLease = false, false
		}
	})
}

func eachOp(r *pb.TxnRequest, f func(*pb.RequestOp)) {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			f(op)
			if t := op.GetRequestTxn(); t != nil {
				eachOp(t, f)
			}
		}
	}
}

// unary is any request that gets one answer.
func (g generator) unary() Step {
	var s Step
	switch n := g.IntN(100); {
	case n < 20:
		s = put(g.put())
	case n < 42:
		s = rng(g.rangeRequest())
	case n < 50:
		s = del(g.deleteRequest())
	case n < 78:
		s = txn(g.txn(3))
	case n < 82:
		s = compact(&pb.CompactionRequest{Revision: g.compaction(), Physical: g.one(2)})
	case n < 94:
		return g.leaseStep()
	case n < 98:
		return call(hashMethod, &pb.HashKVRequest{Revision: g.revision()})
	default:
		return g.other()
	}
	if s.Method != compactMethod && g.one(15) {
		s.Mangle = 1 + g.Uint64()>>1
	}
	return s
}

func (g generator) compaction() int64 {
	switch g.IntN(10) {
	case 0:
		return compacted(g.IntN(3) - 1)
	case 1:
		return pick(g, int64(-1), 0, 1, huge, math.MinInt64, now(1))
	}
	return now(-g.IntN(12))
}

func (g generator) leaseStep() Step {
	id := g.lease()
	switch g.IntN(9) {
	case 0, 1, 2:
		if id == 0 && !g.choose {
			id = int64(1 + g.IntN(4))
		}
		return grant(id, g.ttl())
	case 3:
		if g.choose {
			return grant(0, g.ttl())
		}
		return grant(int64(1+g.IntN(4)), g.ttl())
	case 4:
		return revoke(id)
	case 5:
		return keepAlive(id)
	case 6, 7:
		return timeToLive(id, !g.one(3))
	default:
		return call(leaseService+"LeaseLeases", &pb.LeaseLeasesRequest{})
	}
}

func (g generator) ttl() int64 {
	if g.one(12) {
		return pick(g, int64(0), -1, 1, 2, math.MinInt64)
	}
	return pick(g, int64(60), 60, 100, 3600, 9_000_000_000, 9_000_000_001, huge)
}

func (g generator) other() Step {
	switch g.IntN(5) {
	case 0:
		return call(maintenanceService+"Hash", &pb.HashRequest{})
	case 1:
		return call(maintenanceService+"Status", &pb.StatusRequest{})
	case 2:
		if opts.members == 1 {
			return call(clusterService+"MemberList", &pb.MemberListRequest{Linearizable: g.one(2)})
		}
		return call(maintenanceService+"Hash", &pb.HashRequest{})
	case 3:
		return call(authService+"AuthStatus", &pb.AuthStatusRequest{})
	default:
		return call(maintenanceService+"Alarm", &pb.AlarmRequest{Alarm: pb.AlarmType(g.IntN(4))})
	}
}

// watchStep opens and cancels watchers, of all kinds.
func (g generator) watchStep(stream int) Step {
	switch g.IntN(10) {
	case 0, 1:
		return cancelWatch(stream, g.watchID())
	case 2:
		return Step{Method: watchMethod, Stream: stream, Request: &pb.WatchRequest{
			RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}},
		}}
	case 3:
		if g.one(4) {
			return Step{Method: watchMethod, Stream: stream, Request: &pb.WatchRequest{}}
		}
	}
	r := &pb.WatchCreateRequest{Key: g.keyOrNone(), PrevKv: g.one(2), Fragment: g.one(4), StartRevision: g.startRevision()}
	switch g.IntN(3) {
	case 0:
		r.Key, r.RangeEnd = everything[0], everything[1]
	case 1:
		r.RangeEnd = g.end(r.Key)
	}
	if g.one(4) {
		r.WatchId = g.watchID()
	}
	for g.one(5) {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_FilterType(g.IntN(3)))
	}
	return watch(stream, r)
}

func (g generator) watchID() int64 {
	return pick(g, int64(0), 0, 1, 1, 2, 3, 7, -1, -3, huge, math.MinInt64)
}

func (g generator) startRevision() int64 {
	switch g.IntN(8) {
	case 0, 1:
		return now(-g.IntN(12))
	case 2:
		return now(g.IntN(6))
	case 3:
		return compacted(g.IntN(4) - 2)
	case 4:
		if g.one(3) {
			return pick(g, int64(-1), 1, huge, math.MinInt64, now(500))
		}
	}
	return 0
}

// large are requests about the limits of size, and events that must be sent in pieces.
func (g generator) large() []Step {
	const limit = 1536 << 10
	sized := func(key string, n int) *pb.PutRequest {
		return &pb.PutRequest{Key: []byte(key), Value: make([]byte, n), PrevKv: g.one(2)}
	}
	switch g.IntN(3) {
	case 0:
		return []Step{put(sized("a", pick(g, limit-100, limit+100, limit+500<<10, limit+600<<10)))}
	case 1:
		return []Step{txn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut(sized("a", limit/2)), opPut(sized("b", limit/2+pick(g, -200, 200)))}})}
	default:
		big := func() Step {
			return txn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut(sized("a", 700<<10)), opPut(sized("b", 700<<10))}})
		}
		w := watch(0, &pb.WatchCreateRequest{Key: everything[0], RangeEnd: everything[1], PrevKv: true, Fragment: g.one(2)})
		return []Step{w, big(), big(), del(&pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("c")})}
	}
}
