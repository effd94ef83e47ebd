package dnsserver

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSource is a catalog whose state the test sets.
type fakeSource struct {
	snap  atomic.Pointer[catalog.Snapshot]
	stale atomic.Int64
}

func (f *fakeSource) Snapshot() *catalog.Snapshot { return f.snap.Load() }
func (f *fakeSource) Staleness() time.Duration    { return time.Duration(f.stale.Load()) }

func sourceOf(snap *catalog.Snapshot) *fakeSource {
	f := &fakeSource{}
	f.snap.Store(snap)
	return f
}

// copies makes n instances i0001… of a service with an http endpoint each, and a second
// address family if both is set.
func copies(svc string, n int, both bool) []discovery.Instance {
	var out []discovery.Instance
	for i := range n {
		v4 := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		in := discovery.Instance{
			ID: fmt.Sprintf("i%04d", i), NS: "default", Svc: svc,
			Endpoints: []discovery.Endpoint{{Name: "http", Proto: "tcp", Addr: v4.String(), Port: 8080}},
		}
		if both {
			in.Endpoints = append(in.Endpoints, discovery.Endpoint{
				Name: "grpc", Proto: "tcp", Addr: fmt.Sprintf("2001:db8::%x", i+1), Port: 9090,
			})
		}
		out = append(out, in)
	}
	return out
}

func open(t testing.TB, cfg Config) *Server {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// loop is a responder as one UDP or TCP loop has it, without sockets.
func loop(t testing.TB, src Source, tcp bool) *responder {
	t.Helper()
	cfg := Config{Source: src, Advertise: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}
	cfg.setDefaults()
	z, err := cfg.zone(netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	r := newResponder(z, &cfg, tcp, rand.New(rand.NewPCG(1, 2)))
	r.sync()
	return r
}

// ask sends a message through a responder and unpacks the reply; nil for none.
func (r *responder) ask(t testing.TB, msg []byte) *dns.Msg {
	t.Helper()
	r.sync()
	out := make([]byte, len(r.pack))
	n := r.serve(msg, out)
	if n == 0 {
		return nil
	}
	var m dns.Msg
	if err := m.Unpack(out[:n]); err != nil {
		t.Fatalf("reply to %x can't be unpacked: %v\n%x", msg, err, out[:n])
	}
	return &m
}

type opt func(*dns.Msg)

func edns(size uint16) opt { return func(m *dns.Msg) { m.SetEdns0(size, false) } }

func packed(t testing.TB, name string, qtype uint16, opts ...opt) []byte {
	t.Helper()
	var m dns.Msg
	m.SetQuestion(name, qtype)
	for _, o := range opts {
		o(&m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func dial(t testing.TB, network string, s *Server) *dns.Conn {
	t.Helper()
	c, err := net.Dial(network, s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &dns.Conn{Conn: c, UDPSize: 4096}
}
