package answer

import (
	"strings"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/catalog"
)

// Question is what is asked. The class is IN.
type Question struct {
	// Name is absolute, in lower case, and inside the zone. Bytes of labels that aren't
	// letters, digits, '-' or '_' stand as any byte that isn't, such as '?': no such
	// name exists.
	Name string
	Type uint16
	// Seed chooses among several host names where only one CNAME can be answered.
	Seed uint64
}

// Answer is all that a snapshot holds for a question.
type Answer struct {
	// Rcode is dns.RcodeSuccess or dns.RcodeNameError.
	Rcode int
	// Chain is the CNAMEs that lead to Records; they stay first.
	Chain []dns.RR
	// Records is the whole set asked for. Max bounds the sample drawn from it, 0 takes
	// all; Weights (nil: equal) and Tiers are the Sampler's.
	Records []dns.RR
	Max     int
	Weights []uint32
	Tiers   []int
	// Glue is nil or holds, for each of Records, the records helpful beside it.
	Glue [][]dns.RR
	// Authority is the SOA where there is no answer.
	Authority []dns.RR
	// Seeded says that another seed might give another answer.
	Seeded bool
	// Basis is what the answer was made from.
	Basis Basis
}

// Basis is the part of a snapshot that an answer was made from.
type Basis struct {
	services   []serviceDep
	namespaces []namespaceDep
	pinned     int64 // revision shown by the records themselves, -1 if none
}

type serviceDep struct {
	ns, name string
	view     *catalog.ServiceView
}

type namespaceDep struct {
	ns     string
	exists bool
}

// Holds reports whether snap would give the same answer, save for the serial of an SOA
// in its authority section. It may say no where the answer is in fact the same.
func (b *Basis) Holds(snap *catalog.Snapshot) bool {
	if b.pinned >= 0 && b.pinned != snap.Rev() {
		return false
	}
	for _, d := range b.services {
		if snap.Service(d.ns, d.name) != d.view {
			return false
		}
	}
	for _, d := range b.namespaces {
		if snap.HasNamespace(d.ns) != d.exists {
			return false
		}
	}
	return true
}

// Sampler draws from the answer's records.
func (a *Answer) Sampler() *Sampler {
	return NewSampler(len(a.Records), a.Max, a.Weights, a.Tiers)
}

// Build answers a question from a snapshot.
func (z *Zone) Build(snap *catalog.Snapshot, q Question) *Answer {
	a := &Answer{Basis: Basis{pinned: -1}}
	b := builder{z: z, snap: snap, q: q, a: a}
	b.build(q.Name)
	if len(a.Records) == 0 && (len(a.Chain) == 0 || !b.leftZone) {
		a.Authority = []dns.RR{z.SOA(snap.Rev())}
	}
	return a
}

type builder struct {
	z    *Zone
	snap *catalog.Snapshot
	q    Question
	a    *Answer
	// leftZone is set when a CNAME points outside: what lies there isn't ours to deny.
	leftZone bool
}

func (b *builder) build(name string) {
	p := b.z.locate(name)
	switch p.kind {
	case apex:
		b.apex()
	case branch:
		b.any(name)
	case nsHost:
		if !b.any(name) {
			b.a.Records = b.z.nsAddrs(b.q.Type)
		}
	case version:
		if !b.any(name) && b.q.Type == dns.TypeTXT {
			b.a.Records = []dns.RR{&dns.TXT{Hdr: header(name, dns.TypeTXT, b.z.cfg.TTL), Txt: []string{schemaVersion}}}
		}
	case service:
		b.service(name, p)
	case protocol:
		b.protocol(name, p)
	case port:
		b.port(name, p)
	case instance:
		b.instance(name, p)
	default:
		b.a.Rcode = dns.RcodeNameError
	}
}

// any answers the type ANY of a name that exists by as little as may be said (RFC 8482)
// and reports whether it was asked for.
func (b *builder) any(name string) bool {
	if b.q.Type != dns.TypeANY {
		return false
	}
	b.a.Records = []dns.RR{&dns.HINFO{Hdr: header(name, dns.TypeHINFO, b.z.cfg.TTL), Cpu: "RFC8482"}}
	return true
}

func (b *builder) apex() {
	switch b.q.Type {
	case dns.TypeANY:
		b.any(b.z.origin)
	case dns.TypeSOA:
		b.a.Records = []dns.RR{b.z.SOA(b.snap.Rev())}
		b.a.Basis.pinned = b.snap.Rev()
	case dns.TypeNS:
		ns := b.z.ns()
		b.a.Records, b.a.Glue = ns.Records, ns.Glue
	}
}

// view looks a service up and notes that the answer depends on it.
func (b *builder) view(ns, svc string) *catalog.ServiceView {
	v := b.snap.Service(ns, svc)
	b.a.Basis.services = append(b.a.Basis.services, serviceDep{ns, svc, v})
	return v
}

// missing answers for a name with no service behind it: a namespace with services is a
// name with names below it.
func (b *builder) missing(name string, p place) {
	if p.single && p.kind == service {
		exists := b.snap.HasNamespace(p.svc)
		b.a.Basis.namespaces = append(b.a.Basis.namespaces, namespaceDep{p.svc, exists})
		if exists {
			b.any(name)
			return
		}
	}
	b.a.Rcode = dns.RcodeNameError
}

// emptied answers for a name of a service that nobody healthy serves, and reports
// whether that is the case.
func (b *builder) emptied(v *catalog.ServiceView) bool {
	if v.Serving > 0 {
		return false
	}
	if v.Policy.EmptyAnswer == discovery.EmptyAnswerNXDomain {
		b.a.Rcode = dns.RcodeNameError
	}
	return true
}

func (b *builder) service(name string, p place) {
	v := b.view(p.ns, p.svc)
	if v == nil {
		b.missing(name, p)
		return
	}
	if b.emptied(v) && b.a.Rcode != dns.RcodeSuccess || b.any(name) {
		return
	}
	switch b.q.Type {
	case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME:
		b.addresses(name, v, v.Instances)
	case dns.TypeSRV:
		b.srv(name, v, func(*discovery.Endpoint) bool { return true })
	}
}

// protocol answers for _proto.S.ns.svc.Z, which exists as far as a port below it does.
func (b *builder) protocol(name string, p place) {
	v := b.view(p.ns, p.svc)
	if v == nil || !hasPort(v, func(e *discovery.Endpoint) bool { return e.Name != "" && proto(e) == p.proto }) {
		b.a.Rcode = dns.RcodeNameError
		return
	}
	b.any(name)
}

func (b *builder) port(name string, p place) {
	match := func(e *discovery.Endpoint) bool { return e.Name == p.port && proto(e) == p.proto }
	v := b.view(p.ns, p.svc)
	if v == nil || p.port == "" || !hasPort(v, match) {
		b.a.Rcode = dns.RcodeNameError
		return
	}
	if b.emptied(v) && b.a.Rcode != dns.RcodeSuccess || b.any(name) {
		return
	}
	if b.q.Type == dns.TypeSRV {
		b.srv(name, v, match)
	}
}

// hasPort looks at all instances, serving or not: a name doesn't vanish for being ill.
func hasPort(v *catalog.ServiceView, match func(*discovery.Endpoint) bool) bool {
	for _, i := range v.Instances {
		for k := range i.Instance.Endpoints {
			if match(&i.Instance.Endpoints[k]) {
				return true
			}
		}
	}
	return false
}

func proto(e *discovery.Endpoint) string {
	if e.Proto == "" {
		return discovery.DefaultProto
	}
	return e.Proto
}

func (b *builder) instance(name string, p place) {
	v := b.view(p.ns, p.svc)
	var i *catalog.InstanceView
	if v != nil {
		i = v.Instance(p.id)
	}
	switch {
	case i == nil:
		b.a.Rcode = dns.RcodeNameError
	case b.any(name):
	case !i.Serving:
	case b.q.Type == dns.TypeA || b.q.Type == dns.TypeAAAA || b.q.Type == dns.TypeCNAME:
		b.addresses(name, v, []*catalog.InstanceView{i})
	case b.q.Type == dns.TypeTXT:
		b.a.Records = metadata(name, b.ttl(v), i.Instance.Meta)
	}
}

func (b *builder) ttl(v *catalog.ServiceView) uint32 {
	if v.Policy.DNSTTL != 0 {
		return v.Policy.DNSTTL
	}
	return b.z.cfg.TTL
}

// follow answers a name's CNAME and, inside the zone, what its target holds.
func (b *builder) follow(name, target string, ttl uint32) {
	target = strings.ToLower(dns.Fqdn(target))
	rr := &dns.CNAME{Hdr: header(name, dns.TypeCNAME, ttl), Target: target}
	if b.q.Type == dns.TypeCNAME {
		b.a.Records = []dns.RR{rr}
		return
	}
	b.a.Chain = append(b.a.Chain, rr)
	if !b.z.Contains(target) {
		b.leftZone = true
		return
	}
	if len(b.a.Chain) >= MaxChain {
		b.leftZone = true // as if: the rest is neither given nor denied
		return
	}
	for _, rr := range b.a.Chain {
		if rr.Header().Name == target {
			b.leftZone = true
			return
		}
	}
	b.build(target)
}
