package answer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/miekg/dns"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/catalog"
)

func testZone(t testing.TB) *Zone {
	t.Helper()
	z, err := NewZone(Config{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// TestZoneFiles runs testdata: "snapshot" gives the registrations, "ask" the questions,
// answered as zone-file lines.
func TestZoneFiles(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		z := testZone(t)
		var snap *catalog.Snapshot
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "snapshot":
				rev := 1
				d.MaybeScanArgs(t, "rev", &rev)
				var err error
				if snap, err = parseSnapshot(int64(rev), d.Input); err != nil {
					d.Fatalf(t, "%v", err)
				}
				return ""
			case "ask":
				var out strings.Builder
				for line := range strings.Lines(d.Input) {
					f := strings.Fields(line)
					if len(f) != 2 || dns.StringToType[f[1]] == 0 {
						d.Fatalf(t, "question %q: want a name and a type", line)
					}
					q := Question{Name: absolute(z, f[0]), Type: dns.StringToType[f[1]]}
					fmt.Fprintf(&out, "; %s %s\n%s", q.Name, f[1], render(z.Build(snap, q)))
				}
				return out.String()
			}
			d.Fatalf(t, "unknown command %q", d.Cmd)
			return ""
		})
	})
}

func absolute(z *Zone, name string) string {
	switch {
	case name == "@":
		return z.Origin()
	case strings.HasSuffix(name, "."):
		return name
	}
	return name + "." + z.Origin()
}

func render(a *Answer) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s", dns.RcodeToString[a.Rcode])
	if a.Max > 0 && a.Max < len(a.Records) {
		fmt.Fprintf(&out, " sample=%d weights=%v tiers=%v", a.Max, a.Weights, a.Tiers)
	}
	out.WriteByte('\n')
	section := func(mark string, rrs []dns.RR) {
		for _, rr := range rrs {
			fmt.Fprintf(&out, "%s%s\n", mark, strings.Join(strings.Fields(rr.String()), " "))
		}
	}
	section("", a.Chain)
	section("", a.Records)
	section("authority: ", a.Authority)
	seen := map[string]bool{}
	for _, glue := range a.Glue {
		if len(glue) > 0 && !seen[glue[0].Header().Name] {
			seen[glue[0].Header().Name] = true
			section("additional: ", glue)
		}
	}
	return out.String()
}

// parseSnapshot reads lines
//
//	inst ns/svc/id [status] addr:port/name[/proto] … [weight=n] [priority=n] [meta=k=v]
//	policy ns/svc [ttl=n] [max=n] [empty=nxdomain]
func parseSnapshot(rev int64, text string) (*catalog.Snapshot, error) {
	var instances []discovery.Instance
	var policies []discovery.Service
	health := map[discovery.Ref]discovery.Status{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] == "#" {
			continue
		}
		name := strings.Split(f[1], "/")
		if f[0] == "policy" {
			p := discovery.Service{NS: name[0], Name: name[1]}
			for _, w := range f[2:] {
				k, v, _ := strings.Cut(w, "=")
				switch k {
				case "ttl":
					fmt.Sscan(v, &p.DNSTTL)
				case "max":
					fmt.Sscan(v, &p.MaxAnswers)
				case "empty":
					p.EmptyAnswer = v
				default:
					return nil, fmt.Errorf("policy word %q", w)
				}
			}
			policies = append(policies, p)
			continue
		}
		in := discovery.Instance{NS: name[0], Svc: name[1], ID: name[2]}
		for _, w := range f[2:] {
			k, v, isPair := strings.Cut(w, "=")
			switch {
			case w == "warning":
				health[in.Ref()] = discovery.StatusWarning
			case w == "critical":
				health[in.Ref()] = discovery.StatusCritical
			case w == "draining":
				in.State = discovery.StateDraining
			case isPair && k == "weight":
				fmt.Sscan(v, &in.Weight)
			case isPair && k == "priority":
				fmt.Sscan(v, &in.Priority)
			case isPair && k == "meta":
				if in.Meta == nil {
					in.Meta = map[string]string{}
				}
				mk, mv, _ := strings.Cut(v, "=")
				in.Meta[mk] = mv
			default:
				parts := strings.Split(w, "/")
				e := discovery.Endpoint{}
				at := strings.LastIndex(parts[0], ":")
				e.Addr = strings.Trim(parts[0][:at], "[]")
				fmt.Sscan(parts[0][at+1:], &e.Port)
				if len(parts) > 1 {
					e.Name = parts[1]
				}
				if len(parts) > 2 {
					e.Proto = parts[2]
				}
				in.Endpoints = append(in.Endpoints, e)
			}
		}
		instances = append(instances, in)
	}
	snap := catalog.NewSnapshot(rev, instances...)
	for _, p := range policies {
		snap = snap.WithPolicy(p)
	}
	for ref, st := range health {
		snap = snap.WithHealth(ref, &discovery.Health{Status: st})
	}
	return snap, nil
}

// matrix is names and whether each exists, in a snapshot with service web (http/tcp,
// instance a) in default and api in prod.
var matrix = map[string]bool{
	"@": true, "svc": true, "dns": true, "ns.dns": true, "dns-version": true,
	"web.svc": true, "web.default.svc": true, "api.prod.svc": true,
	"default.svc": true, "prod.svc": true,
	"_tcp.web.svc": true, "_tcp.web.default.svc": true, "_http._tcp.web.svc": true, "_http._tcp.web.default.svc": true,
	"a.web.default.svc": true, "ill.svc": true, "ill.default.svc": true, "bare.svc": true,

	"api.svc": false, "web.prod.svc": false, "nope.svc": false, "nope.default.svc": false, "web.nope.svc": false,
	"_udp.web.svc": false, "_http._udp.web.svc": false, "_grpc._tcp.web.svc": false, "_tcp.nope.svc": false,
	"b.web.default.svc": false, "a.web.svc": false, "x.a.web.default.svc": false, "nope": false, "node": false,
	"web": false, "*.svc": false, "*": false, "_tcp.svc": false, "_http._tcp.svc": false, "_.web.svc": false,
	"_http._tcp.a.web.default.svc": false, "ns2.dns": false, "x.dns-version": false, "_http.web.svc": false,
	"_http._tcp._x.web.svc": false, ".svc": false, "_._tcp.bare.svc": false,
}

func TestExistingNamesAreNeverNXDOMAINWhateverTheType(t *testing.T) {
	z := testZone(t)
	snap, err := parseSnapshot(3, `
inst default/web/a 10.0.0.1:80/http
inst prod/api/x 10.0.0.2:80/http
inst default/ill/i critical 10.0.0.3:80/http
policy default/bare`)
	if err != nil {
		t.Fatal(err)
	}
	for name, exists := range matrix {
		for qtype := range dns.TypeToString {
			a := z.Build(snap, Question{Name: absolute(z, name), Type: qtype})
			want := dns.RcodeSuccess
			if !exists {
				want = dns.RcodeNameError
			}
			if a.Rcode != want {
				t.Errorf("%s %s: got %s, want %s", name, dns.TypeToString[qtype], dns.RcodeToString[a.Rcode], dns.RcodeToString[want])
			}
			if empty := len(a.Records) == 0; empty != (len(a.Authority) == 1) {
				t.Errorf("%s %s: %d records with %d in authority: want the SOA if and only if there are none", name, dns.TypeToString[qtype], len(a.Records), len(a.Authority))
			}
		}
	}
}

func TestEveryAnswerOwnsItsRecordsExactlyOnce(t *testing.T) {
	z := testZone(t)
	snap, err := parseSnapshot(3, `
inst default/web/a 10.0.0.1:80/http 10.0.0.1:81/admin
inst default/web/b 10.0.0.1:90/http
inst default/web/c [2001:db8::1]:80/http [2001:db8::1]:81/admin`)
	if err != nil {
		t.Fatal(err)
	}
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV} {
		a := z.Build(snap, Question{Name: absolute(z, "web.svc"), Type: qtype})
		seen := map[string]bool{}
		for i, rr := range a.Records {
			if seen[rr.String()] {
				t.Errorf("%s twice", rr)
			}
			seen[rr.String()] = true
			if a.Weights[i] == 0 {
				t.Errorf("%s has weight 0", rr)
			}
		}
		if len(a.Weights) != len(a.Records) {
			t.Errorf("%d weights for %d records", len(a.Weights), len(a.Records))
		}
	}
	a := z.Build(snap, Question{Name: absolute(z, "web.svc"), Type: dns.TypeA})
	if !slices.Equal(a.Weights, []uint32{200}) {
		t.Errorf("two instances of weight 100 behind one address weigh %v, want [200]", a.Weights)
	}
}

func TestAnswerHoldsUntilSomethingItWasMadeFromChanges(t *testing.T) {
	z := testZone(t)
	base := "inst default/web/a 10.0.0.1:80/http\ninst default/other/a 10.0.0.2:80/http\n"
	snap, err := parseSnapshot(1, base)
	if err != nil {
		t.Fatal(err)
	}
	policyOf := func(ns, svc string) func(*catalog.Snapshot) *catalog.Snapshot {
		return func(s *catalog.Snapshot) *catalog.Snapshot {
			return s.WithPolicy(discovery.Service{NS: ns, Name: svc, DNSTTL: 9})
		}
	}
	for _, c := range []struct {
		name   string
		qtype  uint16
		change func(*catalog.Snapshot) *catalog.Snapshot
		holds  bool
	}{
		{"web.svc", dns.TypeA, policyOf("default", "other"), true},
		{"web.svc", dns.TypeA, policyOf("default", "web"), false},
		{"a.web.default.svc", dns.TypeA, policyOf("default", "web"), false},
		{"nope.svc", dns.TypeA, policyOf("default", "other"), true},
		{"nope.svc", dns.TypeA, policyOf("default", "nope"), false},
		{"nope.svc", dns.TypeA, policyOf("nope", "x"), false}, // now a name with names below it
		{"@", dns.TypeNS, policyOf("default", "web"), true},
	} {
		a := z.Build(snap, Question{Name: absolute(z, c.name), Type: c.qtype})
		if !a.Basis.Holds(snap) {
			t.Errorf("%s %d doesn't hold in its own snapshot", c.name, c.qtype)
		}
		if got := a.Basis.Holds(c.change(snap)); got != c.holds {
			t.Errorf("%s %d: holds %v after the change, want %v", c.name, c.qtype, got, c.holds)
		}
	}
	a := z.Build(snap, Question{Name: z.Origin(), Type: dns.TypeSOA})
	later, err := parseSnapshot(2, base)
	if err != nil {
		t.Fatal(err)
	}
	if a.Basis.Holds(later) {
		t.Error("an SOA holds at another revision")
	}
}

func TestHostNamesAreChosenBySeed(t *testing.T) {
	z := testZone(t)
	snap, err := parseSnapshot(1, "inst default/ext/a a.example:80/http\ninst default/ext/b b.example:80/http")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for seed := range uint64(10) {
		a := z.Build(snap, Question{Name: absolute(z, "ext.svc"), Type: dns.TypeA, Seed: seed})
		if len(a.Chain) != 1 || len(a.Records) != 0 || len(a.Authority) != 0 || !a.Seeded {
			t.Fatalf("want one seeded CNAME, got %s", render(a))
		}
		got[a.Chain[0].(*dns.CNAME).Target]++
	}
	if got["a.example."] != 5 || got["b.example."] != 5 {
		t.Errorf("ten seeds chose %v, want five each", got)
	}
}

func TestZonesThatCanNotBeServedAreRefused(t *testing.T) {
	for _, zone := range []string{".", "a..b.", "-x.", "x_y!.", strings.Repeat("abcdefgh.", 30)} {
		if _, err := NewZone(Config{Zone: zone}); err == nil {
			t.Errorf("zone %q was accepted", zone)
		}
	}
	z, err := NewZone(Config{Zone: "Muster.Example"})
	if err != nil {
		t.Fatal(err)
	}
	if z.Origin() != "muster.example." {
		t.Errorf("origin is %q, want muster.example.", z.Origin())
	}
}
