package discovery

import (
	"encoding/json"
	"sort"
	"strconv"
)

// encoder writes one JSON object: members in the schema's order, zero values left out.
type encoder struct{ b []byte }

func (e *encoder) open() { e.b = append(e.b, '{') }

func (e *encoder) shut(unknown string) {
	if unknown != "" {
		e.comma()
		e.b = append(e.b, unknown...)
	}
	e.b = append(e.b, '}')
}

func (e *encoder) comma() {
	if c := e.b[len(e.b)-1]; c != '{' && c != '[' {
		e.b = append(e.b, ',')
	}
}

func (e *encoder) key(k string) {
	e.comma()
	e.quote(k)
	e.b = append(e.b, ':')
}

func (e *encoder) quote(s string) {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x7f {
			q, _ := json.Marshal(s) //nolint:errchkjson // a string always marshals
			e.b = append(e.b, q...)
			return
		}
	}
	e.b = append(e.b, '"')
	e.b = append(e.b, s...)
	e.b = append(e.b, '"')
}

func (e *encoder) text(k, v string) {
	if v != "" {
		e.key(k)
		e.quote(v)
	}
}

func (e *encoder) uint(k string, v uint64) {
	if v != 0 {
		e.key(k)
		e.b = strconv.AppendUint(e.b, v, 10)
	}
}

func (e *encoder) int(k string, v int64) {
	if v != 0 {
		e.key(k)
		e.b = strconv.AppendInt(e.b, v, 10)
	}
}

func (e *encoder) textMap(k string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	e.key(k)
	e.open()
	for _, n := range sortedKeys(m) {
		e.key(n)
		e.quote(m[n])
	}
	e.shut("")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// Encode returns the stored form. Equal instances give equal bytes.
func (i *Instance) Encode() []byte {
	e := encoder{b: make([]byte, 0, 512)}
	e.open()
	e.text("id", i.ID)
	e.text("ns", i.NS)
	e.text("svc", i.Svc)
	e.text("node", i.Node)
	e.text("version", i.Version)
	if len(i.Tags) > 0 {
		e.key("tags")
		e.b = append(e.b, '[')
		for _, t := range i.Tags {
			e.comma()
			e.quote(t)
		}
		e.b = append(e.b, ']')
	}
	e.textMap("meta", i.Meta)
	if len(i.Endpoints) > 0 {
		e.key("endpoints")
		e.b = append(e.b, '[')
		for k := range i.Endpoints {
			e.comma()
			e.endpoint(&i.Endpoints[k])
		}
		e.b = append(e.b, ']')
	}
	e.textMap("tagged_addrs", i.TaggedAddrs)
	e.uint("weight", uint64(i.Weight))
	e.uint("warn_weight", uint64(i.WarnWeight))
	e.uint("priority", uint64(i.Priority))
	if l := &i.Locality; !l.IsZero() {
		e.key("locality")
		e.open()
		e.text("region", l.Region)
		e.text("zone", l.Zone)
		e.text("host", l.Host)
		e.textMap("labels", l.Labels)
		e.shut(l.unknown)
	}
	switch {
	case i.State == StateUnset:
	case int(i.State) < len(stateNames):
		e.text("state", stateNames[i.State])
	case i.newerState != "":
		e.key("state")
		e.b = append(e.b, i.newerState...)
	}
	e.int("start_unix_ms", i.StartUnixMS)
	e.text("owner", i.Owner)
	e.uint("epoch", i.Epoch)
	e.text("hostname", i.Hostname)
	e.shut(i.unknown)
	return e.b
}

// EncodeKnown is Encode without the fields that this release doesn't know: what two records are compared by.
func (i *Instance) EncodeKnown() []byte {
	n := *i
	n.unknown, n.Locality.unknown = "", ""
	n.Endpoints = append([]Endpoint(nil), i.Endpoints...)
	for k := range n.Endpoints {
		n.Endpoints[k].unknown = ""
	}
	return n.Encode()
}

func (e *encoder) endpoint(p *Endpoint) {
	e.open()
	e.text("name", p.Name)
	e.text("proto", p.Proto)
	e.text("addr", p.Addr)
	e.uint("port", uint64(p.Port))
	e.text("app", p.App)
	e.uint("weight", uint64(p.Weight))
	e.shut(p.unknown)
}

// Encode returns the stored form.
func (h *Health) Encode() []byte {
	e := encoder{b: make([]byte, 0, 128)}
	e.open()
	e.status("status", h.Status)
	e.int("since_unix_ms", h.SinceUnixMS)
	e.uint("transitions", uint64(h.Transitions))
	if len(h.Checks) > 0 {
		e.key("checks")
		e.open()
		for _, id := range sortedKeys(h.Checks) {
			e.status(id, h.Checks[id])
		}
		e.shut("")
	}
	e.text("reason", h.Reason)
	e.shut(h.unknown)
	return e.b
}

func (e *encoder) status(k string, s Status) {
	e.key(k)
	e.quote(s.String())
}

// Encode returns the stored form.
func (s *Service) Encode() []byte {
	e := encoder{b: make([]byte, 0, 128)}
	e.open()
	e.text("ns", s.NS)
	e.text("name", s.Name)
	e.uint("dns_ttl", uint64(s.DNSTTL))
	e.text("empty_answer", s.EmptyAnswer)
	e.uint("max_answers", uint64(s.MaxAnswers))
	e.textMap("meta", s.Meta)
	e.shut(s.unknown)
	return e.b
}

// MarshalJSON is Encode.
func (i Instance) MarshalJSON() ([]byte, error) { return i.Encode(), nil }

// MarshalJSON is Encode.
func (h Health) MarshalJSON() ([]byte, error) { return h.Encode(), nil }

// MarshalJSON is Encode.
func (s Service) MarshalJSON() ([]byte, error) { return s.Encode(), nil }
