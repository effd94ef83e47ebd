package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// EventType tells a put from a delete.
type EventType uint8

// The types of events.
const (
	Put EventType = iota
	Delete
)

func (t EventType) String() string {
	if t == Delete {
		return "DELETE"
	}
	return "PUT"
}

// Event is one change. For a delete, KV has only Key and ModRevision, the revision of the delete. Prev is filled
// WithPrevKV, unless the key is new or its earlier version is compacted.
type Event struct {
	Type EventType
	KV   KV
	Prev *KV
}

// IsCreate tells whether the event made a key that wasn't there.
func (e Event) IsCreate() bool { return e.Type == Put && e.KV.CreateRevision == e.KV.ModRevision }

// WatchBatch is what a watch yields: all of its events of one or more whole revisions, in order. Progress batches have
// no events and say that all events up to Header.Revision have been yielded.
type WatchBatch struct {
	Header   Header
	Events   []Event
	Progress bool
	Created  bool
}

// Watch yields the changes of a key or range from now on, or from WithRev. Lost connections and members are replaced
// without gap or repetition. It ends when the loop is left, or after yielding one error: the context's, a
// [CompactedError], [ErrPermissionDenied], [ErrWatchCanceled], or [ErrClosed].
//
// The watch runs in the goroutine that ranges; while the loop's body runs nothing is received, and the member holds the
// events back. The sequence may be ranged over again; each time it starts anew.
func (c *Client) Watch(ctx context.Context, key string, opts ...Option) iter.Seq2[WatchBatch, error] {
	r, err := newRequest(onWatch, key, nil, opts)
	return func(yield func(WatchBatch, error) bool) {
		if err != nil {
			yield(WatchBatch{}, err)
			return
		}
		w := &watcher{req: r, next: r.rev, yield: yield}
		for attempt := 0; ; attempt++ {
			begun := time.Now()
			err := w.run(ctx, c.conn)
			if w.left {
				return
			}
			if ctx.Err() != nil {
				yield(WatchBatch{}, newError(ctx, pb.Watch_Watch_FullMethodName, "", ctx.Err()))
				return
			}
			if !c.conn.passing(err) {
				yield(WatchBatch{}, err)
				return
			}
			// A stream that held for a while starts the delays over; one that breaks as soon as it stands doesn't.
			if time.Since(begun) > time.Second {
				attempt = 0
			}
			c.log.Debug("sdk: watch broken, resuming", "key", key, "revision", w.next, "err", err)
			c.conn.backoff(ctx, attempt)
		}
	}
}

// watcher is one range over a watch, across the streams it takes.
//
// Invariant: every event below next has been yielded and none at or above it; next is 0 until the start is known.
type watcher struct {
	req      *request
	next     int64
	yield    func(WatchBatch, error) bool
	left     bool    // the consumer has left the loop
	notified bool    // the Created batch has been yielded
	parts    []Event // fragments of an unfinished batch
}

func (r *request) watch(next int64) *pb.WatchRequest {
	c := &pb.WatchCreateRequest{
		Key: r.key, RangeEnd: r.end, StartRevision: next, PrevKv: r.prevKV, ProgressNotify: r.progress, Fragment: r.fragment,
	}
	if r.noPut {
		c.Filters = append(c.Filters, pb.WatchCreateRequest_NOPUT)
	}
	if r.noDelete {
		c.Filters = append(c.Filters, pb.WatchCreateRequest_NODELETE)
	}
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: c}}
}

// run watches on one stream until it breaks or the consumer leaves.
func (w *watcher) run(ctx context.Context, f *failover) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s, err := pb.NewWatchClient(f).Watch(ctx)
	if err != nil {
		return err
	}
	w.parts = nil
	// A send that fails shows its reason on Recv.
	if err := s.Send(w.req.watch(w.next)); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	dog := newWatchdog(func() { _ = s.Send(progressRequest()) }, cancel)
	defer dog.stop()
	for {
		dog.arm()
		resp, err := s.Recv()
		dog.rest()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Unavailable, "sdk: watch: the member has closed the stream")
		}
		if err != nil {
			return err
		}
		if resp.GetCanceled() {
			err := canceled(ctx, resp)
			if judge(err, true, true) == reauthenticate {
				f.auth.forget()
			}
			return err
		}
		if b, ok := w.accept(resp); ok && !w.yield(b, nil) {
			w.left = true
			return nil
		}
	}
}

// accept takes one response in and returns the batch to yield, if there is one.
func (w *watcher) accept(resp *pb.WatchResponse) (WatchBatch, bool) {
	b := WatchBatch{Header: headerFrom(resp.GetHeader())}
	switch {
	case resp.GetCreated():
		if w.next == 0 {
			w.next = b.Header.Revision + 1
		}
		b.Created = w.req.created && !w.notified
		w.notified = true
		return b, b.Created
	case len(resp.GetEvents()) == 0 && !resp.GetFragment():
		if len(w.parts) > 0 {
			return b, false // it came between fragments, so it isn't about them
		}
		w.next = max(w.next, b.Header.Revision+1)
		b.Progress = true
		return b, w.req.progress
	}
	for _, e := range resp.GetEvents() {
		// A member may begin with revisions this watch has had; they are dropped rather than repeated.
		if e.GetKv().GetModRevision() >= w.next {
			w.parts = append(w.parts, eventFrom(e))
		}
	}
	if resp.GetFragment() || len(w.parts) == 0 {
		return b, false
	}
	b.Events, w.parts = w.parts, nil
	w.next = b.Events[len(b.Events)-1].KV.ModRevision + 1
	return b, true
}

func eventFrom(e *mvccpb.Event) Event {
	out := Event{KV: kvFrom(e.GetKv()), Prev: kvPointer(e.GetPrevKv())}
	if e.GetType() == mvccpb.Event_DELETE {
		out.Type = Delete
	}
	return out
}

func progressRequest() *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
}

// canceled turns a member's last word on a watch into an error.
func canceled(ctx context.Context, resp *pb.WatchResponse) error {
	if rev := resp.GetCompactRevision(); rev != 0 {
		return &CompactedError{CompactRevision: rev}
	}
	reason := resp.GetCancelReason()
	// The reason is the text of the error a unary call would have had, sometimes with gRPC's wrapping around it.
	for _, known := range []error{
		rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision,
		rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCNoLeader,
	} {
		if strings.Contains(reason, rpctypes.ErrorDesc(known)) {
			return newError(ctx, pb.Watch_Watch_FullMethodName, "", known)
		}
	}
	if reason == "" {
		reason = "no reason given"
	}
	return newError(ctx, pb.Watch_Watch_FullMethodName, "",
		status.Error(codes.FailedPrecondition, fmt.Sprintf("watch canceled by the member: %s", reason)), ErrWatchCanceled)
}

const (
	// quiet is how long a watch may be silent before the member is asked how far it is. The answer also moves the point
	// to resume from, so that a quiet watch isn't overtaken by compaction.
	quiet = 30 * time.Second
	// patience is how long the answer may take before another member is tried. Members that are catching up don't
	// answer, so it is generous: dead connections are found sooner by gRPC's pings.
	patience = 20 * time.Second
)
