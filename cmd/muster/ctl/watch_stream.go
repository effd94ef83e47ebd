package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// watchStream is any number of watches on one stream, which is opened again where it broke. The sdk's watches have a
// stream each; interactive mode's "progress" asks about all watches at once, which takes one stream for all.
//
// The goroutine of run owns everything; requests reach it through a channel.
type watchStream struct {
	client   pb.WatchClient
	warnings io.Writer
	requests chan *watch // nil asks for progress
	watches  []*watch    // by id, counted from 1; nil once canceled
}

// watch is one watch.
//
// Invariant: every event below create.StartRevision has been handed on and none at or above it; it is 0 until the watch
// stands.
type watch struct {
	create *pb.WatchCreateRequest
	exec   []string
}

func newWatchStream(conn grpc.ClientConnInterface, warnings io.Writer) *watchStream {
	return &watchStream{client: pb.NewWatchClient(conn), warnings: warnings, requests: make(chan *watch, 1)}
}

// add starts a watch.
func (s *watchStream) add(ctx context.Context, w *watch) {
	select {
	case s.requests <- w:
	case <-ctx.Done():
	}
}

// progress asks how far the watches are.
func (s *watchStream) progress(ctx context.Context) { s.add(ctx, nil) }

// respond handles what comes for a watch: events, progress, or its end.
type respond func(context.Context, *watch, *pb.WatchResponse) error

// run watches until ctx ends, respond fails, or the server refuses for good.
func (s *watchStream) run(ctx context.Context, fn respond) error {
	warned := false
	for {
		heard, err := s.runOnce(ctx, fn)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !broken(err) {
			return err
		}
		if heard {
			warned = false
		}
		if !warned {
			fmt.Fprintf(s.warnings, "Warning: the watch has no connection: %s%s; trying again\n", message(err), lastCause(err.Error()))
			warned = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryPause):
		}
	}
}

// broken tells whether a stream that ended with err may work when opened again.
func broken(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal, codes.ResourceExhausted:
		return true
	}
	return false
}

// runOnce watches on one stream until it breaks. heard tells that the server has answered.
func (s *watchStream) runOnce(ctx context.Context, fn respond) (heard bool, err error) {
	streaming, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.client.Watch(streaming)
	if err != nil {
		return false, err
	}
	for i, w := range s.watches {
		if w != nil {
			s.create(stream, i)
		}
	}
	responses, failed := make(chan *pb.WatchResponse), make(chan error, 1)
	go receive(streaming, stream, responses, failed)
	for {
		select {
		case w := <-s.requests:
			if w == nil {
				send(stream, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
				continue
			}
			s.watches = append(s.watches, w)
			s.create(stream, len(s.watches)-1)
		case resp := <-responses:
			heard = true
			if err := s.accept(ctx, resp, fn); err != nil {
				return heard, err
			}
		case err := <-failed:
			return heard, err
		case <-ctx.Done():
			return heard, ctx.Err()
		}
	}
}

// receive hands on what arrives until the stream or ctx ends.
func receive(ctx context.Context, stream pb.Watch_WatchClient, responses chan<- *pb.WatchResponse, failed chan<- error) {
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.Unavailable, "the member has closed the stream")
		}
		if err != nil {
			failed <- err
			return
		}
		select {
		case responses <- resp:
		case <-ctx.Done():
			return
		}
	}
}

func (s *watchStream) create(stream pb.Watch_WatchClient, i int) {
	s.watches[i].create.WatchId = int64(i + 1)
	send(stream, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: s.watches[i].create}})
}

// send leaves a failure to Recv, which has its reason.
func send(stream pb.Watch_WatchClient, req *pb.WatchRequest) { _ = stream.Send(req) }

// accept takes a response in and hands it on to the watches it is about.
func (s *watchStream) accept(ctx context.Context, resp *pb.WatchResponse, fn respond) error {
	rev := resp.GetHeader().GetRevision()
	if resp.GetWatchId() < 0 && !resp.GetCanceled() {
		// The answer to a progress request is about every watch.
		for _, w := range s.watches {
			if w == nil {
				continue
			}
			w.create.StartRevision = max(w.create.StartRevision, rev+1)
			if err := fn(ctx, w, resp); err != nil {
				return err
			}
		}
		return nil
	}
	w, i := s.find(resp)
	if w == nil {
		return nil
	}
	switch {
	case resp.GetCanceled():
		if strings.Contains(resp.GetCancelReason(), "no leader") {
			return status.Error(codes.Unavailable, "etcdserver: no leader")
		}
		s.watches[i] = nil
	case resp.GetCreated():
		if w.create.GetStartRevision() == 0 {
			w.create.StartRevision = rev + 1
		}
		return nil
	case len(resp.GetEvents()) == 0:
		w.create.StartRevision = max(w.create.StartRevision, rev+1)
	default:
		events := resp.GetEvents()
		// A member may begin with revisions this watch has had.
		for len(events) > 0 && events[0].GetKv().GetModRevision() < w.create.GetStartRevision() {
			events = events[1:]
		}
		if len(events) == 0 {
			return nil
		}
		resp.Events = events
		w.create.StartRevision = events[len(events)-1].GetKv().GetModRevision() + 1
	}
	return fn(ctx, w, resp)
}

// find is the watch a response is about. One that could not be made is canceled under id -1: it is the last one asked for.
func (s *watchStream) find(resp *pb.WatchResponse) (*watch, int) {
	i := int(resp.GetWatchId()) - 1
	if i < 0 {
		i = len(s.watches) - 1
	}
	if i < 0 || i >= len(s.watches) {
		return nil, 0
	}
	return s.watches[i], i
}
