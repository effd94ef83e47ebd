package rpc

import (
	"fmt"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/machine"
)

// BenchmarkWatchDelivery is one put of 256 bytes on its way to a thousand
// watchers over one in-memory connection, client included: a stream each, or all
// on one stream as etcd's client has them.
func BenchmarkWatchDelivery(b *testing.B) {
	const watchers = 1000
	for _, streams := range []int{watchers, 1} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			n := newFakeNode(b, machine.Config{})
			conn, _ := serve(b, n, nil)
			var got sync.WaitGroup
			create := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("key")}}}
			for range streams {
				st, err := pb.NewWatchClient(conn).Watch(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				for range watchers / streams {
					if err := st.Send(create); err != nil {
						b.Fatal(err)
					}
					if _, err := st.Recv(); err != nil {
						b.Fatal(err)
					}
				}
				go func() {
					for {
						r, err := st.Recv()
						if err != nil {
							return
						}
						got.Add(-len(r.Events))
					}
				}()
			}
			body := mustMarshal(b, &pb.PutRequest{Key: []byte("key"), Value: make([]byte, 256)})
			b.ReportAllocs()
			for b.Loop() {
				got.Add(watchers)
				if _, err := n.Propose(b.Context(), machine.Put, body, "", 0); err != nil {
					b.Fatal(err)
				}
				got.Wait()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/watchers, "ns/delivery")
		})
	}
}
