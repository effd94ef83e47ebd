package dnsserver_test

import (
	"context"
	"fmt"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/catalog"
	"github.com/musterhq/muster/dnsserver"
)

// fixed is a source that never changes; a program uses a *catalog.Catalog.
type fixed struct{ snap *catalog.Snapshot }

func (f fixed) Snapshot() *catalog.Snapshot { return f.snap }
func (f fixed) Staleness() time.Duration    { return 0 }

func ExampleOpen() {
	snap := catalog.NewSnapshot(7, discovery.Instance{
		ID: "h1", NS: "default", Svc: "web",
		Endpoints: []discovery.Endpoint{{Name: "http", Addr: "10.0.0.7", Port: 8080}},
	})
	s, err := dnsserver.Open(context.Background(), dnsserver.Config{Listen: "127.0.0.1:0", Source: fixed{snap}})
	if err != nil {
		panic(err)
	}
	defer func() { _ = s.Close() }()

	var m dns.Msg
	reply, err := dns.Exchange(m.SetQuestion("web.svc.muster.internal.", dns.TypeA), s.Addr().String())
	if err != nil {
		panic(err)
	}
	fmt.Println(reply.Answer[0])
	// Output:
	// web.svc.muster.internal.	5	IN	A	10.0.0.7
}
