package machine_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/spec"
)

// buckets is a checkpoint in memory.
type buckets map[string][][2][]byte

func (b buckets) Each(name string, fn func(k, v []byte) error) error {
	for _, p := range b[name] {
		if err := fn(p[0], p[1]); err != nil {
			return err
		}
	}
	return nil
}

func dump(t testing.TB, v *machine.View) buckets {
	t.Helper()
	list, err := v.Buckets()
	if err != nil {
		t.Fatal(err)
	}
	out := make(buckets)
	for i, b := range list {
		if i > 0 && b.Name <= list[i-1].Name {
			t.Fatalf("bucket %q after %q", b.Name, list[i-1].Name)
		}
		for k, v := range b.Pairs {
			if n := len(out[b.Name]); n > 0 && bytes.Compare(out[b.Name][n-1][0], k) >= 0 {
				t.Fatalf("bucket %q: key %x after %x", b.Name, k, out[b.Name][n-1][0])
			}
			out[b.Name] = append(out[b.Name], [2][]byte{bytes.Clone(k), bytes.Clone(v)})
		}
	}
	return out
}

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

// sameRefusal says whether the machine refused for the reason the spec did.
func sameRefusal(got, want error) bool {
	pairs := []struct{ machine, spec error }{
		{machine.ErrEmptyKey, rpctypes.ErrEmptyKey},
		{machine.ErrKeyNotFound, rpctypes.ErrKeyNotFound},
		{machine.ErrValueProvided, rpctypes.ErrValueProvided},
		{machine.ErrLeaseProvided, rpctypes.ErrLeaseProvided},
		{machine.ErrTooManyOps, rpctypes.ErrTooManyOps},
		{machine.ErrDuplicateKey, rpctypes.ErrDuplicateKey},
		{machine.ErrInvalidSortOption, rpctypes.ErrInvalidSortOption},
		{mvcc.ErrCompacted, rpctypes.ErrCompacted},
		{mvcc.ErrFutureRev, rpctypes.ErrFutureRev},
		{lease.ErrNotFound, rpctypes.ErrLeaseNotFound},
		{lease.ErrExists, rpctypes.ErrLeaseExist},
		{lease.ErrTTLTooLarge, rpctypes.ErrLeaseTTLTooLarge},
	}
	for _, p := range pairs {
		if errors.Is(want, p.spec) {
			return errors.Is(got, p.machine)
		}
	}
	return got == nil && want == nil
}

// responseOf decodes a result as the response to req, header revision included.
func responseOf(t testing.TB, req proto.Message, res machine.Result) proto.Message {
	t.Helper()
	header := &pb.ResponseHeader{Revision: res.Rev}
	var resp proto.Message
	switch req.(type) {
	case *pb.PutRequest:
		resp = &pb.PutResponse{Header: header}
	case *pb.DeleteRangeRequest:
		resp = &pb.DeleteRangeResponse{Header: header}
	case *pb.TxnRequest:
		resp = &pb.TxnResponse{Header: header}
	case *pb.CompactionRequest:
		resp = &pb.CompactionResponse{Header: header}
	case *pb.LeaseGrantRequest:
		resp = &pb.LeaseGrantResponse{Header: header}
	case *pb.LeaseRevokeRequest:
		resp = &pb.LeaseRevokeResponse{Header: header}
	}
	if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(res.Body, resp); err != nil {
		t.Fatalf("unreadable reply to %T: %x: %v", req, res.Body, err)
	}
	return resp
}

// equalMessages compares with absent and empty lists and bytes alike.
func equalMessages(t testing.TB, a, b proto.Message) bool {
	t.Helper()
	x, err1 := proto.MarshalOptions{Deterministic: true}.Marshal(a)
	y, err2 := proto.MarshalOptions{Deterministic: true}.Marshal(b)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return bytes.Equal(x, y)
}

func kvOf(r mvcc.Record) *mvccpb.KeyValue {
	if r == nil {
		return nil
	}
	kv := r.Decode()
	return &mvccpb.KeyValue{
		Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision,
		ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
	}
}

// compareState holds everything readable of the machine against the spec.
func compareState(t testing.TB, v *machine.View, s *spec.State) {
	t.Helper()
	if v.KV.Rev() != s.Rev() || v.KV.CompactRev() != s.CompactRev() {
		t.Fatalf("revision %d compacted %d, want %d and %d", v.KV.Rev(), v.KV.CompactRev(), s.Rev(), s.CompactRev())
	}
	for rev := max(s.CompactRev(), 1); rev <= s.Rev(); rev++ {
		req := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: rev}
		want, err := s.Range(req)
		if err != nil {
			t.Fatal(err)
		}
		res, err := v.KV.Range(machine.RangeOptions(req))
		if err != nil {
			t.Fatalf("range at %d: %v", rev, err)
		}
		got := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: res.Rev}}
		if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(machine.AppendRangeBody(nil, res, false), got); err != nil {
			t.Fatal(err)
		}
		if !equalMessages(t, got, want) {
			t.Fatalf("at revision %d\ngot  %v\nwant %v", rev, got, want)
		}
	}
	from := max(s.CompactRev(), 1)
	want, err := s.Events(from)
	if err != nil {
		t.Fatal(err)
	}
	var got []*mvccpb.Event
	err = v.KV.Events(from, v.KV.Rev(), func(e mvcc.Event) bool {
		ev := &mvccpb.Event{Kv: kvOf(e.KV), PrevKv: kvOf(e.Prev)}
		if e.Delete {
			ev.Type = mvccpb.Event_DELETE
		}
		got = append(got, ev)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(got, want, func(a, b *mvccpb.Event) bool { return equalMessages(t, a, b) }) {
		t.Fatalf("events from %d\ngot  %v\nwant %v", from, got, want)
	}
	if v.Leases.Len() != len(s.Leases()) {
		t.Fatalf("%d leases, want %d", v.Leases.Len(), len(s.Leases()))
	}
	v.Leases.Each(func(l lease.Lease) bool {
		if ttl, ok := s.Lease(l.ID); !ok || ttl != l.TTL {
			t.Fatalf("lease %d: TTL %d, want %d (%v)", l.ID, l.TTL, ttl, ok)
		}
		if got, want := fmt.Sprintf("%q", v.Leases.Keys(l.ID)), fmt.Sprintf("%q", s.LeaseKeys(l.ID)); got != want {
			t.Fatalf("lease %d has keys %s, want %s", l.ID, got, want)
		}
		return true
	})
}

func founders() []membership.Member {
	return []membership.Member{{ID: 1, PeerURLs: []string{"http://a"}}, {ID: 2, PeerURLs: []string{"http://b"}}}
}

func TestMachineAnswersAsTheSpecDoes(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 7))
		s := spec.New()
		m, err := machine.New(machine.Config{}, founders()...)
		if err != nil {
			t.Fatal(err)
		}
		g := &gen{rng: rng, rev: s.Rev}
		refused := 0
		for step := range 300 {
			kind, req := g.request()
			body, err := proto.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			if txn, ok := req.(*pb.TxnRequest); ok && machine.ReadOnly(txn) && machine.CheckTxn(txn, 128) == nil {
				// What the view answers must be what applying it would.
				fromView, viewErr := machine.ReadTxn(m.Publish(), txn)
				want, wantErr := s.Clone().Txn(txn)
				if !sameRefusal(viewErr, wantErr) {
					t.Fatalf("seed %d step %d: ReadTxn: %v, want %v\n%v", seed, step, viewErr, wantErr, txn)
				}
				if wantErr == nil {
					got := responseOf(t, txn, machine.Result{Rev: s.Rev(), Body: fromView})
					if !equalMessages(t, got, want) {
						t.Fatalf("seed %d step %d: ReadTxn of\n%v\ngot  %v\nwant %v", seed, step, prototext.Format(txn), got, want)
					}
				}
			}
			c := machine.Command{Kind: kind, ID: uint64(step), Member: 1, Body: body}
			res := m.Apply(uint64(step+1), 1, c.AppendTo(nil), true)
			m.EndEntry(uint64(step+1), 1)
			want, wantErr := s.Apply(req)
			if !sameRefusal(res.Err, wantErr) {
				t.Fatalf("seed %d step %d: refused with %v, want %v\n%v", seed, step, res.Err, wantErr, prototext.Format(req))
			}
			if wantErr != nil {
				refused++
				continue
			}
			if got := responseOf(t, req, res); !equalMessages(t, got, want) {
				t.Fatalf("seed %d step %d:\n%v\ngot  %v\nwant %v", seed, step, prototext.Format(req), got, want)
			}
			if step%20 == 0 {
				compareState(t, m.Publish(), s)
			}
		}
		compareState(t, m.Publish(), s)
		if refused > 200 {
			t.Fatalf("seed %d: %d of 300 requests refused; the test tests little", seed, refused)
		}
	}
}

// History of one run in comparable form.
type run struct {
	results []string
	events  []string
	final   buckets
	hash    uint64
	used    int64
}

// execute applies commands in entries, disturbed by rng in all the ways that
// must not matter. A nil rng is the plain way.
func execute(t *testing.T, commands [][]byte, rng *rand.Rand) run {
	t.Helper()
	cfg := machine.Config{Settings: machine.Settings{Quota: 20_000}}
	m, err := machine.New(cfg, founders()...)
	if err != nil {
		t.Fatal(err)
	}
	chance := func(n int) bool { return rng != nil && rng.IntN(n) == 0 }
	var out run
	index := uint64(0)
	var held []*machine.View // keeps copy-on-write busy
	for len(commands) > 0 {
		batch := 1
		if rng != nil {
			batch = rng.IntN(6) // 0: raft's empty entry
		}
		batch = min(batch, len(commands))
		index++
		for _, c := range commands[:batch] {
			want := !chance(3)
			res := m.Apply(index, 5, c, want)
			text := fmt.Sprintf("id %d rev %d err %v", res.ID, res.Rev, res.Err)
			if want {
				text += fmt.Sprintf(" body %x", res.Body)
			}
			out.results = append(out.results, text)
		}
		commands = commands[batch:]
		m.EndEntry(index, 5)
		for _, e := range m.TakeEvents() {
			out.events = append(out.events, fmt.Sprintf("%d %v %x %x", e.Rev, e.Delete, e.KV, e.Prev))
		}
		if chance(2) {
			m.Background(1 + rng.IntN(20))
		}
		if chance(3) {
			held = append(held, m.Publish())
			if len(held) > 3 {
				held = held[1:]
			}
		}
		if chance(40) {
			if m, err = machine.Restore(cfg, dump(t, m.Publish())); err != nil {
				t.Fatal(err)
			}
		}
	}
	for m.Background(1000) {
	}
	v := m.Publish()
	out.final, out.hash, out.used = dump(t, v), v.Hash, v.Used
	// Where the entries ended is all that may differ.
	out.final["meta"] = slices.DeleteFunc(out.final["meta"], func(p [2][]byte) bool { return string(p[0]) == "consistent_index" })
	return out
}

func TestBatchingPublishingAndCheckpointsChangeNothing(t *testing.T) {
	seeds := uint64(25)
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 9))
		s := spec.New() // only to know about where the revision is
		g := &gen{rng: rng, rev: s.Rev}
		var commands [][]byte
		for id := range 800 {
			kind, req := g.request()
			body, err := proto.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Apply(req); err == nil && g.one(3) {
				body = append([]byte(nil), body...)
			}
			switch rng.IntN(40) {
			case 0:
				kind, body = machine.LeaseExpire, machine.EncodeLeaseExpire(5-uint64(rng.IntN(2)), []int64{1, 9, 3})
			case 1:
				kind, body = machine.Alarm, marshal(t, &pb.AlarmRequest{Action: pb.AlarmRequest_AlarmAction(rng.IntN(3)), MemberID: 1, Alarm: pb.AlarmType_NOSPACE})
			case 2:
				kind, body = machine.SetSettings, machine.Settings{Quota: int64(1000 + rng.IntN(40_000))}.Encode()
			case 3:
				kind, body = machine.MemberAttributes, machine.EncodeMemberAttributes(uint64(1+rng.IntN(3)), fmt.Sprint("n", id), []string{"http://c"})
			case 4:
				kind, body = machine.LeaseCheckpoint, machine.EncodeLeaseCheckpoint(int64(rng.IntN(5)), int64(rng.IntN(5)))
			case 5:
				kind, body = machine.ClusterVersion, machine.EncodeClusterVersion("3.7.0")
			case 6:
				kind, body = machine.Put, append(body, 0xff) // malformed
			case 7:
				kind, body = machine.Put, marshal(t, &pb.PutRequest{Key: g.key(), Value: make([]byte, rng.IntN(2000))})
			case 8:
				kind, body = machine.Compact, marshal(t, &pb.CompactionRequest{Revision: s.Rev() * 2 / 3})
			}
			c := machine.Command{Kind: kind, ID: uint64(id), Member: 1, Time: int64(id), Body: body}
			commands = append(commands, c.AppendTo(nil))
		}
		plain := execute(t, commands, nil)
		for variant := range uint64(3) {
			other := execute(t, commands, rand.New(rand.NewPCG(seed, 100+variant)))
			for i, want := range plain.results {
				got := other.results[i]
				if len(got) < len(want) { // no reply was wanted
					want = want[:len(got)]
				}
				if got != want {
					t.Fatalf("seed %d variant %d: command %d\ngot  %s\nwant %s", seed, variant, i, got, want)
				}
			}
			if !slices.Equal(other.events, plain.events) {
				t.Fatalf("seed %d variant %d: other events", seed, variant)
			}
			if other.hash != plain.hash || other.used != plain.used {
				t.Fatalf("seed %d variant %d: hash %x used %d, want %x and %d", seed, variant, other.hash, other.used, plain.hash, plain.used)
			}
			for name, want := range plain.final {
				if fmt.Sprintf("%x", other.final[name]) != fmt.Sprintf("%x", want) {
					t.Fatalf("seed %d variant %d: bucket %q differs:\ngot  %q\nwant %q", seed, variant, name, other.final[name], want)
				}
			}
		}
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
