package answer_test

import (
	"fmt"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/catalog"
	"github.com/musterhq/muster/dnsserver/answer"
)

func ExampleZone_Build() {
	snap := catalog.NewSnapshot(7, discovery.Instance{
		ID: "h1", NS: "default", Svc: "web",
		Endpoints: []discovery.Endpoint{{Name: "http", Proto: "tcp", Addr: "10.0.0.7", Port: 8080}},
	})
	zone, err := answer.NewZone(answer.Config{})
	if err != nil {
		panic(err)
	}
	a := zone.Build(snap, answer.Question{Name: "web.default.svc.muster.internal.", Type: dns.TypeSRV})
	fmt.Println(dns.RcodeToString[a.Rcode])
	for i, rr := range a.Records {
		fmt.Println(rr, a.Glue[i])
	}
	// Output:
	// NOERROR
	// web.default.svc.muster.internal.	5	IN	SRV	10 100 8080 h1.web.default.svc.muster.internal. [h1.web.default.svc.muster.internal.	5	IN	A	10.0.0.7]
}
