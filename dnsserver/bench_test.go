package dnsserver

import (
	"fmt"
	"testing"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/discovery/catalog"
)

// BenchmarkServe is one query's work without sockets.
func BenchmarkServe(b *testing.B) {
	for _, n := range []int{3, 16, 1000} {
		src := sourceOf(catalog.NewSnapshot(7, copies("web", n, false)...))
		for _, q := range []struct {
			name  string
			qtype uint16
			opts  []opt
		}{
			{"web.svc.muster.internal.", dns.TypeA, nil},
			{"web.svc.muster.internal.", dns.TypeA, []opt{edns(1232)}},
			{"web.svc.muster.internal.", dns.TypeSRV, []opt{edns(1232)}},
			{"absent.svc.muster.internal.", dns.TypeA, []opt{edns(1232)}},
			{"elsewhere.example.", dns.TypeA, []opt{edns(1232)}},
		} {
			b.Run(fmt.Sprintf("instances=%d/%s/%s/edns=%v", n, q.name, dns.TypeToString[q.qtype], q.opts != nil), func(b *testing.B) {
				r := loop(b, src, false)
				msg := packed(b, q.name, q.qtype, q.opts...)
				out := make([]byte, maxUDP)
				b.ReportAllocs()
				for b.Loop() {
					r.serve(msg, out)
				}
			})
		}
	}
}

// BenchmarkServeUncached is what a name not in the cache costs.
func BenchmarkServeUncached(b *testing.B) {
	for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV} {
		b.Run(dns.TypeToString[qtype], func(b *testing.B) {
			r := loop(b, sourceOf(catalog.NewSnapshot(7, copies("web", 3, false)...)), false)
			msg := packed(b, "web.svc.muster.internal.", qtype, edns(1232))
			out := make([]byte, maxUDP)
			b.ReportAllocs()
			for b.Loop() {
				clear(r.cache.positive)
				r.cache.bytes = 0
				r.serve(msg, out)
			}
		})
	}
}

// BenchmarkServeUnusual is a query that miekg/dns has to unpack.
func BenchmarkServeUnusual(b *testing.B) {
	r := loop(b, sourceOf(catalog.NewSnapshot(7, copies("web", 3, false)...)), false)
	msg := packed(b, "web.svc.muster.internal.", dns.TypeSRV, edns(1232), func(m *dns.Msg) {
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
	})
	out := make([]byte, maxUDP)
	b.ReportAllocs()
	for b.Loop() {
		r.serve(msg, out)
	}
}
