package discovery

import (
	"bytes"
	"context"
	"net"
	"sort"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is the KV service of etcd's wire, as much as a Registry uses: ranges with limits at the present revision, puts
// with leases, deletes, transactions with compares of mod revision and lease, and the limit on operations.
type fake struct {
	pb.UnimplementedKVServer
	mu     sync.Mutex
	rev    int64
	kvs    map[string]*mvccpb.KeyValue
	txns   []int  // operations of each transaction that ran
	before func() // called before each transaction, without the lock, to race with it
}

// newFake serves a fake and returns a client of it.
func newFake(t *testing.T) (*fake, *sdk.Client) {
	t.Helper()
	f := &fake{rev: 1, kvs: map[string]*mvccpb.KeyValue{}}
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer()
	pb.RegisterKVServer(s, f)
	go func() { _ = s.Serve(l) }()
	c, err := sdk.Open(t.Context(), sdk.Config{
		Endpoints: []string{"fake:1"},
		Dial:      func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		s.Stop()
	})
	return f, c
}

func (f *fake) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.get(r), nil
}

func (f *fake) get(r *pb.RangeRequest) *pb.RangeResponse {
	out := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: f.rev}}
	for _, kv := range f.kvs {
		in := bytes.Equal(kv.GetKey(), r.GetKey())
		if len(r.GetRangeEnd()) > 0 {
			in = bytes.Compare(kv.GetKey(), r.GetKey()) >= 0 && bytes.Compare(kv.GetKey(), r.GetRangeEnd()) < 0
		}
		if in {
			out.Kvs = append(out.Kvs, proto.CloneOf(kv))
		}
	}
	sort.Slice(out.Kvs, func(i, j int) bool { return bytes.Compare(out.Kvs[i].GetKey(), out.Kvs[j].GetKey()) < 0 })
	out.Count = int64(len(out.Kvs))
	if n := r.GetLimit(); n > 0 && int64(len(out.Kvs)) > n {
		out.Kvs, out.More = out.Kvs[:n], true
	}
	return out
}

func (f *fake) holds(c *pb.Compare) bool {
	kv := f.kvs[string(c.GetKey())]
	switch c.GetTarget() {
	case pb.Compare_MOD:
		return kv.GetModRevision() == c.GetModRevision()
	case pb.Compare_VERSION:
		return kv.GetVersion() == c.GetVersion()
	case pb.Compare_LEASE:
		return kv.GetLease() == c.GetLease()
	}
	return false
}

func (f *fake) Txn(_ context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	f.mu.Lock()
	before := f.before
	f.mu.Unlock()
	if before != nil {
		before()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if max(len(r.GetCompare()), len(r.GetSuccess()), len(r.GetFailure())) > 128 {
		return nil, status.Error(codes.InvalidArgument, "etcdserver: too many operations in txn request")
	}
	out := &pb.TxnResponse{Succeeded: true}
	for _, c := range r.GetCompare() {
		out.Succeeded = out.Succeeded && f.holds(c)
	}
	ops := r.GetSuccess()
	if !out.Succeeded {
		ops = r.GetFailure()
	}
	f.txns = append(f.txns, len(ops))
	puts := map[string]bool{}
	for _, op := range ops {
		switch v := op.GetRequest().(type) {
		case *pb.RequestOp_RequestPut:
			if puts[string(v.RequestPut.GetKey())] {
				return nil, status.Error(codes.InvalidArgument, "etcdserver: duplicate key given in txn request")
			}
			puts[string(v.RequestPut.GetKey())] = true
			f.put(string(v.RequestPut.GetKey()), v.RequestPut.GetValue(), v.RequestPut.GetLease(), f.rev+1)
			out.Responses = append(out.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{}}})
		case *pb.RequestOp_RequestDeleteRange:
			delete(f.kvs, string(v.RequestDeleteRange.GetKey()))
			out.Responses = append(out.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{}}})
		case *pb.RequestOp_RequestRange:
			out.Responses = append(out.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: f.get(v.RequestRange)}})
		}
	}
	f.rev++
	out.Header = &pb.ResponseHeader{Revision: f.rev}
	return out, nil
}

func (f *fake) put(key string, value []byte, lease, rev int64) {
	old := f.kvs[key]
	create := rev
	if old != nil {
		create = old.GetCreateRevision()
	}
	f.kvs[key] = &mvccpb.KeyValue{Key: []byte(key), Value: value, Lease: lease, ModRevision: rev, CreateRevision: create, Version: old.GetVersion() + 1}
}

// set changes a key from outside.
func (f *fake) set(key, value string, lease int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rev++
	if value == "" {
		delete(f.kvs, key)
		return
	}
	f.put(key, []byte(value), lease, f.rev)
}

func (f *fake) value(key string) (string, int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(f.kvs[key].GetValue()), f.kvs[key].GetLease()
}
