package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// requireEvents reads a watch until it has told of as many events as are
// wanted, each as "+key=value" or "-key", with "(previous)" behind it.
func requireEvents(t *testing.T, ch clientv3.WatchChan, prefix string, want ...string) {
	t.Helper()
	var got []string
	ctx := within(t, patience)
	for len(got) < len(want) {
		select {
		case r, ok := <-ch:
			if !ok || r.Err() != nil {
				t.Fatalf("the watch ended (%v) after %q, want %q", r.Err(), got, want)
			}
			for _, e := range r.Events {
				got = append(got, eventText(e, prefix))
			}
		case <-ctx.Done():
			t.Fatalf("the watch told of %q only, want %q", got, want)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the watch told of %q, want %q", got, want)
	}
}

func eventText(e *clientv3.Event, prefix string) string {
	s := "+" + strings.TrimPrefix(string(e.Kv.Key), prefix) + "=" + string(e.Kv.Value)
	if e.Type == clientv3.EventTypeDelete {
		s = "-" + strings.TrimPrefix(string(e.Kv.Key), prefix)
	}
	if e.PrevKv != nil {
		s += "(" + string(e.PrevKv.Value) + ")"
	}
	return s
}

// watching is a context for a watch, which ends with the test.
func watching(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(t.Context()))
	t.Cleanup(cancel)
	return ctx
}

func testWatchRevisions(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	first := put(t, cl, p+"k", "1").Header.Revision
	put(t, cl, p+"k", "2")
	must[*clientv3.DeleteResponse](t)(cl.Delete(within(t, patience), p+"k"))
	past := cl.Watch(watching(t), p+"k", clientv3.WithRev(first))
	second := cl.Watch(watching(t), p+"k", clientv3.WithRev(first+1))
	future := cl.Watch(watching(t), p+"k", clientv3.WithRev(first+4), clientv3.WithCreatedNotify())
	if r := <-future; !r.Created || len(r.Events) > 0 {
		t.Fatalf("created notification: %v", r)
	}
	put(t, cl, p+"k", "3")
	put(t, cl, p+"k", "4")
	requireEvents(t, past, p, "+k=1", "+k=2", "-k", "+k=3", "+k=4")
	requireEvents(t, second, p, "+k=2", "-k", "+k=3", "+k=4")
	requireEvents(t, future, p, "+k=4")
}

func testWatchOptions(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	rev := put(t, cl, p+"a", "0").Header.Revision
	from := func(opts ...clientv3.OpOption) clientv3.WatchChan {
		return cl.Watch(watching(t), p, append(opts, clientv3.WithPrefix(), clientv3.WithRev(rev+1))...)
	}
	all, noPut, noDelete := from(clientv3.WithPrevKV()), from(clientv3.WithFilterPut()), from(clientv3.WithFilterDelete())
	some := cl.Watch(watching(t), p+"b", clientv3.WithRange(p+"c"), clientv3.WithRev(rev+1))
	put(t, cl, p+"a", "1")
	put(t, cl, p+"b", "2")
	put(t, cl, p+"c", "3")
	must[*clientv3.TxnResponse](t)(cl.Txn(within(t, patience)).Then(
		clientv3.OpDelete(p+"a"), clientv3.OpPut(p+"b", "4"), clientv3.OpDelete(p+"c", clientv3.WithFromKey(), clientv3.WithRange(p+"d"))).Commit())
	requireEvents(t, all, p, "+a=1(0)", "+b=2", "+c=3", "-a(1)", "+b=4(2)", "-c(3)")
	requireEvents(t, noPut, p, "-a", "-c")
	requireEvents(t, noDelete, p, "+a=1", "+b=2", "+c=3", "+b=4")
	requireEvents(t, some, p, "+b=2", "+b=4")
}

func testWatchProgress(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	ctx := watching(t)
	ch := cl.Watch(ctx, p+"k", clientv3.WithCreatedNotify())
	<-ch
	put(t, cl, p+"k", "1")
	requireEvents(t, ch, p, "+k=1")
	rev := put(t, cl, p+"other", "1").Header.Revision
	deadline := within(t, patience)
	for {
		// A member that is behind answers with where it stands.
		if err := cl.RequestProgress(ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case r := <-ch:
			if !r.IsProgressNotify() {
				t.Fatalf("not a progress notification: %v", r)
			}
			if r.Header.Revision >= rev {
				return
			}
		case <-deadline.Done():
			t.Fatal("no progress notification")
		}
	}
}

func testWatchFragments(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	// One txn whose events, with previous values, are more than a response may hold.
	big := strings.Repeat("x", 32<<10)
	ops := make([]clientv3.Op, 40)
	for i := range ops {
		ops[i] = clientv3.OpPut(fmt.Sprintf("%s%02d", p, i), big)
	}
	var rev int64
	for range 2 {
		rev = must[*clientv3.TxnResponse](t)(cl.Txn(within(t, patience)).Then(ops...).Commit()).Header.Revision
	}
	ch := cl.Watch(watching(t), p, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithFragment(), clientv3.WithRev(rev))
	for got := 0; got < len(ops); {
		select {
		case r := <-ch:
			if r.Err() != nil || len(r.Events) == 0 {
				t.Fatalf("%v after %d events", r.Err(), got)
			}
			for _, e := range r.Events {
				if e.Kv.ModRevision != rev || len(e.PrevKv.Value) != len(big) || string(e.Kv.Key) != fmt.Sprintf("%s%02d", p, got) {
					t.Fatalf("event %d is of %s at %d", got, e.Kv.Key, e.Kv.ModRevision)
				}
				got++
			}
		case <-within(t, patience).Done():
			t.Fatalf("%d events of %d", got, len(ops))
		}
	}
}

func testWatchEnds(t *testing.T, c *Cluster, cl *clientv3.Client, p string) {
	rev := put(t, cl, p+"k", "1").Header.Revision
	put(t, cl, p+"k", "2")
	must[*clientv3.CompactResponse](t)(cl.Compact(within(t, patience), rev+1))
	c.CatchUp(t) // a member that is behind may still serve it
	r := <-cl.Watch(watching(t), p+"k", clientv3.WithRev(rev))
	requireError(t, "watch of what is compacted", r.Err(), rpctypes.ErrCompacted)
	if r.CompactRevision != rev+1 || !r.Canceled {
		t.Errorf("watch of what is compacted: %+v, want compact revision %d", r, rev+1)
	}
	requireEvents(t, cl.Watch(watching(t), p+"k", clientv3.WithRev(rev+1)), p, "+k=2")

	stays := cl.Watch(watching(t), p+"k", clientv3.WithCreatedNotify())
	<-stays
	ctx, cancel := context.WithCancel(watching(t))
	goes := cl.Watch(ctx, p+"k", clientv3.WithCreatedNotify())
	<-goes
	cancel()
	for range goes { // closed in the end
	}
	put(t, cl, p+"k", "3")
	requireEvents(t, stays, p, "+k=3")
}

func testWatchMany(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	const watches = 200
	ctx := watching(t)
	chans := make([]clientv3.WatchChan, watches)
	for i := range chans {
		chans[i] = cl.Watch(ctx, fmt.Sprint(p, i), clientv3.WithCreatedNotify())
	}
	for _, ch := range chans {
		<-ch
	}
	for i := range chans {
		put(t, cl, fmt.Sprint(p, i), "v")
	}
	for i, ch := range chans {
		requireEvents(t, ch, p, fmt.Sprintf("+%d=v", i))
	}
}
