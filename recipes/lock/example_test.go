package lock_test

import (
	"context"
	"log"

	"github.com/musterhq/muster/recipes/lock"
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

	l, err := lock.NewMutex(s, "jobs/nightly").Lock(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Unlock(ctx)
	// What is in the store is written under the guard, and while the lock can be relied on.
	r, err := c.Txn(l.Context(), sdk.Txn{If: l.Guard(), Then: []sdk.Op{sdk.OpPut("jobs/nightly-state", []byte("running"))}})
	if err != nil {
		log.Fatal(err)
	}
	if !r.Succeeded {
		log.Print("the lock has passed on")
	}
}
