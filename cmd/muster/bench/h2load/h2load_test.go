package h2load

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store answers as a server might.
type store struct {
	pb.UnimplementedKVServer
	pb.UnimplementedLeaseServer
	puts  atomic.Int64
	value []byte
	put   func(*pb.PutRequest) error
}

func (s *store) Put(_ context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	s.puts.Add(1)
	if s.put != nil {
		if err := s.put(r); err != nil {
			return nil, err
		}
	}
	return &pb.PutResponse{Header: &pb.ResponseHeader{Revision: s.puts.Load()}}, nil
}

func (s *store) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	return &pb.RangeResponse{Count: int64(len(s.value)), Header: &pb.ResponseHeader{}}, nil
}

func (s *store) LeaseKeepAlive(st pb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := st.Recv()
		if err != nil {
			return err
		}
		if r.ID == 0 {
			return status.Error(codes.NotFound, "no such lease")
		}
		if err := st.Send(&pb.LeaseKeepAliveResponse{ID: r.ID, TTL: 60}); err != nil {
			return err
		}
	}
}

// open starts a grpc-go server and returns its address.
func open(t *testing.T, s *store, opts ...grpc.ServerOption) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(opts...)
	pb.RegisterKVServer(srv, s)
	pb.RegisterLeaseServer(srv, s)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

const putMethod, rangeMethod = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range"

// always sends one message.
func always(m proto.Message) func(int) func(int, []byte) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return func(int) func(int, []byte) []byte {
		return func(_ int, dst []byte) []byte { return append(dst, b...) }
	}
}

func TestEveryCallIsMadeOnceAndAnswered(t *testing.T) {
	s := &store{}
	addr := open(t, s)
	var begun, ended bool
	r, err := Run(t.Context(), Config{
		Addrs: []string{addr}, Conns: 3, Clients: 100, Method: putMethod, Total: 5000,
		Next:  always(&pb.PutRequest{Key: []byte("k"), Value: make([]byte, 256)}),
		Begin: func() { begun = true }, End: func() { ended = true },
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Done != 5000 || r.Begun != 5000 || r.Failed() != 0 || s.puts.Load() != 5000 || r.Latency.Count() != 5000 {
		t.Errorf("begun %d, done %d, served %d, errors %v; want 5000 of each and no errors", r.Begun, r.Done, s.puts.Load(), r.Errors)
	}
	if !begun || !ended || r.Bytes == 0 || r.Elapsed == 0 || r.PerSecond() == 0 {
		t.Errorf("report %d bytes in %v, begun %v, ended %v", r.Bytes, r.Elapsed, begun, ended)
	}
}

func TestRefusalsAreCountedByWhatTheServerSaid(t *testing.T) {
	var n atomic.Int64
	s := &store{put: func(*pb.PutRequest) error {
		if n.Add(1)%4 == 0 {
			return status.Error(codes.ResourceExhausted, "database space exceeded")
		}
		return nil
	}}
	r, err := Run(t.Context(), Config{
		Addrs: []string{open(t, s)}, Clients: 10, Method: putMethod, Total: 400, Next: always(&pb.PutRequest{}),
	})
	if err != nil || r.Done != 300 || r.Failed() != 100 || r.FirstError() != "ResourceExhausted: database space exceeded" {
		t.Errorf("done %d, errors %v, %v; want 300 and 100 refusals by name", r.Done, r.Errors, err)
	}
}

func TestAnUnknownMethodIsRefusedByName(t *testing.T) {
	r, err := Run(t.Context(), Config{
		Addrs: []string{open(t, &store{})}, Method: "/etcdserverpb.KV/Nonesuch", Total: 3, Next: always(&pb.PutRequest{}),
	})
	if err != nil || r.Done != 0 || r.Failed() != 3 || !strings.HasPrefix(r.FirstError(), "Unimplemented") {
		t.Errorf("errors %v, %v; want 3 times Unimplemented", r.Errors, err)
	}
}

func TestMessagesLargerThanWindowsAndFramesGoThrough(t *testing.T) {
	var bad atomic.Int64
	value := make([]byte, 700<<10)
	for i := range value {
		value[i] = byte(i * 7)
	}
	s := &store{put: func(r *pb.PutRequest) error {
		if string(r.Value) != string(value) {
			bad.Add(1)
		}
		return nil
	}}
	r, err := Run(t.Context(), Config{
		Addrs: []string{open(t, s)}, Conns: 2, Clients: 8, Method: putMethod, Total: 60, Next: always(&pb.PutRequest{Value: value}),
	})
	if err != nil || r.Done != 60 || bad.Load() != 0 {
		t.Errorf("done %d, damaged %d, errors %v, %v", r.Done, bad.Load(), r.Errors, err)
	}
}

func TestMoreBytesThanOurWindowsAreReceived(t *testing.T) {
	s := &large{size: 3 << 20}
	addr := open(t, &store{}, grpc.UnknownServiceHandler(s.serve))
	var got atomic.Int64
	r, err := Run(t.Context(), Config{
		Addrs: []string{addr}, Clients: 2, Method: "/large/Get", Total: 20, Next: always(&pb.PutRequest{}),
		Receive: func(int) func(int, []byte, time.Duration) error {
			return func(_ int, msg []byte, _ time.Duration) error {
				got.Add(int64(len(msg)))
				return nil
			}
		},
	})
	if want := int64(20 * 10 * (s.size + 5)); err != nil || got.Load() != want || r.Done != 20 {
		t.Errorf("received %d bytes in %d calls, %v (%v); want %d", got.Load(), r.Done, err, r.Errors, want)
	}
}

// large streams ten messages of a size to whoever calls.
type large struct{ size int }

func (l *large) serve(_ any, st grpc.ServerStream) error {
	if err := st.RecvMsg(&pb.PutRequest{}); err != nil {
		return err
	}
	m := &pb.PutRequest{Value: make([]byte, l.size)}
	for range 10 {
		if err := st.SendMsg(m); err != nil {
			return err
		}
	}
	return nil
}

func TestAStreamCarriesACallAfterTheOther(t *testing.T) {
	r, err := Run(t.Context(), Config{
		Addrs: []string{open(t, &store{})}, Conns: 2, Clients: 6, Method: "/etcdserverpb.Lease/LeaseKeepAlive",
		Stream: true, Total: 600, Next: always(&pb.LeaseKeepAliveRequest{ID: 7}),
		Receive: func(int) func(int, []byte, time.Duration) error {
			return func(_ int, msg []byte, _ time.Duration) error {
				var m pb.LeaseKeepAliveResponse
				if err := proto.Unmarshal(msg, &m); err != nil || m.TTL != 60 {
					return errors.New("wrong answer")
				}
				return nil
			}
		},
	})
	if err != nil || r.Done != 600 || r.Failed() != 0 {
		t.Errorf("done %d, errors %v, %v", r.Done, r.Errors, err)
	}
}

func TestAStreamThatTheServerEndsIsAnError(t *testing.T) {
	r, err := Run(t.Context(), Config{
		Addrs: []string{open(t, &store{})}, Method: "/etcdserverpb.Lease/LeaseKeepAlive",
		Stream: true, Total: 2, Next: always(&pb.LeaseKeepAliveRequest{}),
	})
	if err != nil || r.Done != 0 || r.Errors["NotFound: no such lease"] != 2 {
		t.Errorf("done %d, errors %v, %v", r.Done, r.Errors, err)
	}
}

func TestAConnectionKeepsToTheServersStreamLimit(t *testing.T) {
	var now, most atomic.Int64
	s := &store{put: func(*pb.PutRequest) error {
		for n := now.Add(1); ; {
			if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		defer now.Add(-1)
		return nil
	}}
	r, err := Run(t.Context(), Config{
		Addrs: []string{open(t, s, grpc.MaxConcurrentStreams(4))}, Clients: 64, Method: putMethod, Total: 1000, Next: always(&pb.PutRequest{}),
	})
	if err != nil || r.Done != 1000 || r.Failed() != 0 || most.Load() > 4 {
		t.Errorf("done %d with up to %d at a time, errors %v, %v", r.Done, most.Load(), r.Errors, err)
	}
}

func TestARateIsKept(t *testing.T) {
	r, err := Run(t.Context(), Config{
		Addrs: []string{open(t, &store{})}, Conns: 2, Clients: 20, Method: putMethod, Total: 100, Rate: 400, Next: always(&pb.PutRequest{}),
	})
	if err != nil || r.Done != 100 {
		t.Fatalf("done %d, %v", r.Done, err)
	}
	// The last is due 99/400 s after the first.
	if want := 247 * time.Millisecond; r.Elapsed < want {
		t.Errorf("100 calls at 400 a second took %v, want at least %v", r.Elapsed, want)
	}
}

func TestADurationEndsTheRunAndWaitsForAnswers(t *testing.T) {
	s := &store{}
	r, err := Run(t.Context(), Config{
		Addrs: []string{open(t, s)}, Clients: 5, Method: putMethod, Duration: 50 * time.Millisecond, Next: always(&pb.PutRequest{}),
	})
	if err != nil || r.Done == 0 || r.Done != r.Begun || int64(r.Done) != s.puts.Load() {
		t.Errorf("begun %d, done %d, served %d, %v", r.Begun, r.Done, s.puts.Load(), err)
	}
}

func TestCancellingReportsWhatWasMeasured(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	hang := make(chan struct{})
	var n atomic.Int64
	s := &store{put: func(*pb.PutRequest) error {
		if n.Add(1) == 20 {
			cancel()
			<-hang
		}
		return nil
	}}
	addr := open(t, s)
	defer close(hang)
	r, err := Run(ctx, Config{Addrs: []string{addr}, Method: putMethod, Total: 1000, Next: always(&pb.PutRequest{})})
	if err != nil || r.Done != 19 || r.Begun != 20 {
		t.Errorf("begun %d, done %d, %v; want 20 begun and 19 done", r.Begun, r.Done, err)
	}
}

func TestASilentServerIsGivenUp(t *testing.T) {
	hang := make(chan struct{})
	s := &store{put: func(*pb.PutRequest) error { <-hang; return nil }}
	addr := open(t, s)
	defer close(hang)
	r, err := Run(t.Context(), Config{
		Addrs: []string{addr}, Clients: 2, Method: putMethod, Total: 10, Timeout: 50 * time.Millisecond, Next: always(&pb.PutRequest{}),
	})
	if err == nil || !strings.Contains(err.Error(), "no answer for 50ms") || r.Failed() != 2 {
		t.Errorf("%v, errors %v", err, r.Errors)
	}
}

func TestWhatIsNotAGRPCServerIsNamed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		_, _ = c.Read(make([]byte, 1024))
	}()
	_, err = Run(t.Context(), Config{Addrs: []string{ln.Addr().String()}, Method: putMethod, Total: 1, Next: always(&pb.PutRequest{})})
	ln.Close()
	<-done
	if !errors.Is(err, ErrProtocol) {
		t.Errorf("%v, want ErrProtocol", err)
	}
}

func TestAServerThatIsNotThereIsAnError(t *testing.T) {
	_, err := Run(t.Context(), Config{Addrs: []string{"127.0.0.1:1"}, Conns: 2, Method: putMethod, Total: 1, Next: always(&pb.PutRequest{})})
	if err == nil || !strings.Contains(err.Error(), "connect to 127.0.0.1:1") {
		t.Errorf("%v", err)
	}
}

func TestAClientCallsSeveralMethods(t *testing.T) {
	c, err := Dial(t.Context(), open(t, &store{value: []byte("abc")}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 3 {
		b, err := c.Call(t.Context(), putMethod, nil)
		var p pb.PutResponse
		if err != nil || proto.Unmarshal(b, &p) != nil || p.Header.Revision != int64(i+1) {
			t.Fatalf("put %d: %v, %v", i, &p, err)
		}
		b, err = c.Call(t.Context(), rangeMethod, nil)
		var r pb.RangeResponse
		if err != nil || proto.Unmarshal(b, &r) != nil || r.Count != 3 {
			t.Fatalf("range %d: %v, %v", i, &r, err)
		}
	}
	if _, err := c.Call(t.Context(), "/etcdserverpb.KV/Nonesuch", nil); !errors.Is(err, ErrRefused) {
		t.Errorf("unknown method: %v", err)
	}
	if _, err := c.Call(t.Context(), putMethod, nil); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
}

func TestConfigurationsThatCanNotRunAreRefused(t *testing.T) {
	for _, cfg := range []Config{
		{Total: 1},
		{Addrs: []string{"127.0.0.1:1"}},
		{Addrs: []string{"127.0.0.1:1"}, Total: 1, Conns: 2, Clients: 1},
		{Addrs: []string{"127.0.0.1:1"}, Total: 1, Rate: -1},
	} {
		if _, err := Run(t.Context(), cfg); err == nil || !strings.HasPrefix(err.Error(), "h2load: ") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
