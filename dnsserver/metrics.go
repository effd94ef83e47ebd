package dnsserver

import (
	"strconv"
	"sync/atomic"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// counted are the types with a label of their own; all others are "other", since a
// label made of what clients send would have no bound.
var counted = [...]uint16{
	dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypeCNAME, dns.TypeNS,
	dns.TypeSOA, dns.TypePTR, dns.TypeANY, dns.TypeHTTPS, dns.TypeMX,
}

const maxRcode = dns.RcodeBadVers

// counters are one responder's: no two loops share a cache line's traffic.
type counters struct {
	replies                   [len(counted) + 1][maxRcode + 1]atomic.Uint64
	dropped, truncated, built atomic.Uint64
	_                         [64]byte
}

func (c *counters) count(qtype uint16, rcode int) {
	c.replies[typeIndex(qtype)][min(rcode, maxRcode)].Add(1)
}

func typeIndex(qtype uint16) int {
	for i, t := range counted {
		if t == qtype {
			return i
		}
	}
	return len(counted)
}

// collector sums the responders' counters when metrics are gathered.
type collector struct {
	s *Server

	responses, truncated, dropped, built *prometheus.Desc
	revision, staleness, connections     *prometheus.Desc
}

func newCollector(s *Server) *collector {
	zone := prometheus.Labels{"zone": s.zone.Origin()}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("muster_dns_"+name, help, labels, zone)
	}
	return &collector{
		s:           s,
		responses:   desc("responses_total", "Replies sent, by transport, type asked for and response code.", "proto", "type", "rcode"),
		truncated:   desc("truncated_total", "Replies with the bit TC, whose client has to ask again over TCP.", "proto"),
		dropped:     desc("dropped_total", "Messages not answered at all: responses, or shorter than a header.", "proto"),
		built:       desc("answers_built_total", "Answers made from the index rather than copied from the cache of packed answers.", "proto"),
		revision:    desc("index_revision", "Revision of the index answered from, 0 before the first sync."),
		staleness:   desc("index_staleness_seconds", "Time since the index was last known to be up to date with the store."),
		connections: desc("tcp_connections", "Open TCP connections."),
	}
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.responses, c.truncated, c.dropped, c.built, c.revision, c.staleness, c.connections} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.transport(ch, "udp", c.s.udpCounters)
	c.transport(ch, "tcp", c.s.tcpCounters)
	rev := int64(0)
	if snap := c.s.cfg.Source.Snapshot(); snap != nil {
		rev = snap.Rev()
	}
	ch <- prometheus.MustNewConstMetric(c.revision, prometheus.GaugeValue, float64(rev))
	ch <- prometheus.MustNewConstMetric(c.staleness, prometheus.GaugeValue, c.s.cfg.Source.Staleness().Seconds())
	ch <- prometheus.MustNewConstMetric(c.connections, prometheus.GaugeValue, float64(c.s.connections()))
}

func (c *collector) transport(ch chan<- prometheus.Metric, proto string, all []*counters) {
	var truncated, dropped, built uint64
	for _, n := range all {
		truncated += n.truncated.Load()
		dropped += n.dropped.Load()
		built += n.built.Load()
	}
	ch <- prometheus.MustNewConstMetric(c.truncated, prometheus.CounterValue, float64(truncated), proto)
	ch <- prometheus.MustNewConstMetric(c.dropped, prometheus.CounterValue, float64(dropped), proto)
	ch <- prometheus.MustNewConstMetric(c.built, prometheus.CounterValue, float64(built), proto)
	for t := range len(counted) + 1 {
		label := "other"
		if t < len(counted) {
			label = dns.TypeToString[counted[t]]
		}
		for rcode := range maxRcode + 1 {
			var sum uint64
			for _, n := range all {
				sum += n.replies[t][rcode].Load()
			}
			if sum > 0 {
				ch <- prometheus.MustNewConstMetric(c.responses, prometheus.CounterValue, float64(sum), proto, label, rcodeLabel(rcode))
			}
		}
	}
}

func rcodeLabel(rcode int) string {
	if rcode == dns.RcodeBadVers {
		return "BADVERS" // package dns knows 16 as BADSIG, its meaning in TSIG
	}
	if s, ok := dns.RcodeToString[rcode]; ok {
		return s
	}
	return strconv.Itoa(rcode)
}
