package discovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// documented is the example of the functional reference.
const documented = `{"id":"h12-web","ns":"default","svc":"web","node":"h12","version":"1.4.2","tags":["v2"],"meta":{"team":"x"},` +
	`"endpoints":[{"name":"http","proto":"tcp","addr":"10.0.0.7","port":8080,"app":"h2c"}],` +
	`"weight":100,"warn_weight":10,"priority":10,"locality":{"region":"eu","zone":"a"},"state":"UP","owner":"h12","epoch":42}`

func decoded(t *testing.T, s string) Instance {
	t.Helper()
	i, err := DecodeInstance(Ref{"default", "web", "h12-web"}, []byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestTheDocumentedInstanceIsReadAndWrittenLetterByLetter(t *testing.T) {
	i := decoded(t, documented)
	want := Instance{
		ID: "h12-web", NS: "default", Svc: "web", Node: "h12", Version: "1.4.2", Tags: []string{"v2"}, Meta: map[string]string{"team": "x"},
		Endpoints: []Endpoint{{Name: "http", Proto: "tcp", Addr: "10.0.0.7", Port: 8080, App: "h2c"}},
		Weight:    100, WarnWeight: 10, Priority: 10, Locality: Locality{Region: "eu", Zone: "a"}, State: StateUp, Owner: "h12", Epoch: 42,
	}
	if !reflect.DeepEqual(i, want) {
		t.Fatalf("got  %+v\nwant %+v", i, want)
	}
	if got := string(i.Encode()); got != documented {
		t.Fatalf("got  %s\nwant %s", got, documented)
	}
}

func TestFieldsOfANewerReleaseSurvive(t *testing.T) {
	in := `{"id":"h12-web","ns":"default","svc":"web","endpoints":[{"addr":"10.0.0.7","port":1,"alpn":["h2","h3"]}],` +
		`"locality":{"zone":"a","rack":{"n":1}},"state":"SUSPECT","quota":{"a":[1,"}"]},"flag":true}`
	i := decoded(t, in)
	if got := string(i.Encode()); got != in {
		t.Fatalf("got  %s\nwant %s", got, in)
	}
	fresh := Instance{
		ID: "h12-web", NS: "default", Svc: "web", State: StateUp, Locality: Locality{Zone: "b"},
		Endpoints: []Endpoint{{Addr: "10.0.0.7", Port: 2}, {Addr: "10.0.0.8", Port: 2}},
	}
	fresh.KeepUnknown(&i)
	want := `{"id":"h12-web","ns":"default","svc":"web","endpoints":[{"addr":"10.0.0.7","port":2,"alpn":["h2","h3"]},{"addr":"10.0.0.8","port":2}],` +
		`"locality":{"zone":"b","rack":{"n":1}},"state":"UP","quota":{"a":[1,"}"]},"flag":true}`
	if got := string(fresh.Encode()); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	h, err := DecodeHealth(Ref{"default", "web", "h12-web"}, []byte(`{"status":"WARNING","hold":{"until":5}}`))
	if err != nil || string(h.Encode()) != `{"status":"WARNING","hold":{"until":5}}` {
		t.Fatalf("%s, %v", h.Encode(), err)
	}
	s, err := DecodeService("default", "web", []byte(`{"lb_policy":"p2c","dns_ttl":3,"failover":{"targets":["zone"]}}`))
	if err != nil || string(s.Encode()) != `{"ns":"default","name":"web","dns_ttl":3,"lb_policy":"p2c","failover":{"targets":["zone"]}}` {
		t.Fatalf("%s, %v", s.Encode(), err)
	}
}

func TestAllThatProtojsonMayWriteIsRead(t *testing.T) {
	i := decoded(t, "{\n \"warnWeight\" : 1e1 , \"epoch\":\"42\", \"startUnixMs\":\"-7\", \"state\":3, \"meta\":null,"+
		"\"tags\":[], \"endpoints\":[ {\"port\":\"80\",\"addr\":\"a\\u002eb\"} ], \"taggedAddrs\":{\"wan\":\"1.2.3.4\"}}")
	if i.WarnWeight != 10 || i.Epoch != 42 || i.StartUnixMS != -7 || i.State != StateDraining || i.Meta != nil ||
		i.Endpoints[0].Port != 80 || i.Endpoints[0].Addr != "a.b" || i.TaggedAddrs["wan"] != "1.2.3.4" || i.ID != "h12-web" {
		t.Fatalf("got %+v", i)
	}
}

func TestUnreadableValuesAreRefusedWithAReason(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "empty"},
		{"\x00\x0a", "binary form"},
		{"[]", "beginning with {"},
		{"{", "not JSON"},
		{`{"id":1}`, "want a string"},
		{`{"id":"other"}`, `id is "other" in the value and "h12-web" in the key`},
		{`{"weight":-1}`, "weight: undecodable value: want an integer"},
		{`{"weight":4294967296}`, "want an integer in range"},
		{`{"weight":1.5}`, "want an integer"},
		{`{"endpoints":{}}`, "want a list"},
		{`{"endpoints":[1]}`, "want an object"},
		{`{"meta":{"a":1}}`, "want a string"},
		{"{\"id\":\"\xff\"}", "not UTF-8"},
	} {
		_, err := DecodeInstance(Ref{"default", "web", "h12-web"}, []byte(c.in))
		if !errors.Is(err, ErrUndecodable) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want …%s…", c.in, err, c.want)
		}
	}
}

func TestEqualInstancesEncodeEqually(t *testing.T) {
	a := decoded(t, documented)
	a.Meta = map[string]string{"c": "1", "a": "\"\\\n\u2028é", "b": "3"}
	first := string(a.Encode())
	for range 20 {
		if got := string(a.Encode()); got != first {
			t.Fatalf("got %s and %s", got, first)
		}
	}
	if got := decoded(t, first); got.Meta["a"] != a.Meta["a"] {
		t.Fatalf("got %q", got.Meta["a"])
	}
}

// FuzzInstance checks that decoding never panics, that encoding gives JSON which decodes to the same, and that a field
// encoding/json sees is the field the decoder sees.
func FuzzInstance(f *testing.F) {
	f.Add([]byte(documented))
	f.Add([]byte(`{"state":"SUSPECT","x":[{"y":"\""}],"meta":{"":""},"endpoints":[{},{"u":null}]}`))
	f.Add([]byte(`{"weight":"1e2","epoch":18446744073709551615,"checks":{"a":"PASSING"},"status":9}`))
	ref := Ref{"default", "web", "h12-web"}
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, err := DecodeHealth(ref, data); err == nil {
			if again, err := DecodeHealth(ref, h.Encode()); err != nil || !again.SameStatus(&h) {
				t.Fatalf("health %s: %v", h.Encode(), err)
			}
		}
		if s, err := DecodeService(ref.NS, ref.Svc, data); err == nil {
			if _, err := DecodeService(ref.NS, ref.Svc, s.Encode()); err != nil {
				t.Fatalf("service %s: %v", s.Encode(), err)
			}
		}
		i, err := DecodeInstance(ref, data)
		if err != nil {
			return
		}
		enc := i.Encode()
		again, err := DecodeInstance(ref, enc)
		if err != nil {
			t.Fatalf("%s: %v", enc, err)
		}
		if string(again.Encode()) != string(enc) {
			t.Fatalf("got %s, then %s", enc, again.Encode())
		}
		var ours, std map[string]any
		if err := unmarshal(enc, &ours); err != nil {
			t.Fatalf("%s: %v", enc, err)
		}
		if unmarshal(data, &std) == nil && std["version"] != nil && ours["version"] != std["version"] && std["version"] != "" {
			t.Fatalf("version %v, encoding/json sees %v", ours["version"], std["version"])
		}
	})
}

// unmarshal leaves numbers as they are: a newer release's may be beyond what a float holds.
func unmarshal(data []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(to)
}

// FuzzParseKey checks that a key is refused, none of ours, or the one that its parts make.
func FuzzParseKey(f *testing.F) {
	ref := Ref{"default", "web", "h12-web"}
	for _, k := range []string{ref.InstanceKey(), ref.HealthKey(), ServiceKey("default", "web"), Prefix, Prefix + "inst/a/b/", "/other", Prefix + "svc/A/b"} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, key string) {
		kind, ref, err := ParseKey(key)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("%q: got %v", key, err)
			}
			return
		}
		again := map[Kind]string{KindInstance: ref.InstanceKey(), KindHealth: ref.HealthKey(), KindService: ServiceKey(ref.NS, ref.Svc)}
		if again[kind] != key && kind != KindOther {
			t.Fatalf("%q is read as %v %v, which is stored at %q", key, kind, ref, again[kind])
		}
	})
}

func BenchmarkDecodeInstance(b *testing.B) {
	data, ref := []byte(documented), Ref{"default", "web", "h12-web"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeInstance(ref, data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeInstance(b *testing.B) {
	i, err := DecodeInstance(Ref{"default", "web", "h12-web"}, []byte(documented))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = i.Encode()
	}
}
