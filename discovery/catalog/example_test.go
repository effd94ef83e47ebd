package catalog_test

import (
	"fmt"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/catalog"
)

func ExampleNewSnapshot() {
	web := func(id string, state discovery.State) discovery.Instance {
		return discovery.Instance{ID: id, NS: "default", Svc: "web", State: state, Endpoints: []discovery.Endpoint{{Name: "http", Addr: "10.0.0.7", Port: 80}}}
	}
	s := catalog.NewSnapshot(5, web("b", discovery.StateUp), web("a", discovery.StateDraining))
	for _, i := range s.Service("default", "web").Instances {
		fmt.Println(i.Instance.ID, i.Status, i.Serving)
	}
	// Output:
	// a DRAINING false
	// b PASSING true
}
