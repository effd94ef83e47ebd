package differential

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// watchStream is one Watch stream and what its watchers were told. How events
// are spread over responses, and when progress is told, is the server's own
// business; what each watcher hears, and in which order, is not.
type watchStream struct {
	*server
	home      *member // where it was opened
	number    int
	stream    grpc.ClientStream
	responses chan *pb.WatchResponse
	ended     chan struct{} // closed once nothing more is received
	failed    error         // then: why

	live     map[int64]int64 // watchers with their start revisions
	lost     []int64         // those that compaction has canceled
	told     map[int64][]string
	last     map[int64]int64 // revision of a watcher's last event
	partial  map[int64]bool  // a watcher's last response had more to come
	progress int64           // the revision up to which all of them have heard everything
	fresh    bool            // there is a watcher that no word about progress has covered
}

// watchStream gives the stream of that number, opened when it is first used.
func (r *run) watchStream(n int) (*watchStream, error) {
	if w := r.streams[n]; w != nil {
		return w, nil
	}
	stream, err := r.conn.NewStream(r.life, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, watchMethod)
	if err != nil {
		return nil, err
	}
	w := &watchStream{
		server: r.server, home: r.member(), number: n, stream: stream, responses: make(chan *pb.WatchResponse, 1024), ended: make(chan struct{}),
		live: map[int64]int64{}, told: map[int64][]string{}, last: map[int64]int64{}, partial: map[int64]bool{},
	}
	go func() {
		defer close(w.ended)
		for {
			m := new(pb.WatchResponse)
			if w.failed = stream.RecvMsg(m); w.failed != nil {
				return
			}
			select {
			case w.responses <- m:
			case <-stream.Context().Done():
				w.failed = stream.Context().Err()
				return
			}
		}
	}()
	r.streams[n] = w
	return w, nil
}

// watchStep sends a request on a watch stream and waits for what it must be answered with.
func (r *run) watchStep(ctx context.Context, n int, m *pb.WatchRequest) (answer, error) {
	w, err := r.watchStream(n)
	if err != nil {
		return answer{}, err
	}
	if err := r.catchUp(ctx, w.home); err != nil {
		return answer{}, err
	}
	expect := false
	switch u := m.RequestUnion.(type) {
	case *pb.WatchRequest_CreateRequest:
		expect = true
	case *pb.WatchRequest_CancelRequest:
		// Whether a watcher hears what happened just before must not depend on who is faster.
		if err := w.settle(ctx); err != nil {
			return answer{}, err
		}
		_, expect = w.live[u.CancelRequest.WatchId]
	}
	if err := w.send(m); err != nil {
		return answer{}, err
	}
	if !expect {
		return answer{text: "nothing"}, nil
	}
	resp, err := w.control(ctx)
	if err != nil {
		return answer{}, err
	}
	id, canceled := resp.WatchId, resp.Canceled
	text := w.render(resp)
	switch {
	case !resp.Created:
		delete(w.live, id)
	case !canceled:
		w.live[id] = m.GetCreateRequest().GetStartRevision()
		w.fresh = true
	}
	return answer{text: text}, nil
}

func (w *watchStream) send(m proto.Message) error {
	if err := w.stream.SendMsg(m); err != nil && err != io.EOF { //nolint:errorlint // grpc's own, never wrapped; why it ended comes with the answer
		return err
	}
	return nil
}

// control waits for the answer to a request. Responses about events that come before it are noted.
func (w *watchStream) control(ctx context.Context) (*pb.WatchResponse, error) {
	for {
		select {
		case m := <-w.responses:
			if w.note(m) {
				return m, nil
			}
		case <-w.ended:
			return nil, fmt.Errorf("the stream has ended: %w", w.failed)
		case <-ctx.Done():
			return nil, fmt.Errorf("no answer: %w", ctx.Err())
		}
	}
}

// note takes in what the server says of its own accord; true means that it is an answer.
func (w *watchStream) note(m *pb.WatchResponse) (control bool) {
	id := m.WatchId
	switch {
	case len(m.Events) > 0:
		w.noteEvents(m)
	case m.Canceled && m.CompactRevision > 0:
		w.told[id] = append(w.told[id], w.render(m))
		delete(w.live, id)
		w.lost = append(w.lost, id)
	case m.Created || m.Canceled:
		return true
	case id == -1:
		w.progress = max(w.progress, m.Header.GetRevision())
	}
	return false
}

func (w *watchStream) noteEvents(m *pb.WatchResponse) {
	id := m.WatchId
	say := func(format string, args ...any) { w.told[id] = append(w.told[id], fmt.Sprintf(format, args...)) }
	if _, ok := w.live[id]; !ok {
		say("events although there is no such watcher")
	}
	if first := m.Events[0].Kv.ModRevision; first < w.last[id] || first == w.last[id] && !w.partial[id] {
		say("revision %d again, or in two parts", first)
	}
	for _, e := range m.Events {
		if e.Kv.ModRevision < w.last[id] {
			say("back from revision %d", w.last[id])
		}
		w.last[id] = e.Kv.ModRevision
		var b strings.Builder
		renderMessage(&b, e.ProtoReflect(), w.leases)
		w.told[id] = append(w.told[id], b.String())
	}
	if m.Header.GetRevision() < w.last[id] {
		say("a header of revision %d, behind its events", m.Header.GetRevision())
	}
	w.partial[id] = m.Fragment
}

// farAhead is how far ahead of the store a watcher may start to be waited for.
const farAhead = 8

// settle returns once every watcher has heard all there is. As a client does, it
// confirms what compaction has canceled; writes are made until watchers that start
// in the future have begun, and those that start too far off are canceled.
func (w *watchStream) settle(ctx context.Context) error {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	if w.fresh {
		// An answer about progress that is still under way spoke of the watchers there
		// were, and of an earlier revision than this.
		if err := w.mark(ctx); err != nil {
			return err
		}
		w.fresh = false
	}
	for asked := false; ; {
		for len(w.lost) > 0 {
			id := w.lost[0]
			w.lost = w.lost[1:]
			if err := w.end(ctx, id); err != nil {
				return err
			}
		}
		if err := w.begin(ctx); err != nil {
			return err
		}
		if len(w.lost) > 0 {
			continue
		}
		if len(w.live) == 0 || w.progress >= w.rev {
			return nil
		}
		if !asked {
			if err := w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}); err != nil {
				return err
			}
			asked = true
		}
		select {
		case m := <-w.responses:
			if w.note(m) {
				w.told[m.WatchId] = append(w.told[m.WatchId], "unasked: "+w.render(m))
			}
		case <-again.C:
			asked = false
		case <-w.ended:
			return fmt.Errorf("the stream has ended: %w", w.failed)
		case <-ctx.Done():
			return fmt.Errorf("watchers %v don't come to revision %d, only %d: %w", w.live, w.rev, w.progress, ctx.Err())
		}
	}
}

// end cancels a watcher and notes what is answered.
func (w *watchStream) end(ctx context.Context, id int64) error {
	if err := w.send(cancelWatch(0, id).Request); err != nil {
		return err
	}
	m, err := w.control(ctx)
	if err != nil {
		return err
	}
	m.Header.Revision = 0 // as of when the server found out
	w.told[id] = append(w.told[id], w.render(m))
	delete(w.live, id)
	return nil
}

// begin makes sure that all watchers' first revisions are there.
func (w *watchStream) begin(ctx context.Context) error {
	var ids []int64
	for id, start := range w.live {
		if start > w.rev {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		if w.live[id] > w.rev+farAhead {
			if err := w.end(ctx, id); err != nil {
				return err
			}
			continue
		}
		for w.rev < w.live[id] {
			if err := w.mark(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// mark raises the revision.
func (w *watchStream) mark(ctx context.Context) error {
	put := &pb.PutRequest{Key: []byte("~")}
	r, err := pb.NewKVClient(w.conn).Put(ctx, put)
	if err != nil {
		return err
	}
	w.rev = r.Header.Revision
	return w.follow(put, nil)
}

// log is what each watcher was told, in the order of their ids.
func (w *watchStream) log() (lines []string) {
	var ids []int64
	for id := range w.told {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		for _, text := range w.told[id] {
			lines = append(lines, fmt.Sprintf("stream %d watcher %d: %s", w.number, id, text))
		}
	}
	return lines
}
