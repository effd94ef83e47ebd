package rpc

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/watch"
)

// watchClient is a watch stream at the level of its messages.
type watchClient struct {
	t         *testing.T
	kv        pb.KVClient
	responses chan *pb.WatchResponse
	stream    pb.Watch_WatchClient
	err       error // why responses was closed
}

func openWatch(t *testing.T, conn *grpc.ClientConn) *watchClient {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	st, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := &watchClient{t: t, kv: pb.NewKVClient(conn), stream: st, responses: make(chan *pb.WatchResponse)}
	go func() {
		defer close(c.responses)
		for {
			r, err := st.Recv()
			if err != nil {
				c.err = err
				return
			}
			select {
			case c.responses <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		for range c.responses {
		}
	})
	return c
}

func (c *watchClient) send(r *pb.WatchRequest) {
	c.t.Helper()
	if err := c.stream.Send(r); err != nil {
		c.t.Fatal(err)
	}
}

func (c *watchClient) create(r *pb.WatchCreateRequest) {
	c.t.Helper()
	c.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
}

func (c *watchClient) cancel(id int64) {
	c.t.Helper()
	c.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

func (c *watchClient) progress() {
	c.t.Helper()
	c.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

func (c *watchClient) put(key, value string) {
	c.t.Helper()
	if _, err := c.kv.Put(c.t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *watchClient) next() *pb.WatchResponse {
	c.t.Helper()
	r, ok := <-c.responses
	if !ok {
		c.t.Fatalf("stream ended: %v", c.err)
	}
	return r
}

// quiet returns the responses to everything so far. Of Muster it asks something
// that is refused: a stream answers in order, so the refusal comes last; once
// more after the watchers have read their history. etcd doesn't answer in order,
// so there (hub is nil) it waits.
func (c *watchClient) quiet(hub *watch.Hub) (all []*pb.WatchResponse) {
	c.t.Helper()
	if hub != nil {
		all = c.fence()
		for hub.Stats().Behind > 0 {
			runtime.Gosched()
		}
		return append(all, c.fence()...)
	}
	for {
		select {
		case r := <-c.responses:
			all = append(all, r)
		case <-time.After(400 * time.Millisecond):
			return all
		}
	}
}

func (c *watchClient) fence() (before []*pb.WatchResponse) {
	c.t.Helper()
	c.create(&pb.WatchCreateRequest{Key: []byte("fence"), RangeEnd: []byte("fence")})
	for {
		r := c.next()
		if r.CancelReason == "mvcc: watcher range is empty" {
			return before
		}
		before = append(before, r)
	}
}

func describe(r *pb.WatchResponse) string {
	out := fmt.Sprintf("id=%d rev=%d", r.WatchId, r.Header.Revision)
	if r.Created {
		out += " created"
	}
	if r.Canceled {
		out += " canceled"
	}
	if r.CompactRevision != 0 {
		out += fmt.Sprintf(" compact_revision=%d", r.CompactRevision)
	}
	if r.CancelReason != "" {
		out += fmt.Sprintf(" reason=%q", r.CancelReason)
	}
	if r.Fragment {
		out += " fragment"
	}
	pair := func(kv *mvccpb.KeyValue) string {
		return fmt.Sprintf("%s=%s create=%d mod=%d version=%d lease=%d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
	}
	for _, ev := range r.Events {
		out += fmt.Sprintf("\n  %s %s", ev.Type, pair(ev.Kv))
		if ev.PrevKv != nil {
			out += " prev " + pair(ev.PrevKv)
		}
	}
	return out
}

// TestWatchSpeaksLikeEtcd compares with what etcd 3.7.3 answered to the same
// requests. To record anew, run a fresh etcd and set WATCH_ORACLE to its endpoint.
func TestWatchSpeaksLikeEtcd(t *testing.T) {
	golden := filepath.Join("testdata", "watch-etcd-3.7.3.txt")
	endpoint := os.Getenv("WATCH_ORACLE")
	if endpoint != "" {
		conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := os.WriteFile(golden, []byte(watchTranscript(t, conn, nil)), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	got := watchTranscript(t, conn, n.hub)
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range min(len(gotLines), len(wantLines)) {
		if gotLines[i] != wantLines[i] {
			t.Fatalf("line %d:\n got %s\nwant %s\nall:\n%s", i+1, gotLines[i], wantLines[i], got)
		}
	}
	if len(gotLines) != len(wantLines) {
		t.Fatalf("got %d lines, want %d:\n%s", len(gotLines), len(wantLines), got)
	}
}

// watchTranscript holds the conversation, with etcd if there is no hub. An empty
// store is expected.
func watchTranscript(t *testing.T, conn *grpc.ClientConn, hub *watch.Hub) string {
	var out strings.Builder
	var c *watchClient
	say := func(what string) {
		fmt.Fprintf(&out, "# %s\n", what)
		for _, r := range c.quiet(hub) {
			out.WriteString(describe(r) + "\n")
		}
	}
	type create = pb.WatchCreateRequest

	c = openWatch(t, conn)
	for i := range 6 {
		c.put("a", fmt.Sprint(i))
	}
	if _, err := c.kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 5}); err != nil {
		t.Fatal(err)
	}
	c.create(&create{Key: []byte("a"), StartRevision: 3})
	say("start revision is compacted")
	c.cancel(0)
	say("cancel what compaction canceled")
	c.create(&create{Key: []byte("a"), StartRevision: 5, PrevKv: true})
	say("start at the compacted revision")
	c.progress()
	say("progress")
	c.create(&create{Key: []byte("a"), WatchId: 1})
	say("duplicate id")
	c.create(&create{Key: []byte("a"), StartRevision: -3})
	say("negative revision")
	c.create(&create{RangeEnd: []byte("b")})
	say("empty key")
	c.create(&create{Key: []byte("x"), WatchId: -7})
	say("negative id")
	c.put("b", "1")
	say("put that nobody watches")
	c.cancel(1)
	say("cancel")
	c.cancel(77)
	say("cancel of an unknown id")

	c = openWatch(t, conn)
	c.progress()
	say("progress without watchers")
	c.create(&create{Key: []byte("a"), StartRevision: 10, ProgressNotify: true})
	say("start in the future")
	c.progress()
	say("progress before it")
	c.put("a", "9")
	say("event before it")
	c.put("a", "10")
	say("event at it")
	c.progress()
	say("progress after it")

	c = openWatch(t, conn)
	c.create(&create{Key: []byte("a"), StartRevision: 8, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}})
	say("history")
	if _, err := c.kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	say("filtered delete")

	c = openWatch(t, conn)
	c.create(&create{Key: []byte("a"), RangeEnd: []byte{0}, PrevKv: true, Fragment: true})
	say("from key")
	c.put("a", "1")
	say("created again: no previous pair")
	put := func(k, v string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k), Value: []byte(v)}}}
	}
	if _, err := c.kv.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{
		put("b", "2"),
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a")}}},
		put("c", "3"),
	}}); err != nil {
		t.Fatal(err)
	}
	say("transaction")
	if _, err := c.kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}); err != nil {
		t.Fatal(err)
	}
	say("everything deleted")
	return out.String()
}
