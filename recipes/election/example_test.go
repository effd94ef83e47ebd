package election_test

import (
	"context"
	"fmt"
	"log"

	"github.com/musterhq/muster/recipes/election"
	"github.com/musterhq/muster/sdk"
)

func Example() {
	ctx := context.Background()
	c, err := sdk.Open(ctx, sdk.Config{Endpoints: []string{"127.0.0.1:2379"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	s, err := sdk.NewSession(ctx, c)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close(ctx)

	l, err := election.New(s, "service/primary").Campaign(ctx, []byte("10.0.0.7:8080"))
	if err != nil {
		log.Fatal(err)
	}
	defer l.Resign(ctx)
	fmt.Println("leading with token", l.Token())
	<-l.Context().Done()
}

func ExampleObserver_Observe() {
	ctx := context.Background()
	c, err := sdk.Open(ctx, sdk.Config{Endpoints: []string{"127.0.0.1:2379"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	for ev, err := range election.NewObserver(c, "service/primary").Observe(ctx) {
		if err != nil {
			log.Print(err)
			return
		}
		if ev.Leader == nil {
			fmt.Println("nobody leads")
			continue
		}
		fmt.Printf("%s leads\n", ev.Leader.Value)
	}
}
