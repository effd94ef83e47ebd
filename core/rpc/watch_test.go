package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/watch"
)

// etcdClient is etcd's own client on the in-memory connection's listener.
func etcdClient(t *testing.T, conn *grpc.ClientConn) (clientv3.Watcher, clientv3.KV) {
	t.Helper()
	c := clientv3.NewCtxClient(t.Context())
	w := clientv3.NewWatchFromWatchClient(pb.NewWatchClient(conn), c)
	t.Cleanup(func() {
		if err := w.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("close watcher: %v", err)
		}
	})
	return w, clientv3.NewKVFromKVClient(pb.NewKVClient(conn), c)
}

func TestEtcdClientResumesMergesFragmentsAndSeesProgress(t *testing.T) {
	conn, _ := serve(t, newFakeNode(t, machine.Config{}), nil)
	w, kv := etcdClient(t, conn)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := w.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithFragment(), clientv3.WithCreatedNotify())
	if r := <-events; !r.Created {
		t.Fatalf("first response: %+v", r)
	}

	// 40 values of 100 KB: as previous pairs of one deletion they make 4 MB.
	big := strings.Repeat("v", 100_000)
	for i := range 40 {
		if _, err := kv.Put(ctx, fmt.Sprintf("k%02d", i), big+fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kv.Delete(ctx, "k", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	puts := 0
	var last clientv3.WatchResponse
	for puts < 40 {
		last = <-events
		for _, ev := range last.Events {
			if want := fmt.Sprintf("k%02d", puts); string(ev.Kv.Key) != want || string(ev.Kv.Value) != big+fmt.Sprint(puts) {
				t.Fatalf("event %d is of %s with %d bytes", puts, ev.Kv.Key, len(ev.Kv.Value))
			}
			puts++
		}
	}
	last = <-events
	if len(last.Events) != 40 {
		t.Fatalf("deletion arrived as %d events, want 40 in one response", len(last.Events))
	}
	for i, ev := range last.Events {
		if ev.Type != clientv3.EventTypeDelete || string(ev.PrevKv.Value) != big+fmt.Sprint(i) {
			t.Fatalf("deletion %d: type %s, previous value of %d bytes", i, ev.Type, len(ev.PrevKv.GetValue()))
		}
	}
	if err := w.RequestProgress(ctx); err != nil {
		t.Fatal(err)
	}
	if r := <-events; !r.IsProgressNotify() || r.Header.Revision != last.Header.Revision {
		t.Fatalf("progress: %+v", r)
	}

	// From the past, on a second stream of the same client.
	again := w.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithRev(30))
	got := 0
	for rev := int64(30); got < 12+40; {
		for _, ev := range (<-again).Events {
			if ev.Kv.ModRevision != min(rev, last.Header.Revision) {
				t.Fatalf("revision %d, want %d", ev.Kv.ModRevision, rev)
			}
			rev++
			got++
		}
	}
	cancel()
	for range events {
	}
	for range again {
	}
}

func TestFragmentsStayBelowTheLimitAndTheLastSaysSo(t *testing.T) {
	const limit = 10_000
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, func(cfg *Config) {
		cfg.Watch = NewWatchServer(WatchConfig{Hub: n.hub, Term: n.Term, MaxFragmentBytes: limit})
	})
	c := openWatch(t, conn)
	for i := range 20 {
		c.put(fmt.Sprintf("k%02d", i), strings.Repeat("v", 1000+300*i))
	}
	c.create(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), Fragment: true, StartRevision: 2})
	c.create(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: 2})
	fragments := map[int64]int{}
	events := map[int64]int{}
	for _, r := range c.quiet(n.hub) {
		if r.Created {
			continue
		}
		for _, ev := range r.Events {
			if want := fmt.Sprintf("k%02d", events[r.WatchId]); string(ev.Kv.Key) != want {
				t.Fatalf("watcher %d got %s, want %s", r.WatchId, ev.Kv.Key, want)
			}
			events[r.WatchId]++
		}
		fragments[r.WatchId]++
		if r.WatchId == 0 && proto.Size(r) >= limit {
			t.Errorf("fragment of %d bytes, limit %d", proto.Size(r), limit)
		}
		if more := r.WatchId == 0 && events[0] < 20; r.Fragment != more {
			t.Errorf("watcher %d after %d events: fragment=%t", r.WatchId, events[r.WatchId], r.Fragment)
		}
	}
	if events[0] != 20 || events[1] != 20 || fragments[0] < 8 || fragments[1] != 1 {
		t.Errorf("events %v in responses %v", events, fragments)
	}
}

func TestWatchReplyIsWhatProtobufWouldWrite(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	id := newIdentity(fakeCluster, fakeID)
	st := n.hub.NewStream()
	st.Watch(watch.Request{Key: []byte("k"), End: []byte{0}, PrevKV: true, StartRev: 1})
	for _, size := range []int{0, 10, byReference, 20, byReference + 1} {
		if _, err := n.Propose(t.Context(), machine.Put, mustMarshal(t, &pb.PutRequest{Key: []byte("k"), Value: make([]byte, size)}), "", 0); err != nil {
			t.Fatal(err)
		}
	}
	var responses []watch.Response
	for {
		r, ok, err := st.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		responses = append(responses, r)
	}
	if len(responses) != 2 || len(responses[1].Events) != 5 {
		t.Fatalf("%d responses", len(responses))
	}
	responses = append(responses,
		watch.Response{WatchID: -1, Rev: 1 << 62, Created: true, Canceled: true, Err: watch.ErrDuplicateID},
		watch.Response{WatchID: 1 << 62, Canceled: true, CompactRev: 1 << 62},
		watch.Response{},
	)
	for _, r := range responses {
		m := watchReply{id: &id, term: 1 << 63, Response: &r, events: r.Events, more: true}
		bufs, err := m.encode().marshalWire()
		if err != nil {
			t.Fatal(err)
		}
		wire := bufs.Materialize()
		if len(wire) > m.size() {
			t.Errorf("%d bytes, at most %d announced", len(wire), m.size())
		}
		got := new(pb.WatchResponse)
		if err := proto.Unmarshal(wire, got); err != nil {
			t.Fatal(err)
		}
		want := &pb.WatchResponse{
			Header:  &pb.ResponseHeader{ClusterId: fakeCluster, MemberId: fakeID, Revision: r.Rev, RaftTerm: 1 << 63},
			WatchId: r.WatchID, Created: r.Created, Canceled: r.Canceled, CompactRevision: r.CompactRev, Fragment: true,
		}
		if r.Err != nil {
			want.CancelReason = cancelReason(r.Err)
		}
		want.Events = got.Events // their bytes are the store's; the transcript covers them
		if !proto.Equal(got, want) || len(got.Events) != len(r.Events) {
			t.Errorf("got %v\nwant %v", got, want)
		}
		again, err := proto.MarshalOptions{Deterministic: true}.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if string(again) != string(wire) {
			t.Errorf("not the canonical encoding of %v", describe(got))
		}
	}
}

func TestWatchThatIsNotPermittedIsCanceledWithTheReason(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, func(cfg *Config) {
		cfg.Watch = NewWatchServer(WatchConfig{Hub: n.hub, Term: n.Term, Authorize: func(_ context.Context, key, end []byte) error {
			if string(key) == "\x00" && string(end) == "\x00" {
				return rpctypes.ErrGRPCPermissionDenied
			}
			return nil
		}})
	})
	c := openWatch(t, conn)
	c.create(&pb.WatchCreateRequest{RangeEnd: []byte{0}})
	if r := c.next(); !r.Created || !r.Canceled || r.WatchId != -1 || r.CancelReason != rpctypes.ErrGRPCPermissionDenied.Error() {
		t.Errorf("got %s", describe(r))
	}
	c.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte{0}})
	if r := c.next(); !r.Created || r.Canceled {
		t.Errorf("got %s", describe(r))
	}
}

func TestWatchersGoOnWhenTheClientHasNoMoreToAsk(t *testing.T) {
	conn, _ := serve(t, newFakeNode(t, machine.Config{}), nil)
	c := openWatch(t, conn)
	c.send(&pb.WatchRequest{}) // of no kind: ignored
	c.create(&pb.WatchCreateRequest{Key: []byte("k")})
	c.next()
	if err := c.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	c.put("k", "1")
	if r := c.next(); len(r.Events) != 1 {
		t.Errorf("got %s", describe(r))
	}
}

func TestWatchStreamsEndWithTheReasonWhenHubOrServerStops(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, s := serve(t, n, nil)
	ended := func(c *watchClient, want error) {
		t.Helper()
		for range c.responses {
		}
		if got := status.Convert(c.err); got.Code() != status.Code(want) || got.Message() != status.Convert(want).Message() {
			t.Errorf("stream ended with %v, want %v", c.err, want)
		}
	}
	c := openWatch(t, conn)
	c.create(&pb.WatchCreateRequest{Key: []byte("k")})
	c.next()
	s.guard.streams.close(rpctypes.ErrGRPCStopped)
	ended(c, rpctypes.ErrGRPCStopped)

	n = newFakeNode(t, machine.Config{})
	conn, _ = serve(t, n, nil)
	c = openWatch(t, conn)
	c.create(&pb.WatchCreateRequest{Key: []byte("k")})
	c.next()
	n.hub.Close()
	ended(c, rpctypes.ErrGRPCStopped)
	if got := n.hub.Stats(); got.Streams != 0 || got.Watchers != 0 {
		t.Errorf("left behind: %+v", got)
	}
}

func TestWatchStreamThatIsCanceledSaysWhy(t *testing.T) {
	for cause, want := range map[error]error{
		context.Canceled:         rpctypes.ErrGRPCWatchCanceled,
		rpctypes.ErrGRPCNoLeader: rpctypes.ErrGRPCNoLeader,
		io.ErrUnexpectedEOF:      io.ErrUnexpectedEOF,
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if got := streamEnd(ctx, ctx.Err()); !errors.Is(got, want) {
			t.Errorf("canceled for %v: %v, want %v", cause, got, want)
		}
	}
}

func TestProgressIsNotifiedOnceAnIntervalUnlessThereWereEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(t, machine.Config{})
		conn, _ := serve(t, n, nil)
		c := openWatch(t, conn)
		c.create(&pb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: true})
		c.create(&pb.WatchCreateRequest{Key: []byte("b"), ProgressNotify: true})
		c.create(&pb.WatchCreateRequest{Key: []byte("c")})
		for range 3 {
			c.next()
		}
		start := time.Now()
		for range 2 {
			if r := c.next(); len(r.Events) != 0 || r.Header.Revision != 1 {
				t.Errorf("got %s", describe(r))
			}
		}
		if d := time.Since(start); d < 10*time.Minute || d >= 11*time.Minute {
			t.Errorf("first progress after %v", d)
		}
		c.put("a", "1")
		if r := c.next(); r.WatchId != 0 || len(r.Events) != 1 {
			t.Errorf("got %s", describe(r))
		}
		start = time.Now()
		if r := c.next(); r.WatchId != 1 || len(r.Events) != 0 || r.Header.Revision != 2 {
			t.Errorf("got %s", describe(r))
		}
		if r := c.next(); r.WatchId != 0 || len(r.Events) != 0 {
			t.Errorf("got %s", describe(r))
		}
		if d := time.Since(start); d < 20*time.Minute || d >= 22*time.Minute {
			t.Errorf("elided progress came after %v", d)
		}
	})
}
