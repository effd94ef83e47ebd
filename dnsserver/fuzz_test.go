package dnsserver

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/catalog"
	"github.com/musterhq/muster/dnsserver/answer"
)

// expected is what the reference, made of nothing but miekg/dns and answer.Build, wants of
// a reply: the sections in full, from which a reply may leave out what sizes and samples say.
type expected struct {
	drop    bool
	rcode   int
	ede     uint16
	answers []string
	most    int // how many of answers a reply without TC holds
	ns      []string
	extra   []string
	edns    bool
	limit   int
}

func reference(z *answer.Zone, src Source, msg []byte, tcp bool) expected {
	if len(msg) < 12 || msg[2]&0x80 != 0 {
		return expected{drop: true}
	}
	want := expected{limit: 512}
	if tcp {
		want.limit = 65535
	}
	var m dns.Msg
	err := m.Unpack(msg)
	if err == nil && binary.BigEndian.Uint16(msg[4:]) == 1 && len(m.Question) == 0 {
		err = dns.ErrBuf // package dns lets a message end after its header
	}
	// The rest of a message of another opcode isn't looked at.
	if msg[2]&0x78 != 0 {
		want.rcode = dns.RcodeNotImplemented
		return want
	}
	opts := 0
	if err == nil {
		for _, rr := range m.Extra {
			if _, ok := rr.(*dns.OPT); ok {
				opts++
			}
		}
	}
	if err != nil || len(m.Question) != 1 || opts > 1 {
		want.rcode = dns.RcodeFormatError
		return want
	}
	o := m.IsEdns0()
	ede := func(code uint16) {
		if o != nil {
			want.ede = code
		}
	}
	if o != nil {
		want.edns = true
		if !tcp {
			want.limit = min(max(int(o.UDPSize()), 512), 1232)
		}
	}
	q := m.Question[0]
	signed := slices.ContainsFunc(m.Extra, func(rr dns.RR) bool {
		t := rr.Header().Rrtype
		return t == dns.TypeTSIG || t == dns.TypeSIG
	})
	name := strings.ToLower(q.Name)
	switch {
	case o != nil && o.Version() != 0:
		want.rcode = dns.RcodeBadVers
	case q.Qclass != dns.ClassINET:
		want.rcode = dns.RcodeRefused
	case q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR:
		want.rcode = dns.RcodeRefused
		ede(dns.ExtendedErrorCodeProhibited)
	case signed:
		want.rcode = dns.RcodeRefused
		ede(dns.ExtendedErrorCodeNotSupported)
	case !dns.IsSubDomain(z.Origin(), name):
		want.rcode = dns.RcodeRefused
		ede(dns.ExtendedErrorCodeNotAuthoritative)
	case src.Snapshot() == nil || src.Staleness() > 24*time.Hour:
		want.rcode = dns.RcodeServerFailure
		ede(dns.ExtendedErrorCodeNotReady)
	default:
		if strings.Contains(name, `\`) {
			name = "?." + z.Origin() // no name of ours needs escaping
		}
		a := z.Build(src.Snapshot(), answer.Question{Name: name, Type: q.Qtype})
		want.rcode = a.Rcode
		want.answers = lowerAll(sortedStrings(append(slices.Clone(a.Chain), a.Records...)))
		want.most = len(want.answers)
		if a.Max > 0 {
			want.most = min(want.most, len(a.Chain)+a.Max)
		}
		want.ns = lowerAll(sortedStrings(a.Authority))
		for _, g := range a.Glue {
			want.extra = append(want.extra, lowerAll(sortedStrings(g))...)
		}
		if src.Staleness() > 0 {
			ede(dns.ExtendedErrorCodeStaleAnswer)
			if a.Rcode == dns.RcodeNameError {
				ede(dns.ExtendedErrorCodeStaleNXDOMAINAnswer)
			}
		}
	}
	return want
}

func lowerAll(ss []string) []string {
	for i := range ss {
		ss[i] = strings.ToLower(ss[i])
	}
	return ss
}

// compare says what about the reply isn't as the reference wants it, "" if nothing.
func compare(want expected, query, reply []byte) string {
	if want.drop || len(reply) == 0 {
		if want.drop != (len(reply) == 0) {
			return fmt.Sprintf("dropped: %v, want %v", len(reply) == 0, want.drop)
		}
		return ""
	}
	var m dns.Msg
	if err := m.Unpack(reply); err != nil {
		return fmt.Sprintf("can't be unpacked: %v", err)
	}
	got := m.Rcode
	o := m.IsEdns0()
	if o != nil {
		got = o.ExtendedRcode() | m.Rcode&0x0f
	}
	answers, extra := lowerAll(sortedStrings(m.Answer)), lowerAll(sortedStrings(m.Extra))
	switch {
	case m.Id != binary.BigEndian.Uint16(query) || !m.Response || m.Opcode != int(query[2]>>3&15):
		return fmt.Sprintf("header %+v", m.MsgHdr)
	case len(reply) > want.limit:
		return fmt.Sprintf("%d bytes, limit %d", len(reply), want.limit)
	case got != want.rcode:
		return fmt.Sprintf("rcode %d, want %d", got, want.rcode)
	case (o != nil) != want.edns:
		return fmt.Sprintf("OPT %v, want one: %v", o, want.edns)
	case edeOf(&m) != want.ede:
		return fmt.Sprintf("ede %d, want %d", edeOf(&m), want.ede)
	case len(m.Question) == 1 && !bytes.HasPrefix(query[12:], reply[12:12+questionLen(reply)]):
		return "question isn't the one asked"
	case !subset(answers, want.answers):
		return fmt.Sprintf("answers %q aren't among %q", answers, want.answers)
	case m.Truncated != (len(answers) < want.most):
		return fmt.Sprintf("%d answers of %d, TC %v", len(answers), want.most, m.Truncated)
	case !m.Truncated && !slices.Equal(lowerAll(sortedStrings(m.Ns)), want.ns):
		return fmt.Sprintf("authority %q, want %q", m.Ns, want.ns)
	case !subset(extra, want.extra):
		return fmt.Sprintf("additional %q isn't among %q", extra, want.extra)
	}
	return ""
}

func questionLen(msg []byte) int {
	var q query
	if !(&q).parseAll(msg) {
		return 0
	}
	return q.end - 12
}

// parseAll parses the question of any message.
func (q *query) parseAll(msg []byte) bool {
	q.msg = msg
	return q.question()
}

// subset reports whether got, without repetition, is part of all.
func subset(got, all []string) bool {
	for i, s := range got {
		if i > 0 && got[i-1] == s || !slices.Contains(all, s) {
			return false
		}
	}
	return true
}

// world is a snapshot with something of everything.
func world() *catalog.Snapshot {
	in := append(copies("web", 5, true), copies("big", 200, true)...)
	in = append(in, []discovery.Instance{
		{
			ID: "h1", NS: "prod", Svc: "db", Meta: map[string]string{"a": "b", "long": strings.Repeat(`x\"`, 200)},
			Endpoints: []discovery.Endpoint{{Name: "pg", Addr: "10.0.0.9", Port: 5432}}, Weight: 7,
		},
		{ID: "e1", NS: "default", Svc: "ext", Endpoints: []discovery.Endpoint{{Name: "x", Addr: "Db.Example.com", Port: 1}}},
		{ID: "e1", NS: "default", Svc: "alias", Endpoints: []discovery.Endpoint{{Name: "x", Addr: "big.svc.muster.internal", Port: 1}}},
		{ID: "e1", NS: "default", Svc: "loop", Endpoints: []discovery.Endpoint{{Name: "x", Addr: "loop.svc.muster.internal", Port: 1}}},
	}...)
	return catalog.NewSnapshot(77, in...).
		WithPolicy(discovery.Service{NS: "default", Name: "big", MaxAnswers: 150}).
		WithPolicy(discovery.Service{NS: "default", Name: "strict", EmptyAnswer: discovery.EmptyAnswerNXDomain})
}

var fuzzNames = []string{
	web, "web.svc.muster.internal.", "WeB.svc.MUSTER.internal.", "big.svc.muster.internal.", "db.prod.svc.muster.internal.",
	"_http._tcp.web.svc.muster.internal.", "_http._tcp.big.default.svc.muster.internal.", "_tcp.web.svc.muster.internal.",
	"h1.db.prod.svc.muster.internal.", "i0003.web.default.svc.muster.internal.", "ext.svc.muster.internal.",
	"alias.svc.muster.internal.", "loop.svc.muster.internal.", "strict.svc.muster.internal.", "muster.internal.",
	"svc.muster.internal.", "dns.muster.internal.", "ns.dns.muster.internal.", "dns-version.muster.internal.",
	"default.svc.muster.internal.", "nope.svc.muster.internal.", `a\.b.svc.muster.internal.`, `\000.muster.internal.`,
	"example.com.", ".", "internal.",
	strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("b", 45) + ".muster.internal.",
}

var fuzzTypes = []uint16{
	dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypeCNAME, dns.TypeNS, dns.TypeSOA, dns.TypeANY, dns.TypePTR,
	dns.TypeHTTPS, dns.TypeDS, dns.TypeOPT, dns.TypeAXFR, 0, 65535,
}

func randomQuery(t testing.TB, rnd *rand.Rand) []byte {
	pick := func(chance int) bool { return rnd.IntN(chance) == 0 }
	return packed(t, fuzzNames[rnd.IntN(len(fuzzNames))], fuzzTypes[rnd.IntN(len(fuzzTypes))], func(m *dns.Msg) {
		m.Id = uint16(rnd.Uint32())
		m.RecursionDesired, m.CheckingDisabled = pick(2), pick(2)
		if !pick(3) {
			m.SetEdns0(uint16([]int{0, 512, 600, 900, 1232, 4096}[rnd.IntN(6)]), pick(2))
			if pick(4) {
				o := m.IsEdns0()
				o.Option = append(o.Option, []dns.EDNS0{
					&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
					&dns.EDNS0_NSID{Code: dns.EDNS0NSID},
					&dns.EDNS0_PADDING{Padding: make([]byte, 20)},
				}[rnd.IntN(3)])
			}
			if pick(20) {
				m.IsEdns0().SetVersion(1)
			}
			if pick(20) {
				m.Extra = append(m.Extra, m.Extra[0])
			}
		}
		if pick(30) {
			m.Question[0].Qclass = uint16(rnd.IntN(5))
		}
		if pick(30) {
			m.Opcode = rnd.IntN(7)
		}
		if pick(30) {
			m.SetTsig("key.", dns.HmacSHA256, 300, 0)
		}
		if pick(30) {
			m.Ns = append(m.Ns, &dns.NS{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeNS, Class: 1}, Ns: "."})
		}
	})
}

// TestRepliesAgreeWithTheReference is the differential test of the packed, cached way
// against unpacking, building and comparing with miekg/dns alone.
func TestRepliesAgreeWithTheReference(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 12))
	rounds := 30000
	if testing.Short() {
		rounds = 3000
	}
	src := sourceOf(world())
	for _, tcp := range []bool{false, true} {
		r := loop(t, src, tcp)
		out := make([]byte, len(r.pack))
		for i := range rounds {
			switch rnd.IntN(500) {
			case 0:
				src.stale.Store(int64([]time.Duration{0, time.Minute, 25 * time.Hour}[rnd.IntN(3)]))
			case 1:
				src.snap.Store(src.Snapshot().WithPolicy(discovery.Service{
					NS: "default", Name: []string{"web", "big", "nope"}[rnd.IntN(3)],
					DNSTTL: rnd.Uint32N(9), MaxAnswers: rnd.Uint32N(300),
				}))
			case 2:
				src.snap.Store(world())
			}
			msg := randomQuery(t, rnd)
			want := reference(r.zone, src, msg, tcp)
			r.sync()
			n := r.serve(msg, out)
			if diff := compare(want, msg, out[:n]); diff != "" {
				t.Fatalf("query %d of seed (11, 12), tcp %v: %s\nquery %s\nreply %s", i, tcp, diff, hex.EncodeToString(msg), hex.EncodeToString(out[:n]))
			}
		}
		src.stale.Store(0)
	}
}

// FuzzServe throws bytes at a responder: nothing may panic, and what miekg/dns makes of the
// same bytes must be what is answered.
func FuzzServe(f *testing.F) {
	rnd := rand.New(rand.NewPCG(13, 14))
	for range 200 {
		f.Add(randomQuery(f, rnd), false)
	}
	f.Add([]byte{}, true)
	f.Add(bytes.Repeat([]byte{0xc0}, 40), false)
	f.Add(append(packed(f, ".", dns.TypeA)[:12], 0xc0, 12, 0, 1, 0, 1), true)
	src := sourceOf(world())
	f.Fuzz(func(t *testing.T, msg []byte, tcp bool) {
		if len(msg) > maxQuery {
			return
		}
		r := loop(t, src, tcp)
		out := make([]byte, len(r.pack))
		for range 2 {
			n := r.serve(msg, out)
			if n > 0 && n < 12 || n > len(out) {
				t.Fatalf("reply of %d bytes", n)
			}
			var q query
			if len(msg) >= 12 && binary.BigEndian.Uint16(msg[4:]) == 1 && !q.parseAll(msg) {
				if n > 0 && out[3]&15 != dns.RcodeFormatError {
					t.Fatalf("rcode %d for a question that can't be read", out[3]&15)
				}
				continue // a compressed question name, which package dns takes
			}
			if diff := compare(reference(r.zone, src, msg, tcp), msg, out[:n]); diff != "" {
				t.Fatalf("%s\nquery %x\nreply %x", diff, msg, out[:n])
			}
		}
	})
}

// FuzzAnyRegistration serves whatever stands in the registry, written by hand perhaps: replies can be read and keep to
// their size, and what is valid is served in full.
func FuzzAnyRegistration(f *testing.F) {
	ref := discovery.Ref{NS: "default", Svc: "web", ID: "x"}
	for _, in := range []string{
		`{"endpoints":[{"name":"http","proto":"tcp","addr":"10.0.0.7","port":8080},{"name":"grpc","addr":"2001:db8::1","port":9}],"meta":{"a":"b"},"weight":7}`,
		`{"endpoints":[{"name":"http","addr":"Db.Example.com","port":5432}]}`,
		`{"endpoints":[{"name":"http","addr":"x.web.default.svc.muster.internal","port":1}],"priority":99999}`,
		`{"endpoints":[{"name":"http","addr":"` + strings.Repeat("a", 64) + `.b","port":1}]}`,
		`{"endpoints":[{"name":"http","addr":"a..b","port":70000},{"name":"_","addr":"","port":0}]}`,
		`{"endpoints":[{"name":"http","addr":"fe80::1%eth0","port":1},{"addr":"::ffff:10.0.0.1","port":1}]}`,
		`{"endpoints":[{"name":"http","addr":"a\\\\.b\\\"","port":1}],"meta":{"\\":"` + strings.Repeat(`\\`, 300) + `"}}`,
	} {
		f.Add([]byte(in), []byte(`{"dns_ttl":4294967295,"max_answers":1}`), "_http._tcp.web.svc.muster.internal.", dns.TypeSRV, uint16(512))
		f.Add([]byte(in), []byte(`{"empty_answer":"nxdomain"}`), "web.svc.muster.internal.", dns.TypeA, uint16(1232))
		f.Add([]byte(in), []byte(`{}`), "x.web.default.svc.muster.internal.", dns.TypeTXT, uint16(0))
		f.Add([]byte(in), []byte(``), "web.default.svc.muster.internal.", dns.TypeANY, uint16(700))
	}
	f.Fuzz(func(t *testing.T, record, policy []byte, name string, qtype, size uint16) {
		in, err := discovery.DecodeInstance(ref, record)
		if err != nil {
			return
		}
		p, perr := discovery.DecodeService(ref.NS, ref.Svc, policy)
		snap := catalog.NewSnapshot(7, in)
		if perr == nil {
			snap = snap.WithPolicy(p)
		}
		var m dns.Msg
		m.SetQuestion(dns.Fqdn(name), qtype)
		if size > 0 {
			m.SetEdns0(size, false)
		}
		msg, err := m.Pack()
		if err != nil || len(msg) > maxQuery {
			return
		}
		n := in
		n.Normalize()
		valid := n.Validate(discovery.Naming{}) == nil && (perr != nil || p.Validate() == nil)
		src := sourceOf(snap)
		for _, tcp := range []bool{false, true} {
			r := loop(t, src, tcp)
			out := make([]byte, len(r.pack))
			for range 2 { // built, then from the cache
				got := out[:r.serve(msg, out)]
				if valid {
					if diff := compare(reference(r.zone, src, msg, tcp), msg, got); diff != "" {
						t.Fatalf("tcp %v: %s\nquery %x\nreply %x", tcp, diff, msg, got)
					}
					continue
				}
				want := reference(r.zone, src, msg, tcp)
				var reply dns.Msg
				if err := reply.Unpack(got); err != nil || len(got) > want.limit || reply.Id != m.Id {
					t.Fatalf("tcp %v: a reply of %d bytes, at most %d: %v\nquery %x\nreply %x", tcp, len(got), want.limit, err, msg, got)
				}
			}
		}
	})
}
