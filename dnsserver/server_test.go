package dnsserver

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/catalog"
)

func TestServerAnswersOverUDPAndTCP(t *testing.T) {
	s := open(t, Config{Source: sourceOf(catalog.NewSnapshot(7, copies("web", 3, true)...)), Loops: 2})
	for _, network := range []string{"udp", "tcp"} {
		c := dial(t, network, s)
		for _, q := range []struct {
			name    string
			qtype   uint16
			answers int
		}{{web, dns.TypeA, 3}, {web, dns.TypeAAAA, 3}, {web, dns.TypeSRV, 6}, {"ns.dns.muster.internal.", dns.TypeA, 1}} {
			var m dns.Msg
			m.SetQuestion(q.name, q.qtype).SetEdns0(1232, false)
			if err := c.WriteMsg(&m); err != nil {
				t.Fatal(err)
			}
			got, err := c.ReadMsg()
			if err != nil {
				t.Fatal(err)
			}
			if got.Id != m.Id || len(got.Answer) != q.answers || got.Truncated {
				t.Errorf("%s %s: %v", network, q.name, got)
			}
		}
	}
}

func TestWildcardSocketRepliesFromTheAddressItWasAskedAt(t *testing.T) {
	src := sourceOf(catalog.NewSnapshot(7, copies("web", 1, false)...))
	for _, listen := range []string{"0.0.0.0:0", ":0"} {
		s := open(t, Config{Listen: listen, Source: src})
		for _, ip := range []string{"127.0.0.1", "127.0.0.2", "::1"} {
			if ip == "::1" && listen != ":0" {
				continue
			}
			// A connected socket takes replies only from where it asked.
			conn, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(ip), s.Addr().Port()).String())
			if err != nil {
				t.Skip(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			c := dns.Conn{Conn: conn}
			var m dns.Msg
			if err := c.WriteMsg(m.SetQuestion(web, dns.TypeA)); err != nil {
				t.Fatal(err)
			}
			if got, err := c.ReadMsg(); err != nil || len(got.Answer) != 1 {
				t.Errorf("listening on %s, asked at %s: %v, %v", listen, ip, got, err)
			}
		}
	}
}

func TestTCPQueriesArePipelined(t *testing.T) {
	s := open(t, Config{Source: sourceOf(catalog.NewSnapshot(7, copies("web", 40, true)...))})
	c := dial(t, "tcp", s)
	const queries = 300
	var all []byte
	for id := range queries {
		b := packed(t, web, dns.TypeSRV, func(m *dns.Msg) { m.Id = uint16(id) })
		all = binary.BigEndian.AppendUint16(all, uint16(len(b)))
		all = append(all, b...)
	}
	// In two writes that cut a query in half, all before the first answer is read.
	go func() {
		_, _ = c.Conn.Write(all[:1001])
		_, _ = c.Conn.Write(all[1001:])
	}()
	for id := range queries {
		m, err := c.ReadMsg()
		if err != nil {
			t.Fatalf("reply %d: %v", id, err)
		}
		if m.Id != uint16(id) || len(m.Answer) != 64 || m.Truncated {
			t.Fatalf("reply %d has id %d and %d answers", id, m.Id, len(m.Answer))
		}
	}
}

func TestSilentAndOverlongTCPClientsAreCutOff(t *testing.T) {
	s := open(t, Config{Source: sourceOf(catalog.NewSnapshot(7)), TCPIdle: 50 * time.Millisecond})
	for name, sent := range map[string][]byte{
		"silent": nil, "half a length": {0}, "half a query": {0, 40, 1, 2, 3}, "too long": {0xff, 0xff, 1},
	} {
		c := dial(t, "tcp", s)
		if _, err := c.Conn.Write(sent); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: read gives %v, want the connection closed", name, err)
		}
	}
}

func TestTCPConnectionsAreBounded(t *testing.T) {
	s := open(t, Config{Source: sourceOf(catalog.NewSnapshot(7)), TCPConns: 8, TCPConnsPerIP: 3})
	answers := func(c *dns.Conn) bool {
		var m dns.Msg
		if err := c.WriteMsg(m.SetQuestion("muster.internal.", dns.TypeSOA)); err != nil {
			return false
		}
		_, err := c.ReadMsg()
		return err == nil
	}
	var conns []*dns.Conn
	for range 3 {
		c := dial(t, "tcp", s)
		if !answers(c) {
			t.Fatal("a connection within the bound isn't served")
		}
		conns = append(conns, c)
	}
	if answers(dial(t, "tcp", s)) {
		t.Error("a fourth connection of one address is served")
	}
	_ = conns[0].Close()
	deadline := time.Now().Add(5 * time.Second)
	for !answers(dial(t, "tcp", s)) {
		if time.Now().After(deadline) {
			t.Fatal("no new connection is served after one was closed")
		}
	}
}

func TestPortTakenIsSaidWithARemedy(t *testing.T) {
	src := sourceOf(catalog.NewSnapshot(7))
	first := open(t, Config{Source: src, Loops: 2})
	// Both share ports; the second must notice all the same.
	_, err := Open(t.Context(), Config{Source: src, Loops: 2, Listen: first.Addr().String()})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "listen elsewhere") {
		t.Errorf("got %v", err)
	}
	// Only UDP taken.
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if _, err := Open(t.Context(), Config{Source: src, Listen: pc.LocalAddr().String()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("UDP port taken: got %v", err)
	}
}

func TestBadConfigurationsNameTheFieldAndTheRemedy(t *testing.T) {
	src := sourceOf(nil)
	for field, cfg := range map[string]Config{
		"Source":   {},
		"Listen":   {Source: src, Listen: "localhost:53"},
		"MaxStale": {Source: src, MaxStale: -1},
		"TTL":      {Source: src, TTL: time.Millisecond},
		"Loops":    {Source: src, Loops: -1},
		"zone":     {Source: src, Zone: "."},
	} {
		if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

func TestCloseEndsOpenConnectionsAndMayBeRepeated(t *testing.T) {
	s := open(t, Config{Source: sourceOf(catalog.NewSnapshot(7)), Loops: 3})
	c := dial(t, "tcp", s)
	var m dns.Msg
	if err := c.WriteMsg(m.SetQuestion("muster.internal.", dns.TypeSOA)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadMsg(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlives the server")
	}
	again, err := Open(t.Context(), Config{Source: sourceOf(nil), Listen: s.Addr().String()})
	if err != nil {
		t.Fatalf("the port isn't free after Close: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestManyClientsAskWhileTheCatalogChanges(t *testing.T) {
	src := sourceOf(catalog.NewSnapshot(1, copies("web", 20, true)...))
	s := open(t, Config{Source: src, Loops: 2, Registerer: prometheus.NewRegistry()})
	var stop atomic.Bool
	var churn, clients sync.WaitGroup
	churn.Go(func() {
		for i := 0; !stop.Load(); i++ {
			src.snap.Store(src.Snapshot().WithPolicy(discovery.Service{NS: "default", Name: "web", DNSTTL: uint32(i%100 + 1)}))
			src.stale.Store(int64(i % 2))
		}
	})
	for i := range 6 {
		clients.Go(func() {
			c := dial(t, []string{"udp", "tcp"}[i%2], s)
			for range 300 {
				for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV} {
					var m dns.Msg
					m.SetQuestion(web, qtype).SetEdns0(4096, false)
					if err := c.WriteMsg(&m); err != nil {
						t.Error(err)
						return
					}
					got, err := c.ReadMsg()
					if err != nil || got.Id != m.Id || got.Rcode != dns.RcodeSuccess || len(got.Answer) == 0 {
						t.Errorf("%v, %v", got, err)
						return
					}
					// One snapshot to an answer: its TTLs agree.
					for _, rr := range got.Answer {
						if rr.Header().Ttl != got.Answer[0].Header().Ttl {
							t.Errorf("TTLs of two snapshots in one answer: %v", got)
							return
						}
					}
				}
			}
		})
	}
	clients.Wait()
	stop.Store(true)
	churn.Wait()
}

func TestMetricsCountRepliesByProtoTypeAndRcode(t *testing.T) {
	reg := prometheus.NewRegistry()
	src := sourceOf(catalog.NewSnapshot(7, copies("web", 100, false)...))
	src.stale.Store(int64(2 * time.Second))
	s := open(t, Config{Source: src, Registerer: reg, MaxAnswers: 100})
	udp, tcp := dial(t, "udp", s), dial(t, "tcp", s)
	for _, q := range []struct {
		c     *dns.Conn
		name  string
		qtype uint16
	}{{udp, web, dns.TypeA}, {udp, web, dns.TypeA}, {udp, "nope.muster.internal.", dns.TypeAAAA}, {tcp, "example.com.", dns.TypeNAPTR}} {
		var m dns.Msg
		if err := q.c.WriteMsg(m.SetQuestion(q.name, q.qtype)); err != nil {
			t.Fatal(err)
		}
		if _, err := q.c.ReadMsg(); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]float64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, l := range m.GetLabel() {
				if l.GetName() != "zone" {
					key += " " + l.GetValue()
				}
			}
			got[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for key, want := range map[string]float64{
		"muster_dns_responses_total udp NOERROR A":     2,
		"muster_dns_responses_total udp NXDOMAIN AAAA": 1,
		"muster_dns_responses_total tcp REFUSED other": 1,
		"muster_dns_truncated_total udp":               2,
		"muster_dns_answers_built_total udp":           2,
		"muster_dns_index_revision":                    7,
		"muster_dns_index_staleness_seconds":           2,
		"muster_dns_tcp_connections":                   1,
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v (all: %v)", key, got[key], want, got)
		}
	}
	if _, err := Open(t.Context(), Config{Source: src, Listen: "127.0.0.1:0", Registerer: reg}); err == nil {
		t.Error("two servers of one zone share a registry")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if families, err := reg.Gather(); err != nil || len(families) != 0 {
		t.Errorf("%d metrics after Close, %v", len(families), err)
	}
}
