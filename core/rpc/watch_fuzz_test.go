package rpc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/mvcc"
)

// scripted is a watch stream whose client does what a script says; what stands
// between its requests is done to the store.
type scripted struct {
	grpc.ServerStream
	t      *testing.T
	n      *fakeNode
	script []byte

	creates []*pb.WatchCreateRequest
	cancels map[int64]int
	replies []*pb.WatchResponse
}

func (s *scripted) Context() context.Context { return s.t.Context() }

func (s *scripted) Send(r *pb.WatchResponse) error { s.replies = append(s.replies, r); return nil }

func (s *scripted) SendMsg(m any) error {
	bufs, err := newCodec().Marshal(m)
	if err != nil {
		return err
	}
	r := new(pb.WatchResponse)
	if err := proto.Unmarshal(bufs.Materialize(), r); err != nil {
		s.t.Fatalf("an unreadable response: %v", err)
	}
	return s.Send(r)
}

// step takes a step's kind and its bytes off the script.
func (s *scripted) step() (kind byte, arg []byte, ok bool) {
	if len(s.script) < 2 {
		return 0, nil, false
	}
	n := min(int(s.script[1]), len(s.script)-2)
	kind, arg = s.script[0], s.script[2:2+n]
	s.script = s.script[2+n:]
	return kind, arg, true
}

// Recv carries the script out up to the next request.
func (s *scripted) Recv() (*pb.WatchRequest, error) {
	for {
		kind, arg, ok := s.step()
		switch {
		case !ok:
			return nil, io.EOF
		case kind%4 == 1:
			s.propose(machine.Put, &pb.PutRequest{Key: arg, Value: arg})
		case kind%4 == 2:
			s.propose(machine.DeleteRange, &pb.DeleteRangeRequest{Key: arg, RangeEnd: []byte{0}})
		case kind%4 == 3:
			s.propose(machine.Compact, &pb.CompactionRequest{Revision: s.n.View().KV.Rev() - int64(len(arg))})
		default:
			var r pb.WatchRequest
			if proto.Unmarshal(arg, &r) != nil {
				continue // grpc would have ended the stream
			}
			if c := r.GetCreateRequest(); c != nil {
				if c.WatchId == -1 {
					continue // taken, as by etcd; nobody could tell its answers apart
				}
				s.creates = append(s.creates, c)
			}
			if c := r.GetCancelRequest(); c != nil {
				s.cancels[c.WatchId]++
			}
			return &r, nil
		}
	}
}

// propose ignores refusals: the store is only there to have a history.
func (s *scripted) propose(kind machine.Kind, req proto.Message) {
	_, _ = s.n.Propose(s.t.Context(), kind, mustMarshal(s.t, req), "", 0)
}

// watching is a watcher as its client sees it.
type watching struct {
	req  *pb.WatchCreateRequest
	from int64
	got  []string
}

// check goes through the responses as a client does.
func (s *scripted) check() {
	live := map[int64]*watching{}
	created := 0
	for i, r := range s.replies {
		fail := func(format string, a ...any) {
			s.t.Helper()
			s.t.Fatalf("response %d, %v: "+format, append([]any{i, r}, a...)...)
		}
		w := live[r.WatchId]
		switch {
		case r.Created:
			if created == len(s.creates) {
				fail("more watchers than were asked for")
			}
			req := s.creates[created]
			created++
			switch {
			case r.Canceled && (r.WatchId != -1 || r.CancelReason == ""):
				fail("a refusal needs id -1 and a reason")
			case r.Canceled:
				continue
			case w != nil || req.WatchId != 0 && req.WatchId != r.WatchId:
				fail("wrong id")
			}
			w = &watching{req: req, from: req.StartRevision}
			if w.from == 0 {
				w.from = r.Header.Revision + 1
			}
			live[r.WatchId] = w
		case r.WatchId == -1:
			if len(r.Events) > 0 || r.Canceled {
				fail("neither progress nor a refusal")
			}
		case w == nil && r.Canceled && s.cancels[r.WatchId] > 0:
			// A watcher that compaction had canceled before its client did.
		case w == nil:
			fail("there is no such watcher")
		case r.Canceled:
			if s.cancels[r.WatchId] == 0 && r.CompactRevision == 0 {
				fail("canceled for no reason")
			}
			s.compare(w, w.last())
			delete(live, r.WatchId)
		default:
			for _, ev := range r.Events {
				w.got = append(w.got, fmt.Sprintf("%d %s %q", ev.Kv.ModRevision, ev.Type, ev.Kv.Key))
			}
		}
	}
	if created != len(s.creates) {
		s.t.Fatalf("%d watchers were asked for, %d requests answered", len(s.creates), created)
	}
	for _, w := range live {
		s.compare(w, s.n.View().KV.Rev())
	}
}

// last is the revision of the last event received, 0 if none was.
func (w *watching) last() (rev int64) {
	if n := len(w.got); n > 0 {
		_, _ = fmt.Sscan(w.got[n-1], &rev)
	}
	return rev
}

// compare holds what a watcher got against history up to a revision, as far
// back as that is there.
func (s *scripted) compare(w *watching, to int64) {
	s.t.Helper()
	v := s.n.View().KV
	from := max(w.from, v.CompactRev()+1, 1)
	got := w.got
	for len(got) > 0 {
		var rev int64
		if _, err := fmt.Sscan(got[0], &rev); err != nil || rev >= from {
			break
		}
		got = got[1:]
	}
	var want []string
	if from <= to {
		err := v.Events(from, to, func(e mvcc.Event) bool {
			kv := e.KV.Decode()
			typ := "PUT"
			if e.Delete {
				typ = "DELETE"
			}
			if watches(w.req, kv.Key, e.Delete) {
				want = append(want, fmt.Sprintf("%d %s %q", e.Rev, typ, kv.Key))
			}
			return true
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.t.Fatalf("watcher %v from %d to %d\ngot  %v\nwant %v", w.req, from, to, got, want)
	}
}

func watches(r *pb.WatchCreateRequest, key []byte, del bool) bool {
	for _, f := range r.Filters {
		if f == pb.WatchCreateRequest_NODELETE && del || f == pb.WatchCreateRequest_NOPUT && !del {
			return false
		}
	}
	begin := r.Key
	if len(begin) == 0 {
		begin = []byte{0}
	}
	switch {
	case len(r.RangeEnd) == 0:
		return bytes.Equal(key, begin)
	case bytes.Equal(r.RangeEnd, []byte{0}):
		return bytes.Compare(key, begin) >= 0
	}
	return bytes.Compare(key, begin) >= 0 && bytes.Compare(key, r.RangeEnd) < 0
}

// FuzzWatchRequests has a client ask for anything, in any order, while the store
// changes: every request is answered once and every watcher gets its history.
func FuzzWatchRequests(f *testing.F) {
	join := func(steps ...[]byte) []byte { return bytes.Join(steps, nil) }
	step := func(kind byte, arg []byte) []byte { return append([]byte{kind, byte(len(arg))}, arg...) }
	create := func(r *pb.WatchCreateRequest) []byte {
		return step(0, mustMarshal(f, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}))
	}
	cancel := func(id int64) []byte {
		return step(0, mustMarshal(f, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}))
	}
	progress := step(0, mustMarshal(f, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}))
	put, del, compact := step(1, []byte("a")), step(2, []byte("a")), step(3, nil)
	all := []byte{0}
	f.Add(join(create(&pb.WatchCreateRequest{Key: []byte("a"), PrevKv: true, ProgressNotify: true, Fragment: true}), put, put, del, progress, cancel(0), put))
	f.Add(join(put, put, compact, put, create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 1}), cancel(0), cancel(0), create(&pb.WatchCreateRequest{RangeEnd: all, StartRevision: 3})))
	f.Add(join(create(&pb.WatchCreateRequest{WatchId: -1}), create(&pb.WatchCreateRequest{WatchId: 5}), create(&pb.WatchCreateRequest{WatchId: 5}), cancel(5), put, step(1, all)))
	f.Add(join(create(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a"), StartRevision: -9}), create(&pb.WatchCreateRequest{
		RangeEnd: all, StartRevision: 1 << 62,
		Filters: []pb.WatchCreateRequest_FilterType{0, 1, 7},
	}), progress, put))
	f.Add(join(step(0, nil), create(&pb.WatchCreateRequest{RangeEnd: all, Filters: []pb.WatchCreateRequest_FilterType{1}}), put, del, put))
	f.Fuzz(func(t *testing.T, script []byte) {
		n := newFakeNode(t, machine.Config{})
		s := NewWatchServer(WatchConfig{Hub: n.hub, Term: n.Term, MaxFragmentBytes: 100})
		st := n.hub.NewStream()
		progress := &progressTimer{tick: st.Tick, interval: time.Hour}
		gs := &scripted{t: t, n: n, script: script[:min(len(script), 4*200)], cancels: map[int64]int{}}
		if err := s.receive(t.Context(), gs, st, progress); err != nil {
			t.Fatal(err)
		}
		progress.stop()
		st.Tick()
		for {
			r, ok, err := st.Poll(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if err := s.send(gs, &r); err != nil {
				t.Fatal(err)
			}
		}
		gs.check()
		st.Close()
		if got := n.hub.Stats(); got.Streams != 0 || got.Watchers != 0 || got.Behind != 0 || got.PendingEvents != 0 {
			t.Fatalf("left behind: %+v", got)
		}
	})
}
