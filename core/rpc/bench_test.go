package rpc

import (
	"bytes"
	"context"
	"net"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/musterhq/muster/core/machine"
)

// The benchmarks compare the services with an echo that does nothing on the
// same transport: what lies between is what this package costs, and the
// machine's apply under the fake's mutex. Client and server share the process,
// so figures hold both; allocations are mostly grpc's, on both sides.

// rawCodec is a client that costs as little as possible.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error { return nil }
func (rawCodec) Name() string                                { return "proto" }

func benchServer(b *testing.B) []*grpc.ClientConn {
	n := newFakeNode(b, machine.Config{})
	ctx := context.Background()
	if _, err := n.Propose(ctx, machine.Put, mustMarshal(b, &pb.PutRequest{Key: []byte("key-0001"), Value: bytes.Repeat([]byte("v"), 256)}), "", 0); err != nil {
		b.Fatal(err)
	}
	echo := func(s grpc.ServiceRegistrar) {
		s.RegisterService(&grpc.ServiceDesc{
			ServiceName: "v3lockpb.Lock", HandlerType: (*any)(nil),
			Methods: []grpc.MethodDesc{{MethodName: "Lock", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var r putRequest
				if err := decode(&r); err != nil {
					return nil, err
				}
				return new(encoded).one([]byte{8, 1}), nil
			}}},
		}, n)
	}
	s, err := NewServer(Config{Node: n, ClusterID: fakeCluster, MemberID: fakeID, Services: []func(grpc.ServiceRegistrar){echo}})
	if err != nil {
		b.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	var conns []*grpc.ClientConn
	for range 10 {
		c, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
		if err != nil {
			b.Fatal(err)
		}
		conns = append(conns, c)
	}
	b.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
		s.Shutdown(ctx)
		<-served
	})
	return conns
}

func benchCall(b *testing.B, method string, body []byte) {
	conns := benchServer(b)
	var next atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(50)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		c := conns[int(next.Add(1))%len(conns)]
		var reply []byte
		for p.Next() {
			if err := c.Invoke(context.Background(), method, &body, &reply); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkEcho(b *testing.B) {
	benchCall(b, "/v3lockpb.Lock/Lock", mustMarshal(b, &pb.PutRequest{Key: []byte("key-0001"), Value: bytes.Repeat([]byte("v"), 256)}))
}

func BenchmarkPut(b *testing.B) {
	benchCall(b, "/etcdserverpb.KV/Put", mustMarshal(b, &pb.PutRequest{Key: []byte("key-0001"), Value: bytes.Repeat([]byte("v"), 256)}))
}

func BenchmarkRange(b *testing.B) {
	benchCall(b, "/etcdserverpb.KV/Range", mustMarshal(b, &pb.RangeRequest{Key: []byte("key-0001")}))
}

// BenchmarkHandlers leaves the transport out: what a call costs in here.
func BenchmarkHandlers(b *testing.B) {
	n := newFakeNode(b, machine.Config{})
	m, err := newMetrics(nil, false)
	if err != nil {
		b.Fatal(err)
	}
	g := &guard{node: n, metrics: m, methods: map[string]*method{}}
	for _, row := range methodTable() {
		r := m.resolve(row)
		g.methods[r.full] = r
	}
	k := &kvServer{member: &member{node: n, id: newIdentity(fakeCluster, fakeID)}}
	put := mustMarshal(b, &pb.PutRequest{Key: []byte("key-0001"), Value: bytes.Repeat([]byte("v"), 256)})
	if _, err := n.Propose(b.Context(), machine.Put, put, "", 0); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		serve func(context.Context, func(any) error) (any, error)
		body  []byte
	}{
		{"Put", k.servePut, put},
		{"Range", k.serveRange, mustMarshal(b, &pb.RangeRequest{Key: []byte("key-0001")})},
		{"RangeMiss", k.serveRange, mustMarshal(b, &pb.RangeRequest{Key: []byte("none")})},
	} {
		b.Run(c.name, func(b *testing.B) {
			h, err := g.hot("/etcdserverpb.KV/"+map[string]string{"RangeMiss": "Range"}[c.name]+map[string]string{"Put": "Put", "Range": "Range"}[c.name], c.serve)
			if err != nil {
				b.Fatal(err)
			}
			data := mem.BufferSlice{mem.SliceBuffer(c.body)}
			decode := func(v any) error { return v.(wireRequest).unmarshalWire(data) }
			b.ReportAllocs()
			for b.Loop() {
				r, err := h(nil, context.Background(), decode, nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := r.(wireReply).marshalWire(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
