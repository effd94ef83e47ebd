package sdk

import (
	"context"
	"net"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// BenchmarkGet compares a Get with the bare stub on the same connection: the difference is what fail-over costs.
func BenchmarkGet(b *testing.B) {
	m := answering(1)
	m.start()
	defer m.stop()
	c, err := Open(b.Context(), Config{
		Endpoints: []string{"m:1", "m:2", "m:3"},
		Dial:      func(ctx context.Context, _ string) (net.Conn, error) { return m.dial(ctx) },
	})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.Run("client", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Get(b.Context(), "k"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("stub", func(b *testing.B) {
		member, err := c.conn.pick(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := pb.NewKVClient(member.cc).Range(b.Context(), &pb.RangeRequest{Key: []byte("k")}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
