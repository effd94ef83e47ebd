package discovery_test

import (
	"fmt"

	"github.com/musterhq/muster/discovery"
)

func ExampleInstance_Validate() {
	i := discovery.Instance{ID: "h12-web", Svc: "web", Endpoints: []discovery.Endpoint{{Name: "http", Addr: "0.0.0.0", Port: 8080}}}
	i.Normalize()
	fmt.Println(i.Validate(discovery.Naming{}))
	// Output:
	// endpoints[0].addr: "0.0.0.0" is the unspecified address: use the address that clients connect to, not the one listened on
}

func ExampleInstance_Encode() {
	i := discovery.Instance{ID: "h12-web", Svc: "web", Endpoints: []discovery.Endpoint{{Name: "http", Addr: "10.0.0.7", Port: 8080}}}
	i.Normalize()
	fmt.Println(i.Ref().InstanceKey())
	fmt.Println(string(i.Encode()))
	// Output:
	// /muster/v1/inst/default/web/h12-web
	// {"id":"h12-web","ns":"default","svc":"web","endpoints":[{"name":"http","proto":"tcp","addr":"10.0.0.7","port":8080}],"weight":100,"warn_weight":10,"priority":10,"state":"UP"}
}
