package answer

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/catalog"
)

// maxTXTString is the longest character-string of a TXT record.
const maxTXTString = 255

// addresses answers the addresses of instances, or the host name of one of them if none
// has an address.
func (b *builder) addresses(name string, v *catalog.ServiceView, instances []*catalog.InstanceView) {
	type weighted struct {
		ip     netip.Addr
		weight uint32
	}
	var ips []weighted
	var hosts []string
	for _, i := range instances {
		if !i.Serving {
			continue
		}
		first := len(ips)
		for k := range i.Instance.Endpoints {
			e := &i.Instance.Endpoints[k]
			w := uint32(clamp16(i.Weight(e)))
			ip, ok := e.IP()
			if !ok {
				hosts = append(hosts, e.Addr)
				continue
			}
			// One address of one instance counts once, however many ports it has.
			at := slices.IndexFunc(ips[first:], func(o weighted) bool { return o.ip == ip })
			if at < 0 {
				ips = append(ips, weighted{ip, w})
			} else {
				ips[first+at].weight = max(ips[first+at].weight, w)
			}
		}
	}
	ttl := b.ttl(v)
	if len(ips) == 0 {
		slices.Sort(hosts)
		hosts = slices.Compact(hosts)
		if len(hosts) > 0 {
			b.a.Seeded = b.a.Seeded || len(hosts) > 1
			b.follow(name, hosts[b.q.Seed%uint64(len(hosts))], ttl)
		}
		return
	}
	slices.SortStableFunc(ips, func(x, y weighted) int { return x.ip.Compare(y.ip) })
	for k, w := range ips {
		// Several instances behind one address share a record and add their weights.
		rr := address(name, b.q.Type, ttl, w.ip)
		switch {
		case rr == nil: // the other family
		case k > 0 && ips[k-1].ip == w.ip:
			b.a.Weights[len(b.a.Weights)-1] += w.weight
		default:
			b.a.Records = append(b.a.Records, rr)
			b.a.Weights = append(b.a.Weights, w.weight)
		}
	}
	b.a.Max = cmp.Or(int(v.Policy.MaxAnswers), b.z.cfg.MaxAnswers)
}

// srv answers one record for each serving instance's endpoint that matches.
func (b *builder) srv(name string, v *catalog.ServiceView, match func(*discovery.Endpoint) bool) {
	ttl := b.ttl(v)
	type offer struct {
		rr   *dns.SRV
		glue []dns.RR
	}
	var offers []offer
	for _, i := range v.Instances {
		if !i.Serving {
			continue
		}
		own := i.Instance.ID + "." + v.Name + "." + v.NS + ".svc" + b.z.suffix
		var glue []dns.RR // shared by the instance's ports
		for k := range i.Instance.Endpoints {
			e := &i.Instance.Endpoints[k]
			if !match(e) {
				continue
			}
			rr := &dns.SRV{
				Hdr:      header(name, dns.TypeSRV, ttl),
				Priority: clamp16(i.Instance.PriorityOrDefault()), Weight: clamp16(i.Weight(e)),
				Port: clamp16(e.Port), Target: own,
			}
			if _, ok := e.IP(); !ok {
				rr.Target = strings.ToLower(dns.Fqdn(e.Addr))
				offers = append(offers, offer{rr, nil})
				continue
			}
			if glue == nil {
				glue = instanceAddrs(own, ttl, &i.Instance)
			}
			offers = append(offers, offer{rr, glue})
		}
	}
	// Lower priorities are tried first, so a sample takes them first.
	slices.SortStableFunc(offers, func(x, y offer) int { return cmp.Compare(x.rr.Priority, y.rr.Priority) })
	seen := make(map[dns.SRV]bool, len(offers))
	for _, o := range offers {
		if seen[*o.rr] {
			continue // two endpoints at one host name and port
		}
		seen[*o.rr] = true
		n := len(b.a.Records)
		if n > 0 && b.a.Records[n-1].(*dns.SRV).Priority != o.rr.Priority {
			b.a.Tiers = append(b.a.Tiers, n)
		}
		b.a.Records = append(b.a.Records, o.rr)
		b.a.Weights = append(b.a.Weights, uint32(o.rr.Weight))
		b.a.Glue = append(b.a.Glue, o.glue)
	}
	if len(b.a.Records) > 0 {
		b.a.Tiers = append(b.a.Tiers, len(b.a.Records))
	}
	b.a.Max = cmp.Or(int(v.Policy.MaxAnswers), b.z.cfg.MaxSRV)
}

// instanceAddrs is an instance's addresses of both families, A first.
func instanceAddrs(name string, ttl uint32, i *discovery.Instance) []dns.RR {
	var ips []netip.Addr
	for k := range i.Endpoints {
		if ip, ok := i.Endpoints[k].IP(); ok && !slices.Contains(ips, ip) {
			ips = append(ips, ip)
		}
	}
	slices.SortFunc(ips, netip.Addr.Compare) // IPv4 sorts first
	rrs := make([]dns.RR, 0, len(ips))
	for _, ip := range ips {
		if ip.Is4() {
			rrs = append(rrs, address(name, dns.TypeA, ttl, ip))
		} else {
			rrs = append(rrs, address(name, dns.TypeAAAA, ttl, ip))
		}
	}
	return rrs
}

// metadata is one TXT record "key=value" for each pair (RFC 1464), in order of keys. A
// pair longer than one character-string is split over several, to be joined.
func metadata(name string, ttl uint32, meta map[string]string) []dns.RR {
	keys := make([]string, 0, len(meta))
	for k := range meta {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var rrs []dns.RR
	for _, k := range keys {
		pair := k + "=" + meta[k]
		rr := &dns.TXT{Hdr: header(name, dns.TypeTXT, ttl)}
		for len(pair) > maxTXTString {
			rr.Txt = append(rr.Txt, escapeTXT(pair[:maxTXTString]))
			pair = pair[maxTXTString:]
		}
		rr.Txt = append(rr.Txt, escapeTXT(pair))
		rrs = append(rrs, rr)
	}
	return rrs
}

// escapeTXT turns bytes into the form that package dns unescapes when packing.
func escapeTXT(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }

func clamp16(v uint32) uint16 { return uint16(min(v, 0xffff)) }
