package discovery

import (
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"strings"
	"unicode/utf8"
)

// Limits of one record. They keep a transaction of a full batch under the store's request limit and every name within
// what DNS can say.
const (
	MaxLabel     = 63
	MaxFQDN      = 253
	MaxTags      = 64
	MaxTag       = 255
	MaxMeta      = 64
	MaxMetaKey   = 255
	MaxMetaValue = 8 << 10
	MaxEndpoints = 16
	MaxText      = 255
	maxWeight    = 65535 // SRV weight and priority are 16 bits
)

// ErrInvalid is what every validation error wraps.
var ErrInvalid = errors.New("invalid registration")

// FieldError says which field is wrong, how, and what to do.
type FieldError struct {
	Field, Problem, Remedy string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem + ": " + e.Remedy }

// Unwrap makes errors.Is(err, ErrInvalid) true.
func (e *FieldError) Unwrap() error { return ErrInvalid }

// Naming is the zone in which names will be asked for; it bounds their length.
type Naming struct {
	Zone string // "muster.internal." if empty
	DC   string // "dc1" if empty
}

// DefaultZone is the zone of DNS names unless told otherwise.
const DefaultZone = "muster.internal."

// reserved names are markers in DNS questions (web.default.svc, v2.tag.web …): a service or instance of that name would
// make a question ambiguous.
func reserved(label string) bool {
	switch label {
	case "svc", "tag", "node", "dc", "zone", "query", "addr", "any", "*":
		return true
	}
	return false
}

// isName reports whether s is one lower-case LDH label.
func isName(s string) bool {
	if len(s) == 0 || len(s) > MaxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

type problems []error

func (p *problems) add(field, problem, remedy string) {
	*p = append(*p, &FieldError{Field: field, Problem: problem, Remedy: remedy})
}

func (p problems) err() error { return errors.Join(p...) }

func (p *problems) name(field, v string) {
	switch {
	case v == "":
		p.add(field, "is empty", "give it a name of a–z, 0–9 and -")
	case reserved(v):
		p.add(field, fmt.Sprintf("%q is a reserved word in DNS names", v), "choose another name")
	default:
		p.label(field, v, MaxLabel)
	}
}

func (p *problems) label(field, v string, limit int) {
	switch {
	case len(v) > limit:
		p.add(field, fmt.Sprintf("%q has %d characters", clip(v), len(v)), fmt.Sprintf("use at most %d", limit))
	case !isName(v):
		p.add(field, fmt.Sprintf("%q is not a DNS label", clip(v)), "use only a–z, 0–9 and -, not beginning or ending with -")
	}
}

func (p *problems) text(field, v string, limit int) {
	if len(v) > limit {
		p.add(field, fmt.Sprintf("has %d bytes", len(v)), fmt.Sprintf("use at most %d", limit))
	} else if !utf8.ValidString(v) {
		p.add(field, "is not UTF-8", "encode it as UTF-8")
	}
}

func (p *problems) meta(field string, m map[string]string) {
	if len(m) > MaxMeta {
		p.add(field, fmt.Sprintf("has %d pairs", len(m)), fmt.Sprintf("use at most %d", MaxMeta))
		return
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		if k == "" || len(k) > MaxMetaKey || strings.ContainsRune(k, '=') || !printable(k) {
			p.add(field, fmt.Sprintf("key %q can't be a name", clip(k)), fmt.Sprintf("use 1 to %d printable ASCII characters without =", MaxMetaKey))
		}
		p.text(field+"."+clip(k), m[k], MaxMetaValue)
	}
}

// Validate checks a normalized instance against the limits and the zone it will be named in. All problems are reported.
func (i *Instance) Validate(n Naming) error {
	var p problems
	p.name("id", i.ID)
	p.name("ns", i.NS)
	p.name("svc", i.Svc)
	if i.Node != "" {
		p.name("node", i.Node)
	}
	p.text("version", i.Version, MaxText)
	p.text("owner", i.Owner, MaxText)
	p.text("hostname", i.Hostname, MaxText)
	if len(i.Tags) > MaxTags {
		p.add("tags", fmt.Sprintf("has %d tags", len(i.Tags)), fmt.Sprintf("use at most %d", MaxTags))
	}
	for k, t := range i.Tags {
		if t == "" || len(t) > MaxTag || !utf8.ValidString(t) || strings.ContainsFunc(t, isControl) {
			p.add(fmt.Sprintf("tags[%d]", k), fmt.Sprintf("%q can't be a tag", clip(t)), fmt.Sprintf("use 1 to %d bytes of printable text", MaxTag))
		}
	}
	p.meta("meta", i.Meta)
	p.meta("tagged_addrs", i.TaggedAddrs)
	p.weight("weight", i.Weight)
	p.weight("warn_weight", i.WarnWeight)
	p.weight("priority", i.Priority)
	p.text("locality.region", i.Locality.Region, MaxText)
	p.text("locality.zone", i.Locality.Zone, MaxText)
	p.text("locality.host", i.Locality.Host, MaxText)
	p.meta("locality.labels", i.Locality.Labels)
	p.endpoints(i.Endpoints)
	if len(p) == 0 {
		p.fqdn(i, n)
	}
	return p.err()
}

func (p *problems) weight(field string, w uint32) {
	if w > maxWeight {
		p.add(field, fmt.Sprintf("%d is out of range", w), "use 0 to 65535")
	}
}

func (p *problems) endpoints(es []Endpoint) {
	if len(es) == 0 {
		p.add("endpoints", "is empty", "give at least one port")
	}
	if len(es) > MaxEndpoints {
		p.add("endpoints", fmt.Sprintf("has %d endpoints", len(es)), fmt.Sprintf("use at most %d", MaxEndpoints))
		return
	}
	for k := range es {
		e := &es[k]
		field := fmt.Sprintf("endpoints[%d]", k)
		if e.Name != "" {
			p.label(field+".name", e.Name, MaxLabel-1) // asked for as _name
		} else if len(es) > 1 {
			p.add(field+".name", "is empty", "name each of several endpoints")
		}
		if e.Proto != "" {
			p.label(field+".proto", e.Proto, MaxLabel-1)
		}
		if e.Port == 0 || e.Port > 65535 {
			p.add(field+".port", fmt.Sprintf("%d is out of range", e.Port), "use 1 to 65535")
		}
		if problem, remedy := checkAddr(e.Addr); problem != "" {
			p.add(field+".addr", problem, remedy)
		}
		p.text(field+".app", e.App, MaxText)
		p.weight(field+".weight", e.Weight)
		for j := range k {
			o := &es[j]
			if o.Name == e.Name && o.Proto == e.Proto && o.Addr == e.Addr {
				p.add(field, fmt.Sprintf("repeats endpoints[%d] (%s/%s at %s)", j, e.Name, e.Proto, e.Addr), "give it another name or address")
			}
		}
	}
}

// checkAddr says what is wrong with an endpoint's address.
func checkAddr(addr string) (problem, remedy string) {
	if addr == "" {
		return "is empty", "give an IP address or a host name"
	}
	if ip, err := netip.ParseAddr(addr); err == nil {
		switch {
		case ip.Zone() != "":
			return fmt.Sprintf("%q has a zone", addr), "use an address that other machines can reach"
		case ip.IsUnspecified():
			return fmt.Sprintf("%q is the unspecified address", addr), "use the address that clients connect to, not the one listened on"
		}
		return "", ""
	}
	host := strings.TrimSuffix(addr, ".")
	if len(host) > MaxFQDN {
		return fmt.Sprintf("%q has %d characters", clip(addr), len(host)), fmt.Sprintf("use at most %d", MaxFQDN)
	}
	numeric := true
	for label := range strings.SplitSeq(host, ".") {
		if !isName(strings.ToLower(label)) {
			return fmt.Sprintf("%q is neither an IP address nor a host name", clip(addr)), "use an address without port, or a name in its ASCII form (xn--…)"
		}
		numeric = strings.Trim(label, "0123456789") == ""
	}
	if numeric { // 10.0.0.256: no host name ends in a numeric label
		return fmt.Sprintf("%q is neither an IP address nor a host name", clip(addr)), "use four numbers of 0 to 255, or a name"
	}
	return "", ""
}

// fqdn checks the longest name under which the instance can be asked for:
// _<endpoint>._tcp.<id>.<svc>.<ns>.svc.<dc>.dc.<zone>.
func (p *problems) fqdn(i *Instance, n Naming) {
	zone := strings.Trim(n.Zone, ".")
	if zone == "" {
		zone = strings.Trim(DefaultZone, ".")
	}
	dc := n.DC
	if dc == "" {
		dc = "dc1"
	}
	longest := 0
	for k := range i.Endpoints {
		e := &i.Endpoints[k]
		l := len("_.") + len(e.Proto)
		if e.Name != "" {
			l += len("_.") + len(e.Name)
		}
		longest = max(longest, l)
	}
	total := longest + len(i.ID) + len(i.Svc) + len(i.NS) + len("...svc.") + len(dc) + len(".dc.") + len(zone)
	if total > MaxFQDN {
		p.add("id", fmt.Sprintf("the instance's longest DNS name has %d characters", total),
			fmt.Sprintf("shorten id, svc, ns or endpoint names by %d", total-MaxFQDN))
	}
}

// Validate checks a service's policy.
func (s *Service) Validate() error {
	var p problems
	p.name("ns", s.NS)
	p.name("name", s.Name)
	if s.DNSTTL > 1<<31-1 {
		p.add("dns_ttl", fmt.Sprintf("%d is out of range", s.DNSTTL), "use seconds, at most 2147483647")
	}
	switch s.EmptyAnswer {
	case "", EmptyAnswerNoData, EmptyAnswerNXDomain:
	default:
		p.add("empty_answer", fmt.Sprintf("%q is unknown", clip(s.EmptyAnswer)), "use nodata or nxdomain")
	}
	p.meta("meta", s.Meta)
	return p.err()
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// clip keeps error messages short whatever was sent.
func clip(s string) string {
	if len(s) <= 80 {
		return s
	}
	return strings.ToValidUTF8(s[:77], "") + "…"
}
