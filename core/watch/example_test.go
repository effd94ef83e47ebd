package watch_test

import (
	"context"
	"fmt"

	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/watch"
)

// An applier commits, publishes, then notifies; a client pulls what it is owed.
func ExampleHub() {
	store := mvcc.New()
	view := store.Publish()
	hub := watch.NewHub(store.Rev(), func() *mvcc.View { return view }, watch.Config{})
	defer hub.Close()
	put := func(value string) {
		tx := store.Begin()
		tx.Put([]byte("greeting"), []byte(value), 0)
		rev, events := tx.Commit()
		view = store.Publish()
		hub.Notify(rev, events)
	}

	put("hello") // revision 2
	stream := hub.NewStream()
	defer stream.Close()
	stream.Watch(watch.Request{Key: []byte("greeting"), StartRev: 2})
	put("goodbye")
	for range 2 {
		r, err := stream.Next(context.Background())
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("watcher %d at revision %d: created %t, %d events\n", r.WatchID, r.Rev, r.Created, len(r.Events))
	}
	// Output:
	// watcher 0 at revision 2: created true, 0 events
	// watcher 0 at revision 3: created false, 2 events
}
