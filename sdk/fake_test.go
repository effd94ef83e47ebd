package sdk

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeMember serves whatever functions a test sets, over memory.
type fakeMember struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	pb.UnimplementedLeaseServer
	pb.UnimplementedAuthServer
	pb.UnimplementedMaintenanceServer

	calls  atomic.Int64
	get    func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error)
	put    func(context.Context, *pb.PutRequest) (*pb.PutResponse, error)
	watch  func(pb.Watch_WatchServer) error
	keep   func(pb.Lease_LeaseKeepAliveServer) error
	login  func(*pb.AuthenticateRequest) (*pb.AuthenticateResponse, error)
	status func() (*pb.StatusResponse, error)

	mu struct {
		sync.Mutex
		listener *bufconn.Listener
		server   *grpc.Server
	}
}

func (m *fakeMember) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	m.calls.Add(1)
	return m.get(ctx, r)
}

func (m *fakeMember) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	m.calls.Add(1)
	return m.put(ctx, r)
}

func (m *fakeMember) Watch(s pb.Watch_WatchServer) error {
	m.calls.Add(1)
	return m.watch(s)
}

func (m *fakeMember) LeaseKeepAlive(s pb.Lease_LeaseKeepAliveServer) error {
	m.calls.Add(1)
	return m.keep(s)
}

func (m *fakeMember) Authenticate(_ context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	return m.login(r)
}

func (m *fakeMember) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	m.calls.Add(1)
	return m.status()
}

func (m *fakeMember) start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.server != nil {
		return // serves another client already
	}
	l, s := bufconn.Listen(1<<16), grpc.NewServer(
		// As etcd's members have it by default.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
	)
	pb.RegisterKVServer(s, m)
	pb.RegisterWatchServer(s, m)
	pb.RegisterLeaseServer(s, m)
	pb.RegisterAuthServer(s, m)
	pb.RegisterMaintenanceServer(s, m)
	m.mu.listener, m.mu.server = l, s
	go func() { _ = s.Serve(l) }()
}

// stop breaks all connections; dialing is refused until start.
func (m *fakeMember) stop() {
	m.mu.Lock()
	s := m.mu.server
	m.mu.server, m.mu.listener = nil, nil
	m.mu.Unlock()
	if s != nil {
		s.Stop()
	}
}

func (m *fakeMember) dial(ctx context.Context) (net.Conn, error) {
	m.mu.Lock()
	l := m.mu.listener
	m.mu.Unlock()
	if l == nil {
		return nil, errors.New("connection refused by test")
	}
	return l.DialContext(ctx)
}

// openFake starts the members as endpoints m0:1, m1:1, … and a client that prefers the first.
func openFake(t *testing.T, cfg Config, members ...*fakeMember) *Client {
	t.Helper()
	byAddr := make(map[string]*fakeMember)
	for i, m := range members {
		name := fmt.Sprintf("m%d:1", i)
		cfg.Endpoints = append(cfg.Endpoints, name)
		byAddr[name] = m
		m.start()
		t.Cleanup(m.stop)
	}
	cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return byAddr[addr].dial(ctx) }
	c, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	c.conn.mu.Lock()
	c.conn.mu.current = 0
	c.conn.mu.Unlock()
	return c
}

func (m *fakeMember) dialAny(ctx context.Context, _ string) (net.Conn, error) { return m.dial(ctx) }
