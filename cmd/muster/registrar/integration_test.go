package registrar

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/catalog"
	"github.com/musterhq/muster/sdk"
)

// server is one member, a process of its own: the binary named by MUSTER_TEST_SERVER (it must take etcd's flags), or
// this checkout's muster server.
type server struct {
	bin    []string
	dir    string
	client string
	peer   string
	cmd    *exec.Cmd
}

// patience is how long a test waits for what must come about on the busiest
// machine; how soon it does is held to the clock of a bubble, in package registrar.
const patience = time.Minute

// binary is this checkout's muster, built when it is first wanted.
type binary struct {
	once sync.Once
	dir  string
	err  error
}

func (b *binary) path() (string, error) {
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "muster-registrar-test"); b.err != nil {
			return
		}
		if out, err := exec.Command("go", "build", "-o", filepath.Join(b.dir, "muster"), "github.com/musterhq/muster/cmd/muster").CombinedOutput(); err != nil {
			b.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	return filepath.Join(b.dir, "muster"), b.err
}

func (b *binary) remove() { _ = os.RemoveAll(b.dir) }

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func startServer(t *testing.T) *server {
	t.Helper()
	s := &server{dir: t.TempDir(), client: freeAddr(t), peer: freeAddr(t)}
	if bin := os.Getenv("MUSTER_TEST_SERVER"); bin != "" {
		s.bin = []string{bin}
	} else {
		path, err := built.path()
		if err != nil {
			t.Fatal(err)
		}
		s.bin = []string{path, "server"}
	}
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

func (s *server) start(t *testing.T) {
	t.Helper()
	args := append(append([]string(nil), s.bin[1:]...), "--name", "n1", "--data-dir", filepath.Join(s.dir, "data"),
		"--listen-client-urls", "http://"+s.client, "--advertise-client-urls", "http://"+s.client,
		"--listen-peer-urls", "http://"+s.peer, "--initial-advertise-peer-urls", "http://"+s.peer, "--initial-cluster", "n1=http://"+s.peer)
	s.cmd = exec.Command(s.bin[0], args...)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := s.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if _, err := c.Get(ctx, "up"); err == nil {
			return
		} else if ctx.Err() != nil {
			t.Fatalf("the server doesn't come up: %v", err)
		}
	}
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// wipe ends the server and loses its data.
func (s *server) wipe(t *testing.T) {
	t.Helper()
	s.kill()
	if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
		t.Fatal(err)
	}
}

func (s *server) open(t *testing.T) *sdk.Client {
	t.Helper()
	c, err := sdk.Open(t.Context(), sdk.Config{Endpoints: []string{s.client}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// watcher follows the registry through a catalog.
type watcher struct {
	*catalog.Catalog
	client *sdk.Client
}

func watch(t *testing.T, s *server) watcher {
	t.Helper()
	client := s.open(t)
	c, err := catalog.Open(t.Context(), catalog.Config{Client: client, PingInterval: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.WaitSynced(t.Context()); err != nil {
		t.Fatal(err)
	}
	return watcher{c, client}
}

// await waits until the service default/web stands so, and returns how long that took.
func (w watcher) await(t *testing.T, want string, within time.Duration) time.Duration {
	t.Helper()
	began, timeout := time.Now(), time.After(within)
	for {
		var got []string
		if v := w.Snapshot().Service("default", "web"); v != nil {
			for _, i := range v.Instances {
				got = append(got, i.Instance.ID+"="+i.Status.String())
			}
		}
		if strings.Join(got, " ") == want {
			return time.Since(began)
		}
		select {
		case <-w.Updates():
		case <-timeout:
			t.Fatalf("the catalog shows %v, want %q", got, want)
		}
	}
}

func webArgs(s *server, extra ...string) []string {
	return append([]string{"run", "--name", "web", "--port", "http=8080", "--node", "h1", "--ttl", "3s", "--endpoints", s.client}, extra...)
}

func TestFromRegistrationToTheCatalogAndBack(t *testing.T) {
	s := startServer(t)
	w := watch(t, s)
	p := launch(t, "registrar", webArgs(s, "--tag", "v2", "--drain-delay", "200ms", "--", "sleep", "1000")...)
	w.await(t, "h1-web=PASSING", patience)
	in := w.Snapshot().Instance("default", "web", "h1-web").Instance
	if in.Endpoints[0].Addr != "127.0.0.1" || in.Tags[0] != "v2" || in.Owner != "h1" {
		t.Fatalf("registered %+v", in)
	}
	p.signal(t, syscall.SIGTERM)
	w.await(t, "h1-web=DRAINING", patience)
	w.await(t, "", patience)
	if got := p.end(t); got != 143 {
		t.Fatalf("exit code %d", got)
	}
	leases, err := w.client.Leases(t.Context())
	if err != nil || len(leases) != 0 {
		t.Fatalf("leases left: %v, %v", leases, err)
	}
}

func TestACommandThatEndsIsDeregisteredAtOnce(t *testing.T) {
	s := startServer(t)
	w := watch(t, s)
	p := launch(t, "registrar", webArgs(s, "--drain-delay", "1m", "--", "sh", "-c", "trap 'exit 5' USR1; while :; do sleep 0.05; done")...)
	w.await(t, "h1-web=PASSING", patience)
	p.signal(t, syscall.SIGUSR1)
	w.await(t, "", patience)
	if got := p.end(t); got != 5 {
		t.Fatalf("exit code %d", got)
	}
}

func TestAFileIsReloadedOnHangupAndABadOneChangesNothing(t *testing.T) {
	s := startServer(t)
	w := watch(t, s)
	file := filepath.Join(t.TempDir(), "registrar.yaml")
	write := func(id string) {
		t.Helper()
		content := "node: {name: h1, addr: 127.0.0.1}\ndrain: {delay: 0s}\nservices:\n  - {name: web, id: \"" + id + "\", ports: {http: 8080}}\n"
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	p := launch(t, "registrar", "--config", file, "--endpoints", s.client)
	w.await(t, "first=PASSING", patience)
	write("No Label")
	p.signal(t, syscall.SIGHUP)
	p.await(t, "the old one stays in force")
	write("second")
	p.signal(t, syscall.SIGHUP)
	w.await(t, "second=PASSING", patience)
	if leases, err := w.client.Leases(t.Context()); err != nil || len(leases) != 1 {
		t.Fatalf("leases %v, %v", leases, err)
	}
	p.signal(t, syscall.SIGTERM)
	w.await(t, "", patience)
	if got := p.end(t); got != 0 {
		t.Fatalf("exit code %d", got)
	}
}

func TestAKilledRegistrarLeavesWithItsLease(t *testing.T) {
	s := startServer(t)
	w := watch(t, s)
	p := launch(t, "registrar", webArgs(s)...)
	w.await(t, "h1-web=PASSING", patience)
	p.signal(t, syscall.SIGKILL)
	if took := w.await(t, "", patience); took < time.Second {
		t.Fatalf("gone after %v", took)
	}
}

func TestChecksDecideOverARealServer(t *testing.T) {
	var code atomic.Int32
	code.Store(503)
	app := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(int(code.Load())) }))
	defer app.Close()
	s := startServer(t)
	w := watch(t, s)
	p := launch(t, "registrar", webArgs(s, "--check", "http:"+strings.TrimPrefix(app.URL, "http:")+"/healthz", "--check-interval", "100ms", "--log-level", "debug")...)
	p.await(t, "lease granted")
	if v := w.Snapshot().Service("default", "web"); v != nil {
		t.Fatalf("registered before the first pass: %+v", v)
	}
	code.Store(200)
	w.await(t, "h1-web=PASSING", patience)
	code.Store(500)
	t.Logf("failed check to catalog: %v", w.await(t, "h1-web=CRITICAL", patience))
	code.Store(429)
	w.await(t, "h1-web=WARNING", patience)
}

// TestItComesBackWhateverHappenedToTheServer is trap 1 of the reference, against a real server.
func TestItComesBackWhateverHappenedToTheServer(t *testing.T) {
	s := startServer(t)
	w := watch(t, s)
	launch(t, "registrar", webArgs(s)...)
	const up = "h1-web=PASSING"
	w.await(t, up, patience)
	ref := discovery.Ref{NS: "default", Svc: "web", ID: "h1-web"}
	for name, fault := range map[string]func() error{
		"key deleted": func() error {
			_, err := w.client.Delete(t.Context(), ref.InstanceKey())
			return err
		},
		"lease revoked": func() error {
			leases, err := w.client.Leases(t.Context())
			if err == nil && len(leases) != 1 {
				err = fmt.Errorf("leases %v", leases)
			}
			return errors.Join(err, w.client.Revoke(t.Context(), leases[0]))
		},
		"all keys deleted": func() error {
			_, err := w.client.Delete(t.Context(), discovery.Prefix, sdk.WithPrefix())
			return err
		},
	} {
		for range 3 {
			if err := fault(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			w.await(t, "", patience)
			t.Logf("%s: back after %v", name, w.await(t, up, patience))
		}
	}
	s.kill()
	s.start(t)
	w.await(t, up, patience)
	s.wipe(t)
	s.start(t)
	// The catalog finds out that the store went back in time, and the registrar that its lease is gone.
	fresh := watch(t, s)
	t.Logf("store emptied: back after %v", fresh.await(t, up, patience))
	timeout := time.After(patience)
	for w.Snapshot().Rev() > fresh.Snapshot().Rev() {
		select {
		case <-w.Updates():
		case <-timeout:
			t.Fatalf("the catalog shows revision %d of a store at %d", w.Snapshot().Rev(), fresh.Snapshot().Rev())
		}
	}
	w.await(t, up, patience)
}

func TestTheCatalogSurvivesCompactionWhileCutOff(t *testing.T) {
	s := startServer(t)
	client := s.open(t)
	reg := discovery.NewRegistry(discovery.RegistryConfig{Store: client})
	put := func(i int) {
		t.Helper()
		if err := reg.Register(t.Context(), 0, discovery.Registration{Instance: discovery.Instance{
			ID: fmt.Sprintf("i%d", i), Svc: "web", Owner: "test", Endpoints: []discovery.Endpoint{{Name: "http", Addr: "10.0.0.1", Port: 80}},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	put(0)
	proxy := newProxy(t, s.client)
	c, err := sdk.Open(t.Context(), sdk.Config{Endpoints: []string{proxy.addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	cat, err := catalog.Open(t.Context(), catalog.Config{Client: c, PingInterval: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cat.Close() }()
	w := watcher{cat, client}
	if _, err := cat.WaitSynced(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.await(t, "i0=PASSING", patience)
	proxy.cut()
	for cat.Staleness() == 0 {
		if t.Context().Err() != nil {
			t.Fatal("the loss isn't noticed")
		}
		<-time.After(10 * time.Millisecond) // nothing tells of it
	}
	put(1)
	if err := reg.Deregister(t.Context(), 0, discovery.Ref{NS: "default", Svc: "web", ID: "i0"}); err != nil {
		t.Fatal(err)
	}
	put(2)
	r, err := client.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Compact(t.Context(), r.Header.Revision); err != nil {
		t.Fatal(err)
	}
	if v := cat.Snapshot().Instance("default", "web", "i0"); v == nil {
		t.Fatal("the last snapshot wasn't kept")
	}
	proxy.join()
	w.await(t, "i1=PASSING i2=PASSING", patience)
	if st := cat.Stats(); st.Resyncs < 2 {
		t.Fatalf("no full listing: %+v", st)
	}
	put(3)
	w.await(t, "i1=PASSING i2=PASSING i3=PASSING", patience)
}

func TestThousandsOfRegistrationsPerSecond(t *testing.T) {
	s := startServer(t)
	w := watch(t, s)
	reg := discovery.NewRegistry(discovery.RegistryConfig{Store: w.client})
	lease, err := w.client.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	const n = 5000
	regs := make([]discovery.Registration, 0, n)
	for i := range n {
		regs = append(regs, discovery.Registration{
			Instance: discovery.Instance{
				ID: fmt.Sprintf("i%05d", i), Svc: fmt.Sprintf("s%d", i/50), Node: fmt.Sprintf("h%d", i%100), Owner: "test", Epoch: 1,
				Endpoints: []discovery.Endpoint{{Name: "http", Addr: "10.0.0.1", Port: 80}},
			},
			Health: &discovery.Health{Status: discovery.StatusPassing},
		})
	}
	began := time.Now()
	if err := reg.Register(t.Context(), lease.ID, regs...); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	for {
		if _, have := w.Snapshot().Len(); have == n {
			break
		}
		<-w.Updates()
	}
	t.Logf("%d registrations in %v (%.0f/s); all in the catalog %v after the last was acknowledged", n, took, n/took.Seconds(), time.Since(began)-took)
	if err := w.client.Revoke(t.Context(), lease.ID); err != nil {
		t.Fatal(err)
	}
	for {
		if _, have := w.Snapshot().Len(); have == 0 {
			break
		}
		<-w.Updates()
	}
}

// proxy passes connections on, until it is cut.
type proxy struct {
	addr, to string
	l        net.Listener
	open     atomic.Bool
	conns    chan net.Conn
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), to: to, l: l, conns: make(chan net.Conn, 1000)}
	p.open.Store(true)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if !p.open.Load() {
				_ = c.Close()
				continue
			}
			up, err := net.Dial("tcp", to)
			if err != nil {
				_ = c.Close()
				continue
			}
			p.conns <- c
			p.conns <- up
			pass := func(a, b net.Conn) {
				buf := make([]byte, 32<<10)
				for {
					n, err := a.Read(buf)
					if n > 0 {
						_, _ = b.Write(buf[:n])
					}
					if err != nil {
						_ = b.Close()
						return
					}
				}
			}
			go pass(c, up)
			go pass(up, c)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
	})
	return p
}

func (p *proxy) cut() {
	p.open.Store(false)
	for {
		select {
		case c := <-p.conns:
			_ = c.Close()
		default:
			return
		}
	}
}

func (p *proxy) join() { p.open.Store(true) }
