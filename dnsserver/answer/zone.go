package answer

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/discovery"
)

// Defaults of Config.
const (
	DefaultZone       = discovery.DefaultZone
	DefaultTTL        = 5
	DefaultMaxAnswers = 16
	DefaultMaxSRV     = 64
	// MaxChain bounds the CNAMEs followed for one question.
	MaxChain = 8
	// schemaVersion is the version of Kubernetes' DNS schema that dns-version.Z states.
	schemaVersion = "1.1.0"
)

// Config describes the zone. The zero Config is the default zone without addresses
// for its name server.
type Config struct {
	// Zone is the zone's name; a missing final dot is added.
	Zone string
	// Addrs are this server's own addresses, answered for ns.dns.Z.
	Addrs []netip.Addr
	// TTL in seconds of records whose service states none. 0 means 5.
	TTL uint32
	// NegativeTTL in seconds is the SOA's TTL and MINIMUM: how long resolvers may
	// remember that a name isn't there, so how long a new service may stay unseen.
	// 0 means 5.
	NegativeTTL uint32
	// MaxAnswers and MaxSRV bound the records of one answer where the service's
	// policy doesn't: above, a weighted sample is answered. 0 means 16 and 64.
	MaxAnswers, MaxSRV int
}

// Zone answers questions about one zone.
type Zone struct {
	origin     string // absolute, lower-case
	suffix     string // "." + origin
	nsName     string
	hostmaster string
	cfg        Config
}

// NewZone checks cfg and fills in its defaults.
func NewZone(cfg Config) (*Zone, error) {
	if cfg.Zone == "" {
		cfg.Zone = DefaultZone
	}
	origin := strings.ToLower(dns.Fqdn(cfg.Zone))
	if err := checkOrigin(origin); err != nil {
		return nil, fmt.Errorf("answer: zone %q: %w", cfg.Zone, err)
	}
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.NegativeTTL == 0 {
		cfg.NegativeTTL = DefaultTTL
	}
	if cfg.MaxAnswers == 0 {
		cfg.MaxAnswers = DefaultMaxAnswers
	}
	if cfg.MaxSRV == 0 {
		cfg.MaxSRV = DefaultMaxSRV
	}
	if cfg.MaxAnswers < 0 || cfg.MaxSRV < 0 {
		return nil, fmt.Errorf("answer: the largest number of answers can't be negative: use 0 for the default")
	}
	cfg.Zone = origin
	return &Zone{
		origin: origin, suffix: "." + origin,
		nsName: "ns.dns." + origin, hostmaster: "hostmaster." + origin,
		cfg: cfg,
	}, nil
}

// checkOrigin refuses what would not survive as plain labels.
func checkOrigin(origin string) error {
	if origin == "." {
		return fmt.Errorf("the root can't be served: name a zone such as %s", DefaultZone)
	}
	if len(origin) > 200 {
		return fmt.Errorf("it has %d characters, which leaves too few for names below it: use at most 200", len(origin))
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(origin, "."), ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return fmt.Errorf("%q is not a label: use letters, digits and hyphens", label)
		}
	}
	return nil
}

// Origin is the zone's name, absolute and in lower case.
func (z *Zone) Origin() string { return z.origin }

// Contains reports whether name (absolute, lower-case) is the zone or below it.
func (z *Zone) Contains(name string) bool {
	return name == z.origin || strings.HasSuffix(name, z.suffix)
}

// SOA is the zone's start-of-authority record at a revision. The serial is the
// revision, not a clock, so that nodes agree.
func (z *Zone) SOA(rev int64) *dns.SOA {
	return &dns.SOA{
		Hdr: header(z.origin, dns.TypeSOA, z.cfg.NegativeTTL),
		Ns:  z.nsName, Mbox: z.hostmaster, Serial: Serial(rev),
		Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: z.cfg.NegativeTTL,
	}
}

// Serial is the SOA serial at a revision: the revision modulo 2³² (RFC 1982).
func Serial(rev int64) uint32 { return uint32(rev) }

// ns is the zone's NS record set and its glue.
func (z *Zone) ns() *Answer {
	return &Answer{
		Records: []dns.RR{&dns.NS{Hdr: header(z.origin, dns.TypeNS, z.cfg.TTL), Ns: z.nsName}},
		Glue:    [][]dns.RR{append(z.nsAddrs(dns.TypeA), z.nsAddrs(dns.TypeAAAA)...)},
	}
}

func (z *Zone) nsAddrs(qtype uint16) []dns.RR {
	var rrs []dns.RR
	for _, a := range z.cfg.Addrs {
		if rr := address(z.nsName, qtype, z.cfg.TTL, a); rr != nil {
			rrs = append(rrs, rr)
		}
	}
	return rrs
}

func header(name string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// address is a's record of the wanted type, nil if a is of the other family.
func address(name string, qtype uint16, ttl uint32, a netip.Addr) dns.RR {
	a = a.Unmap()
	switch {
	case qtype == dns.TypeA && a.Is4():
		return &dns.A{Hdr: header(name, qtype, ttl), A: a.AsSlice()}
	case qtype == dns.TypeAAAA && a.Is6():
		return &dns.AAAA{Hdr: header(name, qtype, ttl), AAAA: a.AsSlice()}
	}
	return nil
}
