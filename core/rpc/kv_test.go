package rpc

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/node"
)

func TestPutAndRangeAnswerAsEtcdDoes(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	kv, ctx := pb.NewKVClient(conn), t.Context()

	hdr := func(rev int64) *pb.ResponseHeader {
		return &pb.ResponseHeader{ClusterId: fakeCluster, MemberId: fakeID, Revision: rev, RaftTerm: fakeTerm}
	}
	same := func(got, want proto.Message) {
		t.Helper()
		if !proto.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	}
	empty, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	same(empty, &pb.RangeResponse{Header: hdr(1)})

	put, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte("1")})
	if err != nil {
		t.Fatal(err)
	}
	same(put, &pb.PutResponse{Header: hdr(2)})
	put, err = kv.Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte("2"), PrevKv: true})
	if err != nil {
		t.Fatal(err)
	}
	first := &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("1"), CreateRevision: 2, ModRevision: 2, Version: 1}
	same(put, &pb.PutResponse{Header: hdr(3), PrevKv: first})

	now := &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("2"), CreateRevision: 2, ModRevision: 3, Version: 2}
	got, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	same(got, &pb.RangeResponse{Header: hdr(3), Kvs: []*mvccpb.KeyValue{now}, Count: 1})
	got, err = kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Revision: 2})
	if err != nil {
		t.Fatal(err)
	}
	same(got, &pb.RangeResponse{Header: hdr(3), Kvs: []*mvccpb.KeyValue{first}, Count: 1})

	if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("b"), Value: []byte("3")}); err != nil {
		t.Fatal(err)
	}
	got, err = kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, Limit: 1, KeysOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	bare := proto.Clone(now).(*mvccpb.KeyValue)
	bare.Value = nil
	same(got, &pb.RangeResponse{Header: hdr(4), Kvs: []*mvccpb.KeyValue{bare}, Count: 2, More: true})

	del, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("a"), PrevKv: true})
	if err != nil {
		t.Fatal(err)
	}
	same(del, &pb.DeleteRangeResponse{Header: hdr(5), Deleted: 1, PrevKvs: []*mvccpb.KeyValue{now}})

	txn, err := kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("b"), Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 1}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("c"), Value: []byte("4")}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !txn.Succeeded || txn.Header.Revision != 6 || len(txn.Responses) != 1 || txn.Responses[0].GetResponsePut() == nil {
		t.Errorf("txn: %v", txn)
	}
	compact, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 5})
	if err != nil {
		t.Fatal(err)
	}
	same(compact, &pb.CompactionResponse{Header: hdr(6)})
}

// A reply of any size is the same message, however it was cut into buffers.
func TestLargeRepliesAreComplete(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	kv, ctx := pb.NewKVClient(conn), t.Context()
	var want []*mvccpb.KeyValue
	for i, size := range []int{0, 1, 900, byReference - 40, byReference, 1 << 20, 100, chunkSize - 20, 70 << 10, 30, 1 << 20} {
		key, value := fmt.Appendf(nil, "k%02d", i), bytes.Repeat([]byte{byte(i)}, size)
		r, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: value})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, &mvccpb.KeyValue{Key: key, Value: value, CreateRevision: r.Header.Revision, ModRevision: r.Header.Revision, Version: 1})
	}
	for i := range 5000 {
		key, value := fmt.Appendf(nil, "m%05d", i), bytes.Repeat([]byte{byte(i)}, 700)
		r, err := n.Propose(ctx, machine.Put, mustMarshal(t, &pb.PutRequest{Key: key, Value: value}), "", 0)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, &mvccpb.KeyValue{Key: key, Value: value, CreateRevision: r.Rev, ModRevision: r.Rev, Version: 1})
	}
	for _, keysOnly := range []bool{false, true} {
		got, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, KeysOnly: keysOnly}, largeMessages)
		if err != nil {
			t.Fatal(err)
		}
		if keysOnly {
			for _, kv := range want {
				kv.Value = nil
			}
		}
		if !proto.Equal(&pb.RangeResponse{Header: got.Header, Kvs: want, Count: int64(len(want))}, got) {
			t.Errorf("keysOnly=%v: the reply of %d keys isn't what was put", keysOnly, len(got.Kvs))
		}
	}
	del, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, PrevKv: true}, largeMessages)
	if err != nil {
		t.Fatal(err)
	}
	if del.Deleted != int64(len(want)) || len(del.PrevKvs) != len(want) {
		t.Errorf("deleted %d with %d previous values, want %d", del.Deleted, len(del.PrevKvs), len(want))
	}
}

func TestARangeMayEndWithALargeValue(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	kv, ctx := pb.NewKVClient(conn), t.Context()
	large := bytes.Repeat([]byte("x"), 2*byReference)
	for _, key := range []string{"a", "b"} {
		if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: large}); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []*pb.RangeRequest{
		{Key: []byte("a")},
		{Key: []byte("a"), Revision: 2},
		{Key: []byte("a"), RangeEnd: []byte("c")},
		{Key: []byte("a"), RangeEnd: []byte("c"), Limit: 1},
	} {
		got, err := kv.Range(ctx, r)
		if err != nil {
			t.Fatalf("%v: %v", r, err)
		}
		if got.Count == 0 || len(got.Kvs) == 0 || got.More != (r.Limit > 0) {
			t.Errorf("%v: %d of %d, more: %v", r, len(got.Kvs), got.Count, got.More)
		}
		for _, kv := range got.Kvs {
			if !bytes.Equal(kv.Value, large) {
				t.Errorf("%v: another value of %s", r, kv.Key)
			}
		}
	}
}

func TestRefusalsAreEtcdsLetterByLetter(t *testing.T) {
	n := newFakeNode(t, machine.Config{Settings: machine.Settings{MaxRequestBytes: 1000, MaxTxnOps: 2}})
	conn, _ := serve(t, n, nil)
	kv, ctx := pb.NewKVClient(conn), t.Context()
	putOp := func(key string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
	}
	for _, c := range []struct {
		name string
		call func() error
		want error
	}{
		{"put without a key", func() error { _, err := kv.Put(ctx, &pb.PutRequest{Value: []byte("v")}); return err }, rpctypes.ErrGRPCEmptyKey},
		{"put of a value to ignore", func() error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte("v"), IgnoreValue: true})
			return err
		}, rpctypes.ErrGRPCValueProvided},
		{"put with a lease to ignore", func() error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Lease: 3, IgnoreLease: true})
			return err
		}, rpctypes.ErrGRPCLeaseProvided},
		{"put ignoring a value that isn't there", func() error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), IgnoreValue: true})
			return err
		}, rpctypes.ErrGRPCKeyNotFound},
		{"put under an unknown lease", func() error { _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Lease: 3}); return err }, rpctypes.ErrGRPCLeaseNotFound},
		{"put too large", func() error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: make([]byte, 1000)})
			return err
		}, rpctypes.ErrGRPCRequestTooLarge},
		{"range without a key", func() error { _, err := kv.Range(ctx, &pb.RangeRequest{}); return err }, rpctypes.ErrGRPCEmptyKey},
		{"range in an unknown order", func() error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), SortOrder: 3})
			return err
		}, rpctypes.ErrGRPCInvalidSortOption},
		{"range by an unknown target", func() error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), SortTarget: -1})
			return err
		}, rpctypes.ErrGRPCInvalidSortOption},
		{"range in the future", func() error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Revision: 99})
			return err
		}, rpctypes.ErrGRPCFutureRev},
		{"delete without a key", func() error { _, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{}); return err }, rpctypes.ErrGRPCEmptyKey},
		{"compaction of the future", func() error { _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 99}); return err }, rpctypes.ErrGRPCFutureRev},
		{"txn with too many operations", func() error {
			_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{putOp("a"), putOp("b"), putOp("c")}})
			return err
		}, rpctypes.ErrGRPCTooManyOps},
		{"txn that puts twice", func() error {
			_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{putOp("a"), putOp("a")}})
			return err
		}, rpctypes.ErrGRPCDuplicateKey},
		{"txn with an empty operation", func() error {
			_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{}}})
			return err
		}, rpctypes.ErrGRPCKeyNotFound},
	} {
		t.Run(c.name, func(t *testing.T) { sameStatus(t, c.call(), c.want) })
	}
	t.Run("streamed range", func(t *testing.T) {
		s, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte("k")})
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "RangeStream") {
			t.Errorf("got %v, want Unimplemented naming it", err)
		}
	})
}

func sameStatus(t *testing.T, got, want error) {
	t.Helper()
	g, w := status.Convert(got), status.Convert(want)
	if g.Code() != w.Code() || g.Message() != w.Message() {
		t.Errorf("got %v %q, want %v %q", g.Code(), g.Message(), w.Code(), w.Message())
	}
}

func TestOnlyLinearizableReadsWaitForTheBarrier(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	kv, ctx := pb.NewKVClient(conn), t.Context()
	if _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true}); err != nil || n.barriers.Load() != 0 {
		t.Errorf("serializable: %v, %d barriers", err, n.barriers.Load())
	}
	if _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")}); err != nil || n.barriers.Load() != 1 {
		t.Errorf("linearizable: %v, %d barriers", err, n.barriers.Load())
	}
	n.refuse.Store(&node.ErrNoLeader)
	_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")})
	sameStatus(t, err, rpctypes.ErrGRPCNoLeader)
	_, err = kv.Put(ctx, &pb.PutRequest{Key: []byte("k")})
	sameStatus(t, err, rpctypes.ErrGRPCNoLeader)
	if _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true}); err != nil {
		t.Errorf("a serializable read needs no leader: %v", err)
	}
}

func TestClientsThatRequireALeaderAreRefusedWithoutOne(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	n.leader.Store(0)
	ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
	sameStatus(t, err, rpctypes.ErrGRPCNoLeader)
	_, err = pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	sameStatus(t, err, rpctypes.ErrGRPCNoLeader)
	ctx = metadata.AppendToOutgoingContext(context.WithoutCancel(t.Context()), rpctypes.MetadataClientAPIVersionKey, "\xff")
	if _, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k")}); err == nil {
		t.Error("a client version that isn't text was accepted")
	}
}

func TestLearnersServeOnlyWhatMayBeStale(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	n.learner.Store(true)
	kv, ctx := pb.NewKVClient(conn), t.Context()
	if _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true}); err != nil {
		t.Error(err)
	}
	_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")})
	sameStatus(t, err, rpctypes.ErrGRPCNotSupportedForLearner)
	_, err = kv.Put(ctx, &pb.PutRequest{Key: []byte("k")})
	sameStatus(t, err, rpctypes.ErrGRPCNotSupportedForLearner)
	if st, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{}); err != nil || !st.IsLearner {
		t.Errorf("status: %v, %v", st, err)
	}
	_, err = pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{})
	sameStatus(t, err, rpctypes.ErrGRPCNotSupportedForLearner)
}

func TestTxnsThatOnlyReadAreAnsweredFromTheView(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	kv, ctx := pb.NewKVClient(conn), t.Context()
	if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	exists := &pb.Compare{Key: []byte("k"), Target: pb.Compare_CREATE, Result: pb.Compare_GREATER}
	get := func(serializable bool) []*pb.RequestOp {
		return []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("k"), Serializable: serializable}}}}
	}
	before := n.View().Index
	for _, c := range []struct {
		name    string
		r       *pb.TxnRequest
		barrier int64
	}{
		{"linearizable", &pb.TxnRequest{Compare: []*pb.Compare{exists}, Success: get(false)}, 1},
		{"serializable", &pb.TxnRequest{Compare: []*pb.Compare{exists}, Success: get(true)}, 0},
		{"mixed", &pb.TxnRequest{Compare: []*pb.Compare{exists}, Success: get(true), Failure: get(false)}, 1},
		{"nested", &pb.TxnRequest{Compare: []*pb.Compare{exists}, Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: get(false)}}}}}, 1},
		{"comparing only", &pb.TxnRequest{Compare: []*pb.Compare{exists}}, 1},
	} {
		n.barriers.Store(0)
		resp, err := kv.Txn(ctx, c.r)
		if err != nil || !resp.Succeeded || resp.Header.Revision != 2 || n.barriers.Load() != c.barrier {
			t.Errorf("%s: %v, %v, %d barriers; want %d", c.name, resp, err, n.barriers.Load(), c.barrier)
		}
	}
	if got := n.View().Index; got != before {
		t.Errorf("%d entries were written", got-before)
	}
}
