package dnsserver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/catalog"
)

const web = "web.default.svc.muster.internal."

func TestOddMessagesGetTheirCode(t *testing.T) {
	src := sourceOf(catalog.NewSnapshot(7, copies("web", 3, false)...))
	second := func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }
	for _, c := range []struct {
		name  string
		query []byte
		rcode int
		ede   uint16
	}{
		{"plain", packed(t, web, dns.TypeA), dns.RcodeSuccess, 0},
		{"opcode notify", packed(t, web, dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), dns.RcodeNotImplemented, 0},
		{"opcode update", packed(t, web, dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented, 0},
		{"class CH", packed(t, "version.bind.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused, 0},
		{"class ANY", packed(t, web, dns.TypeA, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }), dns.RcodeRefused, 0},
		{"two questions", packed(t, web, dns.TypeA, second), dns.RcodeFormatError, 0},
		{"no question", packed(t, web, dns.TypeA, func(m *dns.Msg) { m.Question = nil }), dns.RcodeFormatError, 0},
		{"edns version 1", packed(t, web, dns.TypeA, edns(1232), func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }), dns.RcodeBadVers, 0},
		{"two OPTs", packed(t, web, dns.TypeA, edns(1232), edns(512)), dns.RcodeFormatError, 0},
		{"axfr", packed(t, "muster.internal.", dns.TypeAXFR, edns(1232)), dns.RcodeRefused, dns.ExtendedErrorCodeProhibited},
		{"ixfr", packed(t, "muster.internal.", dns.TypeIXFR), dns.RcodeRefused, 0},
		{"foreign", packed(t, "www.example.com.", dns.TypeA, edns(1232)), dns.RcodeRefused, dns.ExtendedErrorCodeNotAuthoritative},
		{"foreign without edns", packed(t, "www.example.com.", dns.TypeA), dns.RcodeRefused, 0},
		{"root", packed(t, ".", dns.TypeNS, edns(1232)), dns.RcodeRefused, dns.ExtendedErrorCodeNotAuthoritative},
		{"suffix that is no parent", packed(t, "xmuster.internal.", dns.TypeA, edns(1232)), dns.RcodeRefused, dns.ExtendedErrorCodeNotAuthoritative},
		{"dots within a label", packed(t, `web\.default.svc.muster.internal.`, dns.TypeA), dns.RcodeNameError, 0},
		{"unknown option", packed(t, web, dns.TypeA, edns(1232), func(m *dns.Msg) {
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
		}), dns.RcodeSuccess, 0},
		{"cookie", packed(t, web, dns.TypeA, edns(1232), func(m *dns.Msg) {
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"})
		}), dns.RcodeSuccess, 0},
		{"signed", packed(t, web, dns.TypeA, func(m *dns.Msg) { m.SetTsig("key.", dns.HmacSHA256, 300, 0) }), dns.RcodeRefused, 0},
		{"pointer for a name", append(packed(t, ".", dns.TypeA)[:12], 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError, 0},
		{"question cut off", packed(t, web, dns.TypeA)[:20], dns.RcodeFormatError, 0},
		{"type cut off", packed(t, ".", dns.TypeA)[:15], dns.RcodeFormatError, 0},
		{"opt cut off", packed(t, web, dns.TypeA, edns(1232))[:len(packed(t, web, dns.TypeA))+4], dns.RcodeFormatError, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := loop(t, src, false).ask(t, c.query)
			if m == nil {
				t.Fatal("no reply")
			}
			got := m.Rcode
			if o := m.IsEdns0(); o != nil {
				got = o.ExtendedRcode() | m.Rcode&0x0f
			}
			if got != c.rcode || edeOf(m) != c.ede {
				t.Errorf("got rcode %d, ede %d, want %d, %d", got, edeOf(m), c.rcode, c.ede)
			}
			if m.Id != binary.BigEndian.Uint16(c.query) || !m.Response || m.RecursionAvailable {
				t.Errorf("header is %+v", m.MsgHdr)
			}
		})
	}
}

func edeOf(m *dns.Msg) uint16 {
	if o := m.IsEdns0(); o != nil {
		for _, e := range o.Option {
			if e, ok := e.(*dns.EDNS0_EDE); ok {
				return e.InfoCode
			}
		}
	}
	return 0
}

func TestResponsesAndScrapsAreDropped(t *testing.T) {
	r := loop(t, sourceOf(catalog.NewSnapshot(7)), false)
	for _, msg := range [][]byte{
		nil,
		{1},
		make([]byte, 11),
		packed(t, web, dns.TypeA, func(m *dns.Msg) { m.Response = true }),
	} {
		if m := r.ask(t, msg); m != nil {
			t.Errorf("%x was answered: %v", msg, m)
		}
	}
	if got := r.counters.dropped.Load(); got != 4 {
		t.Errorf("%d counted as dropped, want 4", got)
	}
}

func TestFlagsOfAReply(t *testing.T) {
	r := loop(t, sourceOf(catalog.NewSnapshot(7, copies("web", 3, false)...)), false)
	for _, rd := range []bool{true, false} {
		for _, do := range []bool{true, false} {
			m := r.ask(t, packed(t, web, dns.TypeA, func(m *dns.Msg) {
				m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = rd, true, true
				m.SetEdns0(4096, do)
			}))
			if !m.Authoritative || m.RecursionDesired != rd || m.RecursionAvailable || m.CheckingDisabled || m.AuthenticatedData || m.Zero {
				t.Errorf("flags are %+v", m.MsgHdr)
			}
			if o := m.IsEdns0(); o == nil || o.Do() != do || o.UDPSize() != maxUDP || o.Version() != 0 {
				t.Errorf("OPT is %v", o)
			}
		}
	}
	if m := r.ask(t, packed(t, web, dns.TypeA)); m.IsEdns0() != nil {
		t.Error("an OPT for a client that sent none")
	}
}

func TestQuestionIsEchoedByteForByteAndOwnersFollowItsCase(t *testing.T) {
	src := sourceOf(catalog.NewSnapshot(7, copies("web", 3, false)...))
	for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeTXT, dns.TypeANY} {
		r := loop(t, src, false)
		for _, name := range []string{"wEb.DEFAULT.sVc.muSter.InternaL.", web, strings.ToUpper(web)} {
			query := packed(t, name, qtype, edns(1232))
			out := make([]byte, maxUDP)
			n := r.serve(query, out)
			end := len(query) - 11
			if !bytes.Equal(out[12:end], query[12:end]) {
				t.Fatalf("question %x came back as %x", query[12:end], out[12:end])
			}
			var m dns.Msg
			if err := m.Unpack(out[:n]); err != nil {
				t.Fatal(err)
			}
			for _, rr := range m.Answer {
				if rr.Header().Name != name {
					t.Errorf("asked for %s, owner is %s", name, rr.Header().Name)
				}
			}
			for _, rr := range m.Ns {
				if !strings.HasSuffix(name, rr.Header().Name) {
					t.Errorf("asked for %s, authority's owner is %s", name, rr.Header().Name)
				}
			}
		}
	}
}

func TestNothingIsAnsweredOrDeniedBeforeTheFirstSync(t *testing.T) {
	src := &fakeSource{}
	src.stale.Store(int64(time.Hour))
	r := loop(t, src, false)
	for _, name := range []string{web, "muster.internal.", "nope.muster.internal."} {
		m := r.ask(t, packed(t, name, dns.TypeA, edns(1232)))
		if m.Rcode != dns.RcodeServerFailure || edeOf(m) != dns.ExtendedErrorCodeNotReady {
			t.Errorf("%s: got %s with ede %d, want SERVFAIL with 14", name, dns.RcodeToString[m.Rcode], edeOf(m))
		}
	}
	if m := r.ask(t, packed(t, "example.com.", dns.TypeA)); m.Rcode != dns.RcodeRefused {
		t.Errorf("foreign name: got %s, want REFUSED", dns.RcodeToString[m.Rcode])
	}
	src.snap.Store(catalog.NewSnapshot(1, copies("web", 1, false)...))
	src.stale.Store(0)
	if m := r.ask(t, packed(t, web, dns.TypeA, edns(1232))); m.Rcode != dns.RcodeSuccess || edeOf(m) != 0 || len(m.Answer) != 1 {
		t.Errorf("after the sync: %v", m)
	}
}

func TestStaleAnswersAreMarkedAndEndAtMaxStale(t *testing.T) {
	src := sourceOf(catalog.NewSnapshot(1, copies("web", 1, false)...))
	r := loop(t, src, false)
	check := func(name string, rcode int, ede uint16) {
		t.Helper()
		m := r.ask(t, packed(t, name, dns.TypeA, edns(1232)))
		if m.Rcode != rcode || edeOf(m) != ede {
			t.Errorf("%s at staleness %v: got %s with ede %d, want %s with %d", name, src.Staleness(),
				dns.RcodeToString[m.Rcode], edeOf(m), dns.RcodeToString[rcode], ede)
		}
	}
	check(web, dns.RcodeSuccess, 0)
	src.stale.Store(int64(time.Second))
	check(web, dns.RcodeSuccess, dns.ExtendedErrorCodeStaleAnswer)
	check("nope.muster.internal.", dns.RcodeNameError, dns.ExtendedErrorCodeStaleNXDOMAINAnswer)
	src.stale.Store(int64(24 * time.Hour))
	check(web, dns.RcodeSuccess, dns.ExtendedErrorCodeStaleAnswer)
	src.stale.Store(int64(24*time.Hour + 1))
	check(web, dns.RcodeServerFailure, dns.ExtendedErrorCodeNotReady)
	check("example.com.", dns.RcodeRefused, dns.ExtendedErrorCodeNotAuthoritative)
	src.stale.Store(0)
	check(web, dns.RcodeSuccess, 0)
}

func TestAChangeIsAnsweredAtOnceAndOthersKeepTheirCache(t *testing.T) {
	src := sourceOf(catalog.NewSnapshot(1, append(copies("web", 1, false), copies("api", 1, false)...)...))
	r := loop(t, src, false)
	api := "api.default.svc.muster.internal."
	for _, name := range []string{web, api, "nope.default.svc.muster.internal."} {
		r.ask(t, packed(t, name, dns.TypeA))
	}
	built := r.counters.built.Load()
	src.snap.Store(src.Snapshot().WithHealth(discovery.Ref{NS: "default", Svc: "web", ID: "i0000"}, &discovery.Health{Status: discovery.StatusCritical}))
	if m := r.ask(t, packed(t, web, dns.TypeA)); len(m.Answer) != 0 || len(m.Ns) != 1 {
		t.Errorf("a critical instance is answered: %v", m)
	}
	if m := r.ask(t, packed(t, api, dns.TypeA)); len(m.Answer) != 1 {
		t.Errorf("the other service lost its instance: %v", m)
	}
	r.ask(t, packed(t, "nope.default.svc.muster.internal.", dns.TypeA))
	if got := r.counters.built.Load() - built; got != 1 {
		t.Errorf("%d answers were built after one service changed, want 1", got)
	}
}

func TestCachedDenialsShowTheSerialOfNow(t *testing.T) {
	src := sourceOf(catalog.NewSnapshot(5))
	r := loop(t, src, false)
	for _, rev := range []int64{5, 6, 1<<32 + 9} {
		src.snap.Store(catalog.NewSnapshot(rev))
		for _, q := range []struct {
			name  string
			qtype uint16
		}{{"nope.muster.internal.", dns.TypeA}, {"svc.muster.internal.", dns.TypeA}, {"muster.internal.", dns.TypeSOA}} {
			m := r.ask(t, packed(t, q.name, q.qtype, edns(1232)))
			soa := append(m.Answer, m.Ns...)[0].(*dns.SOA)
			if soa.Serial != uint32(rev) {
				t.Errorf("%s at revision %d: serial %d", q.name, rev, soa.Serial)
			}
			if soa.Hdr.Ttl != 5 || soa.Minttl != 5 {
				t.Errorf("%s: SOA may be kept for %d and %d s, want 5", q.name, soa.Hdr.Ttl, soa.Minttl)
			}
		}
	}
}

// TestSizeMatrix asks for 1 to 5000 instances over every transport and size, of a service
// that leaves nothing out by sampling.
func TestSizeMatrix(t *testing.T) {
	type transport struct {
		tcp  bool
		size int // of EDNS, 0 for none
	}
	transports := []transport{{false, 0}, {true, 0}, {true, 1232}}
	for _, size := range []int{0, 100, 511, 512, 513, 700, 1000, 1231, 1232, 1233, 4096, 65535} {
		transports = append(transports, transport{false, size})
	}
	counts := []int{1, 2, 5, 10, 15, 16, 17, 20, 25, 28, 29, 30, 31, 32, 40, 60, 70, 71, 72, 73, 74, 75, 76, 77, 100, 500, 1000, 2000, 5000}
	if testing.Short() {
		counts = []int{1, 29, 73, 1000}
	}
	for _, n := range counts {
		snap := catalog.NewSnapshot(7, copies("web", n, true)...).
			WithPolicy(discovery.Service{NS: "default", Name: "web", MaxAnswers: 100000})
		udp, tcp := loop(t, sourceOf(snap), false), loop(t, sourceOf(snap), true)
		for _, tr := range transports {
			for qtype, all := range map[uint16]int{dns.TypeA: n, dns.TypeAAAA: n, dns.TypeSRV: 2 * n} {
				var opts []opt
				if tr.size > 0 {
					opts = append(opts, edns(uint16(tr.size)))
				}
				r, limit := udp, 512
				if tr.size > 0 {
					limit = min(max(tr.size, 512), 1232)
				}
				if tr.tcp {
					r, limit = tcp, 65535
				}
				out := make([]byte, maxTCP)
				for range 2 { // built, then cached
					size := r.serve(packed(t, web, qtype, opts...), out)
					var m dns.Msg
					if err := m.Unpack(out[:size]); err != nil {
						t.Fatal(err)
					}
					where := fmt.Sprintf("%d instances, type %d, %+v: %d bytes, %d answers, %d additional", n, qtype, tr, size, len(m.Answer), len(m.Extra))
					if size > limit {
						t.Errorf("%s: above %d", where, limit)
					}
					if trimmed := len(m.Answer) < all; m.Truncated != trimmed {
						t.Errorf("%s: TC is %v", where, m.Truncated)
					}
					if len(m.Answer) == 0 {
						t.Errorf("%s: nothing answered", where)
					}
					if (m.IsEdns0() != nil) != (tr.size > 0) {
						t.Errorf("%s: OPT where none was sent, or none where one was", where)
					}
					if m.Truncated && len(m.Extra) > 1 {
						t.Errorf("%s: additional records while answers are missing", where)
					}
					if next := 28 + 60; m.Truncated && size+next < limit-staleSize {
						t.Errorf("%s: room for more", where)
					}
				}
			}
		}
	}
}

func TestAboveMaxAnswersASampleIsAnsweredWithoutTC(t *testing.T) {
	r := loop(t, sourceOf(catalog.NewSnapshot(7, copies("web", 300, false)...)), true)
	for qtype, want := range map[uint16]int{dns.TypeA: 16, dns.TypeSRV: 64} {
		seen := map[string]bool{}
		for range 2000 {
			m := r.ask(t, packed(t, web, qtype, edns(1232)))
			if len(m.Answer) != want || m.Truncated {
				t.Fatalf("type %d: %d answers, TC %v, want %d without", qtype, len(m.Answer), m.Truncated, want)
			}
			for _, rr := range m.Answer {
				seen[rr.String()] = true
			}
		}
		if qtype == dns.TypeA && len(seen) != 300 {
			t.Errorf("only %d of 300 instances were ever answered", len(seen))
		}
		if qtype == dns.TypeSRV && len(seen) <= want {
			t.Error("the sample of SRV records is never drawn anew")
		}
	}
}

func TestEachAddressComesFirstEquallyOften(t *testing.T) {
	r := loop(t, sourceOf(catalog.NewSnapshot(7, copies("web", 4, false)...)), false)
	first := map[string]int{}
	msg := packed(t, web, dns.TypeA)
	const asked = 4000
	for range asked {
		first[r.ask(t, msg).Answer[0].(*dns.A).A.String()]++
	}
	for ip, n := range first {
		if n < asked/4-150 || n > asked/4+150 { // 5.5 standard deviations, and a fixed seed
			t.Errorf("%s came first %d times of %d", ip, n, asked)
		}
	}
	if len(first) != 4 {
		t.Errorf("first were %v", first)
	}
}

func TestCachesStayWithinTheirBounds(t *testing.T) {
	src := sourceOf(catalog.NewSnapshot(7, copies("web", 200, false)...))
	r := loop(t, src, false)
	r.cache.maxBytes = 8 << 10
	for i := range 3 * maxNegative {
		r.ask(t, packed(t, fmt.Sprintf("n%d.svc.muster.internal.", i), dns.TypeA))
		if i < 400 {
			r.ask(t, packed(t, fmt.Sprintf("i%04d.web.default.svc.muster.internal.", i%200), []uint16{dns.TypeA, dns.TypeANY}[i/200], edns(1232)))
		}
		sum := 0
		for k, e := range r.cache.positive {
			sum += e.cost(k)
		}
		if len(r.cache.negative) > maxNegative || sum > r.cache.maxBytes || sum != r.cache.bytes {
			t.Fatalf("%d denials, %d bytes of answers (counted as %d)", len(r.cache.negative), sum, r.cache.bytes)
		}
	}
}

func TestFastQueriesAllocateNothing(t *testing.T) {
	r := loop(t, sourceOf(catalog.NewSnapshot(7, copies("web", 100, true)...)), false)
	out := make([]byte, maxUDP)
	for _, name := range []string{web, "i0001." + web, "nope.muster.internal.", "svc.muster.internal."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT} {
			for _, opts := range [][]opt{nil, {edns(1232)}, {edns(4096)}} {
				msg := packed(t, name, qtype, opts...)
				r.serve(msg, out)
				if n := testing.AllocsPerRun(200, func() { r.sync(); r.serve(msg, out) }); n != 0 {
					t.Errorf("%s %d, %d options: %v allocations", name, qtype, len(opts), n)
				}
			}
		}
	}
}

func sortedStrings(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, rr.String())
		}
	}
	slices.Sort(out)
	return out
}
