package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

const (
	webName = "web.default.svc.muster.internal."
	// sidecarTTL is the shortest that a registrar takes.
	sidecarTTL = 3 * time.Second
)

// ask returns how many SRV records a name has, and the response code; -1 if
// there was no answer.
func ask(server, name string) (records, code int) {
	c := dns.Client{Timeout: time.Second}
	r, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeSRV), server)
	if err != nil {
		return 0, -1
	}
	return len(r.Answer), r.Rcode
}

// awaitAnswer asks, without a pause, until the name has so many records, and
// returns when it had.
func awaitAnswer(t *testing.T, server, name string, want int) time.Time {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		records, code := ask(server, name)
		now := time.Now()
		if records == want && (code == dns.RcodeSuccess || code == dns.RcodeNameError) {
			return now
		}
		if now.After(deadline) {
			t.Fatalf("%s has %d SRV records at %s (response code %d), want %d", name, records, server, code, want)
		}
	}
}

// sidecar starts a registrar for a service.
func sidecar(t *testing.T, c *Cluster, name string, args ...string) *process {
	t.Helper()
	return start(t, program.NewOutput(), t.TempDir(), nil, muster, append([]string{
		"registrar", "run", "--name=" + name, "--id=" + name + "-1", "--addr=127.0.0.1", "--ttl=" + sidecarTTL.String(),
		"--endpoints=" + strings.Join(c.Endpoints(), ","), "--drain-delay=200ms",
	}, args...)...)
}

// registered returns the moment a watcher is told of the instance.
func registered(t *testing.T, ch clientv3.WatchChan) time.Time {
	t.Helper()
	for {
		select {
		case r := <-ch:
			for _, e := range r.Events {
				if e.IsCreate() {
					return time.Now()
				}
			}
		case <-within(t, patience).Done():
			t.Fatal("no instance is registered")
		}
	}
}

func TestDNSAnswersAtOnceAndForgetsASidecarThatWasKilled(t *testing.T) {
	c := startCluster(t, 3)
	cl := connect(t, c.Endpoints()...)
	server := c.Members[0].DNS
	awaitAnswer(t, server, webName, 0) // it has its index
	var visible, whole, gone []time.Duration
	for i := range 5 {
		name := fmt.Sprintf("web%d", i)
		fqdn := name + ".default.svc.muster.internal."
		watch := cl.Watch(watching(t), "/muster/v1/inst/default/"+name+"/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		<-watch
		began := time.Now()
		p := sidecar(t, c, name, "--port=http=8080")
		put := registered(t, watch)
		answered := awaitAnswer(t, server, fqdn, 1)
		visible, whole = append(visible, max(0, answered.Sub(put))), append(whole, answered.Sub(began))
		if i > 1 {
			continue // two deaths are enough
		}
		killed := time.Now()
		p.Kill()
		took := awaitAnswer(t, server, fqdn, 0).Sub(killed)
		if gone = append(gone, took); took > sidecarTTL+time.Second {
			t.Errorf("%s was answered for %v after the sidecar's death, TTL %v", name, took, sidecarTTL)
		}
	}
	report(t, "from the registration (seen by a watch) to the DNS answer", visible)
	report(t, "from the start of the sidecar to the DNS answer", whole)
	report(t, "from kill -9 of the sidecar to no answer", gone)
	// One of them may have met another process's turn on the processor.
	if m := median(visible); m > 50*time.Millisecond {
		t.Errorf("DNS needs %v to know a registration, want at most 50 ms", m)
	}
}

func TestDigGetsTheServiceWithItsAddress(t *testing.T) {
	dig := tool(t, "dig", "bind9-dnsutils")
	c := startCluster(t, 1)
	m := c.Members[0]
	elsewhere := freePort(t)
	start(t, program.NewOutput(), t.TempDir(), nil, muster, "dns", "--endpoints="+m.Client, "--listen="+elsewhere)
	backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer backend.Close()
	_, port, err := net.SplitHostPort(backend.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p := sidecar(t, c, "web", "--port=http="+port, "--tag=v2", "--check=http:/healthz", "--check-interval=200ms", "--", "sleep", "1000")
	awaitAnswer(t, m.DNS, webName, 1)
	awaitAnswer(t, elsewhere, webName, 1)
	for _, server := range []string{m.DNS, elsewhere} {
		_, dnsPort, err := net.SplitHostPort(server)
		if err != nil {
			t.Fatal(err)
		}
		digs := func(args ...string) string {
			t.Helper()
			r := runProgram(t, nil, "", dig, append([]string{"@127.0.0.1", "-p", dnsPort, "+time=2", "+tries=1"}, args...)...)
			if r.code != 0 {
				t.Fatalf("dig %v exits with %d:\n%s%s", args, r.code, r.stdout, r.stderr)
			}
			return r.stdout
		}
		for _, question := range [][]string{
			{"web.default.svc.muster.internal", "SRV"},
			{"web.svc.muster.internal", "SRV"},
			{"_http._tcp.web.default.svc.muster.internal", "SRV"},
			{"+tcp", "web.default.svc.muster.internal", "SRV"},
		} {
			out := digs(question...)
			for _, want := range []string{
				`status: NOERROR`, `flags: qr aa`,
				`SRV\s+10 100 ` + port + ` web-1\.web\.default\.svc\.muster\.internal\.`,
				`web-1\.web\.default\.svc\.muster\.internal\.\s+5\s+IN\s+A\s+127\.0\.0\.1`,
			} {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("dig %v at %s: no %s in\n%s", question, server, want, out)
				}
			}
		}
		if out := digs("+short", "web.default.svc.muster.internal", "A"); out != "127.0.0.1\n" {
			t.Errorf("A at %s: %q", server, out)
		}
		for name, want := range map[string]string{
			"nobody.default.svc.muster.internal": "NXDOMAIN", "svc.muster.internal": "NOERROR", "example.org": "REFUSED",
		} {
			if out := digs(name, "A"); !strings.Contains(out, "status: "+want) {
				t.Errorf("%s at %s isn't %s:\n%s", name, server, want, out)
			}
		}
	}
	// SIGTERM: out of DNS first, then the command is stopped, then the key is gone.
	p.signal(t, syscall.SIGTERM)
	p.wait(t, patience)
	for _, server := range []string{m.DNS, elsewhere} {
		awaitAnswer(t, server, webName, 0)
	}
	cl := connect(t, m.Client)
	if kvs := get(t, cl, "/muster/v1/", clientv3.WithPrefix()).Kvs; len(kvs) > 0 {
		t.Errorf("left behind by an orderly end: %v", kvs)
	}
	if l := must[*clientv3.LeaseLeasesResponse](t)(cl.Leases(within(t, patience))); len(l.Leases) > 0 {
		t.Errorf("leases left behind: %v", l.Leases)
	}
	requireNoTrace(t, "the sidecar", p.Log())
}

func TestTheSidecarRegistersAnewAfterTheClusterWasAway(t *testing.T) {
	c := startCluster(t, 1)
	m := c.Members[0]
	separate := freePort(t)
	start(t, program.NewOutput(), t.TempDir(), nil, muster, "dns", "--endpoints="+m.Client, "--listen="+separate)
	p := sidecar(t, c, "web", "--port=http=8080")
	awaitAnswer(t, m.DNS, webName, 1)
	awaitAnswer(t, separate, webName, 1)

	// Away for longer than the lease is granted for.
	m.Kill()
	away := time.NewTimer(sidecarTTL + time.Second)
	if records, code := ask(separate, webName); records != 1 || code != dns.RcodeSuccess {
		t.Error("a DNS server that has lost the store must answer what it knows")
	}
	<-away.C
	m.Start(t)
	awaitAnswer(t, m.DNS, webName, 1)

	// What was registered is taken away behind the sidecar's back: key and lease.
	cl := connect(t, m.Client)
	for _, l := range must[*clientv3.LeaseLeasesResponse](t)(cl.Leases(within(t, patience))).Leases {
		must[*clientv3.LeaseRevokeResponse](t)(cl.Revoke(within(t, patience), l.ID))
	}
	began := time.Now()
	awaitAnswer(t, m.DNS, webName, 1)
	awaitAnswer(t, separate, webName, 1)
	t.Logf("registered anew %v after the lease was revoked", time.Since(began))

	// The sidecar itself is held up until its lease is gone.
	p.signal(t, syscall.SIGSTOP)
	awaitAnswer(t, m.DNS, webName, 0)
	p.signal(t, syscall.SIGCONT)
	awaitAnswer(t, m.DNS, webName, 1)
	requireNoTrace(t, "the sidecar", p.Log())
}

// report prints measured times.
func report(t *testing.T, what string, d []time.Duration) {
	t.Helper()
	t.Logf("%s: median %v, longest %v", what, median(d).Round(100*time.Microsecond), slices.Max(d).Round(100*time.Microsecond))
}

func median(d []time.Duration) time.Duration { return slices.Sorted(slices.Values(d))[len(d)/2] }
