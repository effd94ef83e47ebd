package dnsload

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers every query but each lose-th (0: all), with NXDOMAIN for other than A.
func server(t *testing.T, lose int) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		for i := 1; ; i++ {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m, r dns.Msg
			if err := m.Unpack(buf[:n]); err != nil {
				t.Errorf("query can't be unpacked: %v", err)
				continue
			}
			if lose > 0 && i%lose == 0 {
				continue
			}
			r.SetReply(&m)
			if m.Question[0].Qtype != dns.TypeA {
				r.Rcode = dns.RcodeNameError
			}
			b, err := r.Pack()
			if err != nil {
				t.Error(err)
			}
			_, _ = pc.WriteTo(b, from)
		}
	}()
	t.Cleanup(func() { _ = pc.Close(); <-done })
	return pc.LocalAddr().String()
}

func TestRunSendsTheTotalAndCountsEveryReply(t *testing.T) {
	for _, cfg := range []Config{{}, {Connections: 3, Window: 7}, {Connections: 1, Window: 1000}, {Connections: 2, UDPSize: 1232}} {
		cfg.Addr, cfg.Names, cfg.Types, cfg.Total = server(t, 0), []string{"a.example.", "b.example"}, []uint16{dns.TypeA, dns.TypeSRV}, 2001
		cfg.Timeout = 200 * time.Millisecond
		r, err := Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		// A loaded machine may drop datagrams at the test's server; none may go uncounted.
		if r.Sent != 2001 || r.Received+r.Lost != 2001 || r.Latency.Count() != r.Received {
			t.Errorf("%+v: sent %d, received %d, lost %d, timed %d", cfg, r.Sent, r.Received, r.Lost, r.Latency.Count())
		}
		if r.Lost == 0 && (r.Rcodes["NOERROR"] < 900 || r.Rcodes["NXDOMAIN"] < 900) {
			t.Errorf("response codes %v", r.Rcodes)
		}
		if r.QPS() <= 0 || r.Bytes == 0 {
			t.Errorf("%v q/s, %d bytes", r.QPS(), r.Bytes)
		}
	}
}

func TestLostQueriesAreCountedAndDoNotStopTheRun(t *testing.T) {
	r, err := Run(t.Context(), Config{Addr: server(t, 10), Names: []string{"a."}, Total: 200, Window: 20, Connections: 1, Timeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.Lost < 20 || r.Received+r.Lost != 200 {
		t.Errorf("received %d, lost %d of 200, every tenth unanswered", r.Received, r.Lost)
	}
}

func TestDurationAndCancellationEndARun(t *testing.T) {
	addr := server(t, 0)
	r, err := Run(t.Context(), Config{Addr: addr, Names: []string{"a."}, Duration: 30 * time.Millisecond})
	if err != nil || r.Received == 0 || r.Elapsed > 5*time.Second {
		t.Errorf("received %d in %v, %v", r.Received, r.Elapsed, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := Run(ctx, Config{Addr: addr, Names: []string{"a."}, Total: 1 << 40}); err != nil || r.Sent != 0 {
		t.Errorf("a run cancelled before its start: sent %d, %v", r.Sent, err)
	}
}

func TestConfigurationsThatCanNotRunAreRefused(t *testing.T) {
	for _, cfg := range []Config{
		{Addr: "127.0.0.1:53", Total: 1},
		{Addr: "127.0.0.1:53", Names: []string{"a."}},
		{Addr: "localhost:53", Names: []string{"a."}, Total: 1},
		{Addr: "127.0.0.1:53", Names: []string{"a..b."}, Total: 1},
		{Addr: "127.0.0.1:53", Names: []string{"a."}, Total: 1, Window: 5000},
	} {
		if _, err := Run(t.Context(), cfg); err == nil {
			t.Errorf("%+v ran", cfg)
		}
	}
}
