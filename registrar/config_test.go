package registrar

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
)

const full = `
store: {endpoints: ["https://s1:2379", "https://s2:2379"], tls: {ca: ca.pem, cert: c.pem, key: k.pem}, user: reg, password_file: pw}
node: {name: h12, addr: "iface:eth0", locality: {region: eu, zone: a, labels: {rack: r1}}}
lease: {ttl: 30s, file: /var/lib/registrar/lease.json}
drain: {delay: 0s, timeout: 5s}
api: {unix: /run/registrar.sock, http: "127.0.0.1:8521"}
services:
  - name: api
    ns: prod
    version: "1.4.2"
    ports: {http: 8080, dns: 53/udp}
    tags: [v2]
    meta: {team: x}
    weight: 50
    checks:
      - {http: "http://127.0.0.1:8080/healthz", interval: 5s, timeout: 1s, rise: 2, fall: 3}
      - {http: /ready?deep=1, id: ready}
      - {tcp: http}
      - {ttl: 30s, id: self}
  - name: web
    id: special
    addr: 2001:db8::1
    ports:
      http: 80
`

func TestAFullConfigurationBecomesDefinitions(t *testing.T) {
	c := config(t, full)
	if c.Lease.TTL != 30*time.Second || *c.Drain.Delay != 0 || c.Drain.Timeout != 5*time.Second || c.Store.TLS.Key != "k.pem" {
		t.Fatalf("got %+v", c)
	}
	defs, err := c.definitions(func(spec string) (string, error) {
		if spec != "iface:eth0" {
			t.Errorf("asked for %q", spec)
		}
		return "10.0.0.7", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	api := defs[discovery.Ref{NS: "prod", Svc: "api", ID: "h12-api"}]
	in := api.instance
	if string(in.Encode()) != `{"id":"h12-api","ns":"prod","svc":"api","node":"h12","version":"1.4.2","tags":["v2"],"meta":{"team":"x"},`+
		`"endpoints":[{"name":"dns","proto":"udp","addr":"10.0.0.7","port":53},{"name":"http","proto":"tcp","addr":"10.0.0.7","port":8080}],`+
		`"weight":50,"warn_weight":5,"priority":10,"locality":{"region":"eu","zone":"a","labels":{"rack":"r1"}},"state":"UP","owner":"h12"}` {
		t.Fatalf("got %s", in.Encode())
	}
	want := map[string]discovery.Check{
		"http":  {ID: "http", Kind: discovery.CheckHTTP, Target: "http://127.0.0.1:8080/healthz", Interval: 5 * time.Second, Timeout: time.Second, Rise: 2, Fall: 3},
		"ready": {ID: "ready", Kind: discovery.CheckHTTP, Target: "http://10.0.0.7:8080/ready?deep=1", Interval: 10 * time.Second, Timeout: 5 * time.Second, Rise: 2, Fall: 3},
		"tcp":   {ID: "tcp", Kind: discovery.CheckTCP, Target: "10.0.0.7:8080", Interval: 10 * time.Second, Timeout: 5 * time.Second, Rise: 2, Fall: 3},
		"self":  {ID: "self", Kind: discovery.CheckTTL, TTL: 30 * time.Second, Rise: 1, Fall: 1},
	}
	if !reflect.DeepEqual(api.checks, want) {
		t.Fatalf("got %+v", api.checks)
	}
	web := defs[discovery.Ref{NS: "default", Svc: "web", ID: "special"}]
	if web.instance.Endpoints[0].Addr != "2001:db8::1" {
		t.Fatalf("got %+v", web.instance)
	}
}

func TestAnEmptyConfigurationHasDefaults(t *testing.T) {
	c := config(t, "")
	if c.Store.Endpoints[0] != DefaultEndpoint || c.Lease.TTL != DefaultTTL || *c.Drain.Delay != DefaultDrainDelay || c.Node.Name == "" {
		t.Fatalf("got %+v", c)
	}
}

func TestWhatIsWrongIsNamedWithItsLineAndRemedy(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"nodes: {}", "line 1:1] unknown field \"nodes\""},
		{"node:\n  name: h1\n  adr: x", "line 3:3] unknown field \"adr\""},
		{"services:\n  - name: a\n    port: 1", "line 3:5] unknown field \"port\""},
		{"services:\n  - name: a\n    ports: {http: 0}", "write a number of 1 to 65535"},
		{"services:\n  - name: a\n    ports: {http: 80/}", "write a number of 1 to 65535"},
		{"lease: {ttl: fast}", `lease.ttl: line 1: "fast" is not a duration: write 500ms, 30s or 10m`},
		{"lease:\n  ttl: 30", `lease.ttl: line 2: "30" is not a duration`},
		{"services:\n- checks:\n  - {tcp: x, interval: [1]}", "services.checks.interval: line 3"},
		{"lease: {ttl: 1s}", "lease.ttl: 1s is out of range: use 3s to 1h"},
		{"drain: {delay: -1s}", "drain.delay"},
		{"a: b: c", "line 1"},
		{"node: {name: h1}\n---\nnode: {name: h2}", "a second document"},
		{"node: {name: a, name: b}", "line 1:17] mapping key \"name\" already defined"},
		{"sources: {docker: {}}", "sources: line 1: sources is not supported yet: remove it"},
		{"templates: []", "templates is not supported yet"},
		{"dns: {}", "dns is not supported yet"},
		{"services:\n  - name: a\n    ports: {http: 1}\n    deregister_after: 10m", "services.deregister_after: line 4: deregister_after is not supported yet"},
		{"services:\n  - name: a\n    checks:\n      - {grpc: \"h:1\"}", "services.checks.grpc: line 4: grpc is not supported yet: remove it; checks are http, tcp or ttl"},
		{"services:\n  - name: a\n    checks:\n      - exec: [rm, -rf]", "services.checks.exec: line 4: exec is not supported yet"},
		{"node: {addr: \"cloud:aws\"}", "asking a cloud for the address is not supported yet"},
		{"node: {addr: \"cidr:x\"}", "is not a prefix"},
		{"api: {http: \"0.0.0.0:8521\"}", "is not a loopback address: write 127.0.0.1:PORT"},
		{"api: {http: \":8521\"}", "is not a loopback address"},
		{"store: {user: x}", "user and password_file belong together"},
		{"store: {tls: {cert: x}}", "give both or none"},
		{"node: {name: H1.example}\nservices: [{name: a, ports: {http: 1}}]", "node: \"H1.example\" is not a DNS label"},
		{"services: [{name: a}]", "services[0] (a): endpoints: is empty: give at least one port"},
		{"services: [{name: svc, ports: {http: 1}}]", "reserved word"},
		{"services: [{name: \"{{hostname}}\", ports: {http: 1}}]", "expansion of {{…}} and ${…} is not supported yet"},
		{"services: [{name: a, ports: {http: 1}}, {name: a, ports: {http: 2}}]", "is given twice in service default/a"},
		{"services: [{name: a, ports: {http: 1}, checks: [{}]}]", "checks[0]: has 0 of http, tcp and ttl: give exactly one"},
		{"services: [{name: a, ports: {http: 1}, checks: [{tcp: http, ttl: 3s}]}]", "has 2 of http, tcp and ttl"},
		{"services: [{name: a, ports: {http: 1}, checks: [{tcp: http}, {tcp: http}]}]", "checks[1]: id: \"tcp\" is given twice"},
		{"services: [{name: a, ports: {x: 1, y: 2}, checks: [{http: /}]}]", "no tcp port is named \"http\""},
		{"services: [{name: a, ports: {x: 1}, checks: [{tcp: y}]}]", "no tcp port is named \"y\""},
		{"services: [{name: a, ports: {x: 1}, checks: [{ttl: 3s, interval: 1s}]}]", "ttl: has no interval"},
		{"services: [{name: a, ports: {x: 1}, checks: [{tcp: x, interval: 1ms}]}]", "interval: 1ms is too short"},
	} {
		_, err := Parse([]byte(c.yaml))
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n\tgot  %v\n\twant …%s…", c.yaml, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(plainConfig))
	f.Add([]byte("services: [{name: a, ports: {http: 1}, checks: [{http: /x}]}]"))
	f.Add([]byte("? [a]\n: &x {<<: *x}\n---\n- |\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			if !errors.Is(err, ErrConfig) {
				t.Fatalf("got %v", err)
			}
			return
		}
		if _, err := c.definitions(anyAddress); err != nil {
			t.Fatalf("accepted, but: %v", err)
		}
	})
}

func TestAddressesAreFoundOnThisMachine(t *testing.T) {
	r := &resolver{
		endpoints: []string{"unreachable:2379", "https://s1:2379"},
		addrs: func(iface string) ([]netip.Prefix, error) {
			switch iface {
			case "", "eth0":
				return []netip.Prefix{
					netip.MustParsePrefix("fe80::1/64"), netip.MustParsePrefix("2001:db8::5/64"),
					netip.MustParsePrefix("10.1.0.5/16"), netip.MustParsePrefix("192.168.0.5/24"),
				}, nil
			case "lo6":
				return []netip.Prefix{netip.MustParsePrefix("fe80::1/64"), netip.MustParsePrefix("2001:db8::5/64")}, nil
			}
			return nil, errors.New("no such interface")
		},
		outbound: func(host string) (netip.Addr, error) {
			if host != "s1" {
				return netip.Addr{}, fmt.Errorf("no route to %s", host)
			}
			return netip.MustParseAddr("10.9.9.9"), nil
		},
	}
	for spec, want := range map[string]string{
		"":                    "10.9.9.9",
		"iface:eth0":          "10.1.0.5",
		"iface:lo6":           "2001:db8::5",
		"cidr:192.168.0.0/16": "192.168.0.5",
		"cidr:2001:db8::/32":  "2001:db8::5",
		"iface:nosuch":        "",
		"cidr:172.16.0.0/12":  "",
	} {
		got, err := r.resolve(spec)
		if got != want || (err != nil) != (want == "") || err != nil && !errors.Is(err, ErrNoAddress) {
			t.Errorf("%q: got %q, %v", spec, got, err)
		}
	}
	r.endpoints = r.endpoints[:1]
	if _, err := r.resolve(""); !errors.Is(err, ErrNoAddress) || !strings.Contains(err.Error(), "set node.addr") {
		t.Errorf("got %v", err)
	}
	for in, want := range map[string]string{"h:1": "h", "http://h:1": "h", "https://[::1]:1": "::1", "unix:///run/x": "127.0.0.1", "unix:/run/x": "127.0.0.1", "[::1]:2379": "::1"} {
		if got := hostOf(in); got != want {
			t.Errorf("%s: got %q", in, got)
		}
	}
}

func TestBackoffIsCappedAndRenewalSpread(t *testing.T) {
	for n := range 200 {
		for _, rnd := range []float64{0, 0.5, 0.999} {
			if d := backoff(n, 10*time.Second, rnd); d < minBackoff/2 || d > 10*time.Second {
				t.Fatalf("attempt %d: %v", n, d)
			}
		}
	}
	if renewAfter(30*time.Second, 0) != 9*time.Second || renewAfter(30*time.Second, 0.999999) > 11*time.Second {
		t.Fatal("renewal")
	}
}

func TestThePlanIsTheDifference(t *testing.T) {
	at := time.Unix(1000, 0)
	in := func(id, version string) discovery.Instance {
		return discovery.Instance{ID: id, NS: "default", Svc: "web", Version: version}
	}
	r := func(id string) discovery.Ref { return discovery.Ref{NS: "default", Svc: "web", ID: id} }
	enc := func(id string) string { i := in(id, "1"); return string(i.EncodeKnown()) }
	ok, bad := &discovery.Health{Status: discovery.StatusPassing}, &discovery.Health{Status: discovery.StatusCritical}
	p := diff(map[discovery.Ref]wish{
		r("same"):    {instance: in("same", "1"), health: ok},
		r("new"):     {instance: in("new", "1")},
		r("changed"): {instance: in("changed", "2")},
		r("sick"):    {instance: in("sick", "1"), health: bad},
		r("hasty"):   {instance: in("hasty", "1"), health: bad},
		r("checked"): {instance: in("checked", "1"), health: ok},
		r("pending"): {instance: in("pending", "1"), pending: true},
		r("kept"):    {instance: in("kept", "2"), pending: true},
		r("blocked"): {instance: in("blocked", "1")},
	}, map[discovery.Ref]held{
		r("same"):    {encoded: enc("same"), health: ok},
		r("changed"): {encoded: enc("changed")},
		r("sick"):    {encoded: enc("sick"), health: ok, wrote: at.Add(-2 * time.Second)},
		r("hasty"):   {encoded: enc("hasty"), health: ok, wrote: at.Add(-300 * time.Millisecond)},
		r("checked"): {encoded: enc("checked")},
		r("kept"):    {encoded: enc("kept")},
		r("gone"):    {encoded: enc("gone")},
	}, map[discovery.Ref]bool{r("blocked"): true}, at)
	want := plan{
		register: []discovery.Ref{r("changed"), r("checked"), r("new")}, health: []discovery.Ref{r("sick")},
		deregister: []discovery.Ref{r("gone")}, later: at.Add(700 * time.Millisecond),
	}
	if !reflect.DeepEqual(p, want) {
		t.Fatalf("got  %+v\nwant %+v", p, want)
	}
}
