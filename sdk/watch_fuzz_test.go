package sdk

import (
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/musterhq/muster/internal/choices"
)

// FuzzWatchStreams delivers one history as members may: from any point at or before the one asked for, in fragments cut
// anywhere, progress reported in between, from members that lag, over streams that break. What is yielded is the history,
// every event once, in whole revisions, and progress never promises more than has been yielded.
func FuzzWatchStreams(f *testing.F) {
	const created, events, fragment, last, progress, cut = 0, 1, 2, 3, 4, 5
	f.Add(int64(0), []byte{created, 3, events, 9, progress, 0, cut, 0, created, 9, events, 40})
	f.Add(int64(2), []byte{created, 0, fragment, 2, progress, 0, fragment, 1, last, 30, cut, 3, created, 1, events, 200})
	f.Add(int64(5), []byte{created, 9, fragment, 3, cut, 0, created, 9, last, 3, events, 1, events, 1, progress, 0})
	f.Fuzz(func(t *testing.T, start int64, script []byte) {
		// The history: two revisions of one event, one of three, and so on.
		var history []*mvccpb.Event
		const first, lastRev = 2, 40
		for rev := int64(first); rev <= lastRev; rev++ {
			for range 1 + rev%3*(rev%2) {
				history = append(history, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte{byte(len(history))}, ModRevision: rev}})
			}
		}
		from := func(rev int64) int {
			i := slices.IndexFunc(history, func(e *mvccpb.Event) bool { return e.Kv.ModRevision >= rev })
			if i < 0 {
				i = len(history)
			}
			return i
		}
		start = max(start%lastRev, 0)
		var yielded []byte // keys, which number the events
		d := choices.ScriptOf(script, 400)
		w := &watcher{req: &request{progress: true, fragment: true}, next: start}
		begun := -1       // the first event that is wanted
		at, open := -1, 0 // what is sent next on this stream, and from where its fragments have come
		send := func(r *pb.WatchResponse, rev int64) {
			r.Header = &pb.ResponseHeader{Revision: rev}
			b, ok := w.accept(r)
			if !ok {
				return
			}
			for _, e := range b.Events {
				yielded = append(yielded, e.KV.Key...)
			}
			if b.Progress && begun >= 0 && begun+len(yielded) < from(b.Header.Revision+1) {
				t.Fatalf("progress to %d promised after %d events from %d on", b.Header.Revision, len(yielded), begun)
			}
			if n := len(b.Events); n > 0 {
				if end := from(b.Events[n-1].KV.ModRevision + 1); begun+len(yielded) != end {
					t.Fatalf("a revision was taken apart: %d events from %d on, it ends at %d", len(yielded), begun, end)
				}
			}
		}
		for d.Left() {
			op, arg := int64(d.Next())%6, int64(d.Next())
			if at < 0 && op != created {
				continue
			}
			fragmented := at != open
			switch op {
			case created:
				if at >= 0 {
					continue
				}
				member := first + arg%(lastRev-first+1) // how far this member is
				asked := w.next
				if asked == 0 {
					asked = member + 1
				}
				if begun < 0 {
					begun = from(asked)
				}
				at = from(asked)
				if w.next > 0 { // a member may begin too early, at a revision's beginning
					at = from(max(asked-arg%3, first))
				}
				open = at
				send(&pb.WatchResponse{Created: true}, member)
			case events, last:
				to := min(at+1+int(arg), len(history))
				for to < len(history) && history[to].Kv.ModRevision == history[to-1].Kv.ModRevision {
					to++
				}
				if at == len(history) {
					continue
				}
				send(&pb.WatchResponse{Events: history[at:to]}, history[to-1].Kv.ModRevision)
				at, open = to, to
			case fragment:
				to := min(at+int(arg%4), len(history)-1) // one is left for the end
				if to < at {
					continue
				}
				send(&pb.WatchResponse{Events: history[at:to], Fragment: true}, lastRev)
				at = to
			case progress:
				rev := int64(lastRev)
				if at < len(history) {
					rev = history[at].Kv.ModRevision - 1
				}
				if !fragmented || len(w.parts) > 0 { // between fragments it isn't about them
					send(&pb.WatchResponse{}, rev)
				}
			case cut:
				at, w.parts = -1, nil // as run begins
			}
		}
		for i, key := range yielded {
			if int(key) != begun+i {
				t.Fatalf("event %d is number %d of the history, want %d", i, key, begun+i)
			}
		}
		if begun < 0 {
			return
		}
		// A member that is up to date brings the rest.
		w.parts = nil
		if i := from(w.next); w.next > 0 && i < len(history) {
			send(&pb.WatchResponse{Events: history[i:]}, lastRev)
		}
		if begun+len(yielded) != len(history) {
			t.Fatalf("%d events of %d from %d on", len(yielded), len(history), begun)
		}
	})
}
