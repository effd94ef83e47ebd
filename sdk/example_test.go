package sdk_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/musterhq/muster/sdk"
)

func open(ctx context.Context) *sdk.Client {
	c, err := sdk.Open(ctx, sdk.Config{Endpoints: []string{"10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"}})
	if err != nil {
		log.Fatal(err)
	}
	return c
}

func Example() {
	ctx := context.Background()
	c := open(ctx)
	defer c.Close()

	if _, err := c.Put(ctx, "config/limit", []byte("100")); err != nil {
		log.Fatal(err)
	}
	r, err := c.Get(ctx, "config/", sdk.WithPrefix())
	if err != nil {
		log.Fatal(err)
	}
	for _, kv := range r.KVs {
		fmt.Printf("%s = %s, since revision %d\n", kv.Key, kv.Value, kv.ModRevision)
	}
}

// A change that depends on what was read is made conditional on it; then repeating after an unknown outcome is safe.
func ExampleClient_Txn() {
	ctx := context.Background()
	c := open(ctx)
	defer c.Close()

	for {
		r, err := c.Get(ctx, "stock/apples")
		if err != nil {
			log.Fatal(err)
		}
		kv, _ := r.First()
		t, err := c.Txn(ctx, sdk.Txn{
			If:   []sdk.Cmp{sdk.CmpMod("stock/apples", "=", kv.ModRevision)},
			Then: []sdk.Op{sdk.OpPut("stock/apples", append(kv.Value, '!'))},
		})
		if errors.Is(err, sdk.ErrUnknownOutcome) {
			continue // read again: it shows whether the change was made
		}
		if err != nil {
			log.Fatal(err)
		}
		if t.Succeeded {
			return
		}
	}
}

// Read the state at one revision, then watch from the next: nothing is missed.
func ExampleClient_Watch() {
	ctx := context.Background()
	c := open(ctx)
	defer c.Close()

	r, err := c.Get(ctx, "config/", sdk.WithPrefix())
	if err != nil {
		log.Fatal(err)
	}
	for batch, err := range c.Watch(ctx, "config/", sdk.WithPrefix(), sdk.WithRev(r.Header.Revision+1)) {
		if err != nil {
			log.Print(err) // sdk.ErrCompacted: begin again with a read
			return
		}
		for _, ev := range batch.Events {
			fmt.Println(ev.Type, ev.KV.Key, string(ev.KV.Value))
		}
	}
}

// What is bound to a session's lease disappears with its process.
func ExampleNewSession() {
	ctx := context.Background()
	c := open(ctx)
	defer c.Close()

	s, err := sdk.NewSession(ctx, c, sdk.WithTTL(15*time.Second))
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close(ctx)
	if _, err := c.Put(ctx, "online/me", nil, sdk.WithLease(s.Lease())); err != nil {
		log.Fatal(err)
	}
	<-s.Done()
	fmt.Println(context.Cause(s.Context()))
}
