package discovery

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func valid() Instance {
	i := Instance{ID: "h12-web", Svc: "web", Node: "h12", Endpoints: []Endpoint{{Name: "http", Addr: "10.0.0.7", Port: 80}}}
	i.Normalize()
	return i
}

func TestInstanceValidation(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct {
		name string
		edit func(*Instance)
		want string // "" for valid
	}{
		{"plain", func(*Instance) {}, ""},
		{"host name address", func(i *Instance) { i.Endpoints[0].Addr = "Db-1.Example.com." }, ""},
		{"ipv6", func(i *Instance) { i.Endpoints[0].Addr = "2001:db8::1" }, ""},
		{"one endpoint without name", func(i *Instance) { i.Endpoints[0].Name = "" }, ""},
		{"two families of one port", func(i *Instance) {
			i.Endpoints = append(i.Endpoints, Endpoint{Name: "http", Proto: "tcp", Addr: "::1", Port: 80})
		}, ""},
		{"no id", func(i *Instance) { i.ID = "" }, "id: is empty: give it a name"},
		{"upper case", func(i *Instance) { i.Svc = "Web" }, `svc: "Web" is not a DNS label: use only a–z`},
		{"underscore", func(i *Instance) { i.ID = "a_b" }, "id: "},
		{"dot", func(i *Instance) { i.ID = "a.b" }, "id: "},
		{"slash", func(i *Instance) { i.NS = "a/b" }, "ns: "},
		{"leading dash", func(i *Instance) { i.ID = "-a" }, "id: "},
		{"reserved", func(i *Instance) { i.Svc = "tag" }, `svc: "tag" is a reserved word`},
		{"reserved node", func(i *Instance) { i.Node = "addr" }, `node: "addr" is a reserved word`},
		{"64 characters", func(i *Instance) { i.ID = long + "a" }, "use at most 63"},
		{"long name", func(i *Instance) { i.ID, i.Svc, i.NS, i.Endpoints[0].Name = long, long, long, long[:40] }, "shorten id, svc, ns or endpoint names by"},
		{"control in tag", func(i *Instance) { i.Tags = []string{"ok", "a\nb"} }, "tags[1]: "},
		{"many tags", func(i *Instance) { i.Tags = make([]string, 65) }, "tags: has 65 tags: use at most 64"},
		{"equals in meta key", func(i *Instance) { i.Meta = map[string]string{"a=b": "c"} }, `meta: key "a=b"`},
		{"large meta", func(i *Instance) { i.Meta = map[string]string{"a": strings.Repeat("x", 8193)} }, "meta.a: has 8193 bytes"},
		{"no endpoint", func(i *Instance) { i.Endpoints = nil }, "endpoints: is empty: give at least one port"},
		{"port 0", func(i *Instance) { i.Endpoints[0].Port = 0 }, "endpoints[0].port: 0 is out of range: use 1 to 65535"},
		{"port 65536", func(i *Instance) { i.Endpoints[0].Port = 65536 }, "endpoints[0].port"},
		{"unspecified", func(i *Instance) { i.Endpoints[0].Addr = "0.0.0.0" }, "unspecified address: use the address that clients connect to"},
		{"zone", func(i *Instance) { i.Endpoints[0].Addr = "fe80::1%eth0" }, "has a zone"},
		{"not an address", func(i *Instance) { i.Endpoints[0].Addr = "10.0.0.256" }, "neither an IP address nor a host name"},
		{"address with port", func(i *Instance) { i.Endpoints[0].Addr = "10.0.0.1:80" }, "neither"},
		{"unicode host", func(i *Instance) { i.Endpoints[0].Addr = "bücher.example" }, "xn--"},
		{"two without names", func(i *Instance) {
			i.Endpoints = []Endpoint{{Addr: "10.0.0.1", Port: 1}, {Addr: "10.0.0.1", Port: 2}}
		}, "name each of several endpoints"},
		{"repeated", func(i *Instance) { i.Endpoints = append(i.Endpoints, i.Endpoints[0]) }, "repeats endpoints[0]"},
		{"many endpoints", func(i *Instance) { i.Endpoints = make([]Endpoint, 17) }, "has 17 endpoints"},
		{"weight", func(i *Instance) { i.Weight = 65536 }, "weight: 65536 is out of range: use 0 to 65535"},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := valid()
			c.edit(&i)
			err := i.Validate(Naming{})
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var fe *FieldError
			if !errors.Is(err, ErrInvalid) || !errors.As(err, &fe) || fe.Remedy == "" || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want …%s…", err, c.want)
			}
		})
	}
}

func TestTheLongestDNSNameMayHaveExactly253Characters(t *testing.T) {
	i := valid()
	i.Endpoints[0].Name, i.ID, i.Svc = strings.Repeat("e", 40), strings.Repeat("i", 63), strings.Repeat("s", 63)
	name := func() string {
		return "_" + i.Endpoints[0].Name + "._tcp." + i.ID + "." + i.Svc + "." + i.NS + ".svc.dc1.dc.muster.internal"
	}
	for len(name()) < 253 {
		i.NS += "n"
	}
	if len(i.NS) > 63 {
		t.Fatalf("the test needs other names: ns has %d", len(i.NS))
	}
	if err := i.Validate(Naming{}); err != nil {
		t.Fatalf("%d characters: %v", len(name()), err)
	}
	i.NS += "n"
	if err := i.Validate(Naming{}); err == nil || !strings.Contains(err.Error(), "has 254 characters") {
		t.Fatalf("%d characters: %v", len(name()), err)
	}
	if err := i.Validate(Naming{Zone: "internal."}); err != nil {
		t.Fatalf("in a shorter zone: %v", err)
	}
}

func TestEffectiveState(t *testing.T) {
	crit, warn := &Health{Status: StatusCritical}, &Health{Status: StatusWarning}
	for _, c := range []struct {
		state  State
		health *Health
		want   Status
		serves bool
	}{
		{StateUnset, nil, StatusPassing, true},
		{StateUp, nil, StatusPassing, true},
		{StateUp, warn, StatusWarning, true},
		{StateUp, crit, StatusCritical, false},
		{StateUp, &Health{}, StatusUnknown, false},
		{StateStarting, warn, StatusStarting, false},
		{StateDraining, crit, StatusDraining, false},
		{State(9), nil, StatusUnknown, false},
	} {
		got := Effective(&Instance{State: c.state}, c.health)
		if got != c.want || got.Serving() != c.serves {
			t.Errorf("%v %+v: got %v", c.state, c.health, got)
		}
	}
	if Worst() != StatusPassing || Worst(StatusPassing, StatusUnknown) != StatusCritical || Worst(StatusWarning, StatusPassing) != StatusWarning {
		t.Error("Worst")
	}
}

func TestWeightFollowsTheState(t *testing.T) {
	i := Instance{Endpoints: []Endpoint{{}, {Weight: 40}}}
	if i.WeightAt(&i.Endpoints[0], StatusPassing) != 100 || i.WeightAt(&i.Endpoints[0], StatusWarning) != 10 || i.WeightAt(&i.Endpoints[1], StatusPassing) != 40 {
		t.Fatal("defaults")
	}
	i.Weight, i.WarnWeight = 1, 5
	if i.WeightAt(nil, StatusWarning) != 1 {
		t.Fatal("a warning instance weighs more than a passing one")
	}
}

func TestKeysAreParsedBack(t *testing.T) {
	ref := Ref{"default", "web", "h12-web"}
	for _, c := range []struct {
		key  string
		kind Kind
		ref  Ref
		ok   bool
	}{
		{ref.InstanceKey(), KindInstance, ref, true},
		{ref.HealthKey(), KindHealth, ref, true},
		{ServiceKey("default", "web"), KindService, Ref{NS: "default", Svc: "web"}, true},
		{"/muster/v1/ovr/default/web/a", KindOther, Ref{}, true},
		{"/muster/v1/node/dc1/h12", KindOther, Ref{}, true},
		{"/elsewhere", KindOther, Ref{}, true},
		{"/muster/v1/inst/default/web", KindInstance, Ref{}, false},
		{"/muster/v1/inst/default/web/a/b", KindInstance, Ref{}, false},
		{"/muster/v1/inst//web/a", KindInstance, Ref{}, false},
		{"/muster/v1/svc/default/", KindService, Ref{}, false},
		{"/muster/v1/svc/default/a/b", KindService, Ref{}, false},
	} {
		kind, got, err := ParseKey(c.key)
		if kind != c.kind || got != c.ref || (err == nil) != c.ok {
			t.Errorf("%s: got %v %v %v", c.key, kind, got, err)
		}
	}
}

func TestCheckValidation(t *testing.T) {
	for _, c := range []struct {
		check Check
		want  string
	}{
		{Check{Kind: CheckHTTP, Target: "http://127.0.0.1:8080/healthz"}, ""},
		{Check{Kind: CheckTCP, Target: "[::1]:80"}, ""},
		{Check{Kind: CheckTTL, TTL: 10 * time.Second}, ""},
		{Check{Kind: CheckHTTP, Target: "127.0.0.1:8080"}, "write http://host:port/path"},
		{Check{Kind: CheckHTTP, Target: "http://u:p@h/"}, "user and password"},
		{Check{Kind: CheckTCP, Target: "host"}, "write host:port"},
		{Check{Kind: CheckTCP, Target: "host:99999"}, "write host:port"},
		{Check{Kind: CheckTTL}, "use at least 1s"},
		{Check{Kind: CheckTCP, Target: "h:1", Interval: time.Millisecond}, "interval: 1ms is too short"},
		{Check{Kind: CheckTCP, Target: "h:1", Interval: time.Second, Timeout: 2 * time.Second}, "timeout: 2s is out of range"},
		{Check{Kind: CheckTCP, Target: "h:1", Rise: 101}, "rise: 101"},
		{Check{Kind: CheckTCP, Target: "h:1", Fall: -1}, "fall: -1"},
		{Check{Kind: CheckTCP, Target: "h:1", ID: "A b"}, "id: "},
		{Check{}, "kind: "},
	} {
		c.check.Normalize()
		err := c.check.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %q", c.check, err, c.want)
		}
	}
}
