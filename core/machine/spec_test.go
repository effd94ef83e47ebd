package machine_test

import (
	"bytes"
	"encoding/binary"
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
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/spec"
	"github.com/musterhq/muster/internal/choices"
)

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

// pair is a machine and the spec, given the same requests.
type pair struct {
	t       testing.TB
	m       *machine.Machine
	s       *spec.State
	index   uint64
	refused int
}

func newPair(t testing.TB) *pair {
	t.Helper()
	m, err := machine.New(machine.Config{}, founders()...)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{t: t, m: m, s: spec.New()}
}

// apply fails the test unless both give the same answer to req.
func (p *pair) apply(kind machine.Kind, req proto.Message) {
	p.t.Helper()
	if txn, ok := req.(*pb.TxnRequest); ok && machine.ReadOnly(txn) && machine.CheckTxn(txn, 128) == nil {
		p.read(txn)
	}
	p.index++
	c := machine.Command{Kind: kind, ID: p.index, Member: 1, Body: marshal(p.t, req)}
	res := p.m.Apply(p.index, 1, c.AppendTo(nil), true)
	p.m.EndEntry(p.index, 1)
	want, wantErr := p.s.Apply(req)
	if !sameRefusal(res.Err, wantErr) {
		p.t.Fatalf("step %d: refused with %v, want %v\n%v", p.index, res.Err, wantErr, prototext.Format(req))
	}
	if wantErr != nil {
		p.refused++
		return
	}
	if got := responseOf(p.t, req, res); !equalMessages(p.t, got, want) {
		p.t.Fatalf("step %d:\n%v\ngot  %v\nwant %v", p.index, prototext.Format(req), got, want)
	}
}

// read holds what the view answers to what applying it would.
func (p *pair) read(txn *pb.TxnRequest) {
	p.t.Helper()
	fromView, viewErr := machine.ReadTxn(p.m.Publish(), txn)
	want, wantErr := p.s.Clone().Txn(txn)
	if !sameRefusal(viewErr, wantErr) {
		p.t.Fatalf("step %d: ReadTxn: %v, want %v\n%v", p.index, viewErr, wantErr, txn)
	}
	if wantErr != nil {
		return
	}
	got := responseOf(p.t, txn, machine.Result{Rev: p.s.Rev(), Body: fromView})
	if !equalMessages(p.t, got, want) {
		p.t.Fatalf("step %d: ReadTxn of\n%v\ngot  %v\nwant %v", p.index, prototext.Format(txn), got, want)
	}
}

func (p *pair) compareState() { p.t.Helper(); compareState(p.t, p.m.Publish(), p.s) }

func TestMachineAnswersAsTheSpecDoes(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			p := newPair(t)
			g := &gen{rng: rand.New(rand.NewPCG(seed, 7)), rev: p.s.Rev}
			for step := range 300 {
				p.apply(g.request())
				if step%20 == 0 {
					p.compareState()
				}
			}
			p.compareState()
			if p.refused > 200 {
				t.Fatalf("%d of 300 requests refused; the test tests little", p.refused)
			}
		})
	}
}

// FuzzTxnTrees lets the fuzzer choose each branch of the generator of requests.
func FuzzTxnTrees(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 3 {
		b := make([]byte, 0, 400)
		for range 50 {
			b = binary.LittleEndian.AppendUint64(b, rng.Uint64())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		src := choices.Of(b, 4000)
		p := newPair(t)
		g := &gen{rng: rand.New(src), rev: p.s.Rev}
		for src.Left() {
			p.apply(g.request())
		}
		p.compareState()
	})
}

// FuzzTxnsOfAnyForm takes transactions as they come over the wire, in forms no
// generator thinks of: operations without a request, comparisons with another
// target than their operand, enumerations beyond their end.
func FuzzTxnsOfAnyForm(f *testing.F) {
	g := &gen{rng: rand.New(rand.NewPCG(4, 4)), rev: func() int64 { return 5 }}
	for range 8 {
		f.Add(marshal(f, g.txn(2)))
	}
	f.Add(marshal(f, &pb.TxnRequest{Compare: []*pb.Compare{{
		Key: []byte("a"), Target: 9, Result: 9, TargetUnion: &pb.Compare_Value{Value: []byte("1")},
	}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var txn pb.TxnRequest
		if proto.Unmarshal(b, &txn) != nil {
			return
		}
		p := newPair(t)
		p.apply(machine.LeaseGrant, &pb.LeaseGrantRequest{ID: 1, TTL: 9})
		for _, put := range []*pb.PutRequest{
			{Key: []byte("a"), Value: []byte("1"), Lease: 1},
			{Key: []byte("b"), Value: []byte("1")},
			{Key: []byte("a"), Value: []byte("2")},
			{Key: []byte("c"), Value: []byte("3"), Lease: 1},
		} {
			p.apply(machine.Put, put)
		}
		p.apply(machine.Compact, &pb.CompactionRequest{Revision: 3})
		for range 2 {
			p.apply(machine.Txn, &txn)
		}
		p.compareState()
	})
}
