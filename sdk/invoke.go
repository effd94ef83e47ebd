package sdk

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// bounded gives ctx the default deadline if it has none.
func (f *failover) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, f.cfg.Timeout)
}

// share gives one attempt half of the time that is left if there is another member to ask after it.
func (f *failover) share(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok || len(f.endpoints()) < 2 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/2)
}

// Invoke makes a unary call on whichever member serves it.
func (f *failover) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if err := lookAtClock(ctx); err != nil {
		return newError(ctx, method, "", err)
	}
	ctx, cancel := f.bounded(ctx)
	defer cancel()
	if needsLeader(method, args) {
		ctx = withRequireLeader(ctx)
	}
	read := isRead(method, args)
	var last *Error
	var learners []string // members that don't serve the call for this reason
	for attempt, refused := 0, 0; ; attempt++ {
		m, err := f.pick(ctx)
		if err != nil {
			return f.unserved(ctx, method, err, last)
		}
		sent, err := f.attempt(ctx, m, read, method, args, reply, opts)
		if err == nil {
			return nil
		}
		v := judge(err, sent, read)
		if isLearner(err) && !slices.Contains(learners, m.name) {
			if learners = append(learners, m.name); len(learners) >= len(f.endpoints()) {
				v = final // waiting makes none of them a voter
			}
		}
		if v == reauthenticate {
			if refused++; refused > 2 || f.cfg.Username == "" || method == pb.Auth_Authenticate_FullMethodName {
				v = final
			}
		}
		switch {
		case v == final:
			return newError(ctx, method, m.name, err)
		case v == unknown:
			f.demote(m, err)
			return newError(ctx, method, m.name, err, ErrUnknownOutcome)
		case v == elsewhere:
			f.demote(m, err)
			last = last.orBetter(newError(ctx, method, m.name, err))
		}
		if !f.backoff(ctx, attempt) {
			return f.unserved(ctx, method, ctx.Err(), last)
		}
	}
}

// attempt makes the call once; a read gets its share of the time.
func (f *failover) attempt(
	ctx context.Context, m *member, read bool, method string, args, reply any, opts []grpc.CallOption,
) (sent bool, err error) {
	token := ""
	if method != pb.Auth_Authenticate_FullMethodName {
		if token, err = f.auth.token(ctx, f); err != nil {
			return false, err
		}
	}
	if read {
		var cancel context.CancelFunc
		ctx, cancel = f.share(ctx)
		defer cancel()
	}
	// gRPC fills in the peer once a stream has been opened on a connection; without one nothing was sent.
	var p peer.Peer
	err = m.cc.Invoke(withToken(ctx, token), method, args, reply, append(slices.Clip(opts), grpc.Peer(&p))...)
	if judge(err, true, true) == reauthenticate {
		f.auth.drop(token)
	}
	return p.Addr != nil, err
}

// unserved is the error of a call that ran out of time, or of client, before a member took it.
func (f *failover) unserved(ctx context.Context, method string, err error, last *Error) error {
	if errors.Is(err, ErrClosed) {
		return newError(ctx, method, "", status.Error(codes.Canceled, "the client is closed"), ErrClosed)
	}
	code := status.FromContextError(err).Code()
	if last == nil {
		return newError(ctx, method, "", status.Error(code, "no member was connected in time"), ErrUnavailable)
	}
	return newError(ctx, method, "", status.Error(code, "gave up; last, "+last.Error()), ErrUnavailable, last)
}

// NewStream opens a stream on whichever member is connected, waiting for one no longer than a call would.
func (f *failover) NewStream(
	ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	bounded, cancel := f.bounded(ctx)
	defer cancel()
	if needsLeader(method, nil) {
		ctx = withRequireLeader(ctx)
	}
	var last *Error
	for attempt := 0; ; attempt++ {
		m, err := f.pick(bounded)
		if err != nil {
			return nil, f.unserved(bounded, method, err, last)
		}
		token, err := f.auth.token(bounded, f)
		if err != nil {
			return nil, err
		}
		s, err := m.cc.NewStream(withToken(ctx, token), desc, method, opts...)
		if err == nil {
			return &stream{ClientStream: s, f: f, m: m, ctx: ctx, method: method, token: token}, nil
		}
		if judge(err, false, true) == final {
			return nil, newError(ctx, method, m.name, err)
		}
		f.demote(m, err)
		last = last.orBetter(newError(ctx, method, m.name, err))
		if !f.backoff(bounded, attempt) {
			return nil, f.unserved(bounded, method, bounded.Err(), last)
		}
	}
}

// stream demotes its member when it breaks, so that opening it again tries the next one, and describes errors.
type stream struct {
	grpc.ClientStream
	f             *failover
	m             *member
	ctx           context.Context // the stream's own, to tell the caller's end from the member's
	method, token string
}

func (s *stream) RecvMsg(msg any) error {
	err := s.ClientStream.RecvMsg(msg)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	// A caller that gives up says nothing about the member; one whose time ran out does, and so does a watchdog.
	if !errors.Is(s.ctx.Err(), context.Canceled) || errors.Is(context.Cause(s.ctx), errSilent) {
		switch judge(err, true, true) {
		case reauthenticate:
			s.f.auth.drop(s.token)
		case elsewhere:
			s.f.demote(s.m, err)
		}
	}
	return newError(s.ctx, s.method, s.m.name, err)
}

// pinned is the connection to one member: no fail-over.
func (f *failover) pinned(name string) (grpc.ClientConnInterface, error) {
	m, err := f.memberFor(name)
	if err != nil {
		return nil, err
	}
	return &pinned{f: f, m: m}, nil
}

type pinned struct {
	f *failover
	m *member
}

func (p *pinned) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	ctx, cancel := p.f.bounded(ctx)
	defer cancel()
	token, err := p.f.auth.tokenFrom(ctx, p.m, p.f.cfg)
	if err != nil {
		return err
	}
	var pr peer.Peer
	err = p.m.cc.Invoke(withToken(ctx, token), method, args, reply, append(slices.Clip(opts), grpc.Peer(&pr))...)
	if err == nil {
		return nil
	}
	if judge(err, true, true) == reauthenticate {
		p.f.auth.drop(token)
	}
	switch judge(err, pr.Addr != nil, isRead(method, args)) {
	case unknown:
		return newError(ctx, method, p.m.name, err, ErrUnknownOutcome)
	case elsewhere:
		return newError(ctx, method, p.m.name, err, ErrUnavailable)
	}
	return newError(ctx, method, p.m.name, err)
}

func (p *pinned) NewStream(
	ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	token, err := p.f.auth.tokenFrom(ctx, p.m, p.f.cfg)
	if err != nil {
		return nil, err
	}
	s, err := p.m.cc.NewStream(withToken(ctx, token), desc, method, opts...)
	if err != nil {
		return nil, newError(ctx, method, p.m.name, err)
	}
	return &stream{ClientStream: s, f: p.f, m: p.m, ctx: ctx, method: method, token: token}, nil
}

func withToken(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "token", token)
}
