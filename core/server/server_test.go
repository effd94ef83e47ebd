package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
)

// lines collects log output.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.buf.String(), s)
}

func testConfig(t *testing.T) (Config, *lines) {
	cfg := Default()
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	cfg.ListenClientURLs = []string{"http://127.0.0.1:0"}
	cfg.ListenPeerURLs = []string{"http://127.0.0.1:0"}
	cfg.ListenMetricsURLs = []string{"http://127.0.0.1:0"}
	cfg.UnsafeNoFsync = true
	log := &lines{}
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	return cfg, log
}

func open(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, s) })
	return s
}

func shut(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func client(t *testing.T, s *Server) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(strings.TrimPrefix(s.ClientURLs()[0], "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	r, err := (&http.Client{Transport: tr}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestAMemberServesStopsAndComesBack(t *testing.T) {
	cfg, log := testConfig(t)
	cfg.Handlers = map[string]http.Handler{"/mounted": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") })}
	s := open(t, cfg)
	waitFor(t, func() bool { return log.has("ready to serve client requests") }, "the member to be ready")

	if _, err := pb.NewKVClient(client(t, s)).Put(t.Context(), &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	url := s.ClientURLs()[0]
	if code, body := get(t, url+"/version"); code != 200 || body != `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}` {
		t.Errorf("/version: %d %s", code, body)
	}
	if code, body := get(t, url+"/health"); code != 200 || body != `{"health":"true","reason":""}` {
		t.Errorf("/health: %d %s", code, body)
	}
	if code, body := get(t, url+"/mounted"); code != 200 || body != "here" {
		t.Errorf("/mounted: %d %s", code, body)
	}
	waitFor(t, func() bool {
		_, body := get(t, url+"/metrics")
		return strings.Contains(body, `etcd_cluster_version{cluster_version="3.7"} 1`)
	}, "the cluster version")
	for _, u := range []string{url, s.MetricsURLs()[0]} {
		_, body := get(t, u+"/metrics")
		for _, want := range []string{
			`etcd_server_version{server_version="3.7.3"} 1`, "etcd_server_has_leader 1", "etcd_server_is_leader 1", "etcd_debugging_mvcc_current_revision 2",
			`grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1`,
			"etcd_network_client_grpc_received_bytes_total", "etcd_mvcc_put_total 1",
		} {
			if !strings.Contains(body, want) {
				t.Errorf("%s/metrics lacks %s", u, want)
			}
		}
		for _, fed := range []string{
			"etcd_disk_wal_write_duration_seconds_count", "etcd_disk_wal_write_bytes_total",
			"etcd_disk_backend_commit_duration_seconds_count",
		} {
			if strings.Contains(body, "\n"+fed+" 0\n") || !strings.Contains(body, "\n"+fed+" ") {
				t.Errorf("%s/metrics: %s is not fed", u, fed)
			}
		}
	}
	shut(t, s)
	// The peer URL is part of who the member is.
	cfg.ListenPeerURLs = s.cfg.ListenPeerURLs

	again := open(t, cfg)
	r, err := pb.NewKVClient(client(t, again)).Range(t.Context(), &pb.RangeRequest{Key: []byte("k")})
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "v" || r.Header.Revision != 2 {
		t.Errorf("after a restart: %v, %v", r, err)
	}
}

func TestATakenPortIsOneClearErrorWithoutSideEffects(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for flag, set := range map[string]func(*Config, []string){
		"--listen-client-urls":  func(c *Config, u []string) { c.ListenClientURLs = u },
		"--listen-peer-urls":    func(c *Config, u []string) { c.ListenPeerURLs = u },
		"--listen-metrics-urls": func(c *Config, u []string) { c.ListenMetricsURLs = u },
	} {
		cfg, _ := testConfig(t)
		set(&cfg, []string{"http://" + taken.Addr().String()})
		_, err := Open(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), flag) || !strings.Contains(err.Error(), taken.Addr().String()) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", flag, err)
		}
		if _, err := os.Stat(cfg.DataDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the data directory was touched: %v", flag, err)
		}
	}
}

func TestALockedDataDirectoryIsRefused(t *testing.T) {
	cfg, _ := testConfig(t)
	open(t, cfg)
	if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), cfg.DataDir) {
		t.Errorf("got %v, want it to name the directory", err)
	}
}

// whoami is a service that tells who calls.
type whoami struct{ seen chan net.Addr }

func (w whoami) register(s grpc.ServiceRegistrar) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "v3lockpb.Lock", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Lock", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if err := dec(new(pb.StatusRequest)); err != nil {
				return nil, err
			}
			p, _ := peer.FromContext(ctx)
			w.seen <- p.Addr
			return new(pb.StatusResponse), nil
		}}},
	}, w)
}

func TestBackgroundReachesTheServicesInItsOwnName(t *testing.T) {
	cfg, _ := testConfig(t)
	w := whoami{make(chan net.Addr, 1)}
	cfg.Services = append(cfg.Services, w.register)
	ended := make(chan struct{})
	cfg.Background = append(cfg.Background, func(ctx context.Context, local InProcess) error {
		defer close(ended)
		c, err := grpc.NewClient("passthrough:///local", grpc.WithContextDialer(local.Dial("dns")), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.Invoke(ctx, "/v3lockpb.Lock/Lock", &pb.StatusRequest{}, &pb.StatusResponse{}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	s := open(t, cfg)
	select {
	case addr := <-w.seen:
		if id, ok := addr.(Identity); !ok || id != "dns" {
			t.Errorf("called by %v (%T)", addr, addr)
		}
	case <-s.Failed():
		t.Fatal(s.Err())
	}
	shut(t, s)
	<-ended
	if err := s.Err(); err != nil {
		t.Errorf("ending in order is a failure: %v", err)
	}
}

func TestAFailingBackgroundTaskEndsTheServer(t *testing.T) {
	cfg, _ := testConfig(t)
	broken := errors.New("--dns-listen: taken")
	cfg.Background = append(cfg.Background, func(context.Context, InProcess) error { return broken })
	s := open(t, cfg)
	<-s.Failed()
	if !errors.Is(s.Err(), broken) {
		t.Errorf("got %v", s.Err())
	}
}

func TestUnixSocketsAreServedAndALeftOverOneTakenOver(t *testing.T) {
	cfg, _ := testConfig(t)
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	cfg.ListenClientURLs = append(cfg.ListenClientURLs, "unix://"+path)
	open(t, cfg)
	c, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := pb.NewMaintenanceClient(c).Status(t.Context(), &pb.StatusRequest{}); err != nil {
		t.Error(err)
	}
	other, _ := testConfig(t)
	other.ListenClientURLs = []string{"unix://" + path}
	if _, err := Open(t.Context(), other); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a socket in use: %v", err)
	}
}

func TestTheCollectorKeepsAFixedHeadroom(t *testing.T) {
	for live, want := range map[uint64]int{0: 1600, 1 << 20: 1600, 64 << 20: 100, 640 << 20: 10, 1 << 40: 1} {
		if got := gcPercent(live); got != want {
			t.Errorf("gcPercent(%d) = %d, want %d", live, got, want)
		}
	}
	undo := HoldGCHeadroom()
	defer undo()
	ballast := make([]byte, 200<<20)
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	waitFor(t, func() bool {
		runtime.GC()
		metrics.Read(goal)
		g := goal[0].Value.Uint64()
		return g > 250<<20 && g < 300<<20
	}, "the goal to be the ballast and the head-room")
	runtime.KeepAlive(ballast)
	undo()
	if p := debug.SetGCPercent(100); p != 100 {
		t.Errorf("undo left %d", p)
	}
}

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "muster")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	cfg := Default()
	cfg.DataDir = dir
	cfg.ListenClientURLs = []string{"http://127.0.0.1:0"}
	cfg.ListenPeerURLs = []string{"http://127.0.0.1:0"}
	s, err := Open(context.Background(), cfg)
	if err != nil {
		panic(err)
	}
	fmt.Println(len(s.ClientURLs()))
	fmt.Println(s.Close(context.Background()))
	// Output:
	// 1
	// <nil>
}
