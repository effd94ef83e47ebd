package dns

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/dnsserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWithoutAStoreItStartsIsNotReadyAndAnswersSERVFAIL(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // nobody listens there in a moment
	if err != nil {
		t.Fatal(err)
	}
	nobody := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	o := options{
		endpoints: []string{nobody}, listen: "127.0.0.1:0", metricsListen: "127.0.0.1:0",
		ttl: time.Second, negativeTTL: time.Second, maxStale: time.Hour,
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type bound struct {
		s    *dnsserver.Server
		http net.Addr
	}
	opened := make(chan bound, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- o.run(ctx, slog.New(slog.DiscardHandler), func(s *dnsserver.Server, a net.Addr) { opened <- bound{s, a} })
	}()
	var b bound
	select {
	case b = <-opened:
	case err := <-ended:
		t.Fatal(err)
	}
	var m dns.Msg
	reply, err := dns.Exchange(m.SetQuestion("web.svc.muster.internal.", dns.TypeA), b.s.Addr().String())
	if err != nil || reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v, %v, want SERVFAIL", reply, err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{
		"/livez": "200 OK ok", "/readyz": "503 Service Unavailable the service index is not synced yet",
		"/metrics": "muster_dns_responses_total",
	} {
		r, err := client.Get(fmt.Sprintf("http://%s%s", b.http, path))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if got := r.Status + " " + string(body); err != nil || !strings.Contains(got, want) {
			t.Errorf("%s: got %.200s, %v, want %s", path, got, err, want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWrongFlagsAreNamed(t *testing.T) {
	for args, want := range map[string]string{
		"--ttl 0s":                  "--ttl",
		"--max-stale -1h":           "--max-stale",
		"--advertise here":          "--advertise",
		"--listen localhost:53":     "Listen",
		"--zone .":                  "zone",
		"--endpoints ftp://x":       "ftp",
		"--metrics-listen 1.2.3.4.": "--metrics-listen",
	} {
		cmd := Command()
		cmd.SetArgs(append([]string{"--listen", "127.0.0.1:0"}, strings.Fields(args)...))
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetErr(io.Discard)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error naming %s", args, err, want)
		}
	}
}
