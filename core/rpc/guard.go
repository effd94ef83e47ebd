package rpc

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// guard is what every call passes on its way in and out: the access table,
// the rules for learners and for clients that insist on a leader, and the
// counters. There is one way in for the generated services (the interceptors)
// and one for the hot ones (hot), which costs no allocation.
type guard struct {
	node    Node
	methods map[string]*method
	metrics *metrics
	log     *slog.Logger
	warn    time.Duration
	streams streamSet
	entry   *admission
	logged  logBudget
}

// method finds the table's row; a method without one is refused.
func (g *guard) method(full string) (*method, error) {
	if m := g.methods[full]; m != nil && m.access != accessNone {
		return m, nil
	}
	return nil, status.Errorf(codes.PermissionDenied, "muster: %s is not in the access table, so nobody may call it", full)
}

// admit decides whether the call may go on.
func (g *guard) admit(ctx context.Context, m *method) (requireLeader bool, err error) {
	if !m.learner && g.node.IsLearner() {
		return false, rpctypes.ErrGRPCNotSupportedForLearner
	}
	version := versionUnknown
	if v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataClientAPIVersionKey); len(v) > 0 {
		version = v[0]
		if !utf8.ValidString(version) {
			return false, rpctypes.ErrGRPCInvalidClientAPIVersion
		}
	}
	if c := g.metrics.clients.get(version); m.shape == unary {
		c.unary.Inc()
	} else {
		c.stream.Inc()
	}
	if v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey); len(v) > 0 && v[0] == rpctypes.MetadataHasLeader {
		if g.node.Leader() == 0 {
			return true, rpctypes.ErrGRPCNoLeader
		}
		return true, nil
	}
	return false, nil
}

// hot makes a grpc handler of a function that decodes its own request. It goes
// around grpc's interceptor machinery, which allocates two objects a call, but
// not around the guard.
func (g *guard) hot(full string, serve func(ctx context.Context, decode func(any) error) (any, error)) (grpc.MethodHandler, error) {
	m, err := g.method(full)
	if err != nil {
		return nil, err
	}
	return func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		g.entry.begin(full)
		start := time.Now()
		m.started.Inc()
		m.received.Inc()
		_, err := g.admit(ctx, m)
		var reply any
		if err == nil {
			reply, err = serve(ctx, decode)
		}
		g.finish(ctx, m, start, err)
		if err != nil {
			return nil, err
		}
		return reply, nil
	}, nil
}

func (g *guard) finish(ctx context.Context, m *method, start time.Time, err error) {
	took := time.Since(start)
	if err == nil {
		m.sent.Inc()
	}
	m.done(err, took)
	if took > g.warn && g.warn > 0 {
		g.metrics.slow.Inc()
		if g.logged.spend(start) {
			g.logSlow(ctx, m, start, took, err)
		}
	}
}

// logBudget bounds how much is logged of what may happen to every request at
// once: when all are slow, writing that down must not make them slower. The
// counter has them all.
type logBudget struct{ second, spent atomic.Int64 }

const slowLogged = 20 // a second

func (b *logBudget) spend(now time.Time) bool {
	if s := now.Unix(); b.second.Swap(s) != s {
		b.spent.Store(0)
	}
	return b.spent.Add(1) <= slowLogged
}

// logSlow writes etcd's "request stats" line, without the request's content:
// that may be secret, and here it is no longer at hand.
func (g *guard) logSlow(ctx context.Context, m *method, start time.Time, took time.Duration, err error) {
	remote := ""
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr.String()
	}
	g.log.Warn("request stats", "start time", start, "time spent", took,
		"remote", remote, "response type", m.full, "code", status.Code(err).String())
}

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	m, err := g.method(info.FullMethod)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	m.started.Inc()
	m.received.Inc()
	var reply any
	if _, err = g.admit(ctx, m); err == nil {
		reply, err = handler(ctx, req)
	}
	g.finish(ctx, m, start, err)
	return reply, err
}

func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	m, err := g.method(info.FullMethod)
	if err != nil {
		return err
	}
	start := time.Now()
	m.started.Inc()
	err = g.serveStream(srv, ss, m, handler)
	m.done(err, time.Since(start))
	return err
}

func (g *guard) serveStream(srv any, ss grpc.ServerStream, m *method, handler grpc.StreamHandler) error {
	requireLeader, err := g.admit(ss.Context(), m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	remove, err := g.streams.add(openStream{cancel: cancel, requireLeader: requireLeader})
	if err != nil {
		return err
	}
	defer remove()
	return handler(srv, &guardedStream{ServerStream: ss, ctx: reasonContext{ctx}, method: m})
}

// guardedStream counts messages and carries a context that also ends when the
// server stops, or when a client that insists on a leader has been without one
// for too long. RecvMsg knows nothing of that context: a handler that waits in
// it must watch Context beside it.
type guardedStream struct {
	grpc.ServerStream
	ctx    context.Context
	method *method
}

func (s *guardedStream) Context() context.Context { return s.ctx }

func (s *guardedStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.method.sent.Inc()
	}
	return err
}

func (s *guardedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.method.received.Inc()
	}
	return err
}

// reasonContext answers Err with the reason it was cancelled for, so that a
// handler that returns ctx.Err() tells the client "no leader" and not
// "cancelled", which a client takes for its own doing.
type reasonContext struct{ context.Context }

func (c reasonContext) Err() error {
	if c.Context.Err() == nil {
		return nil
	}
	return context.Cause(c.Context)
}

// streamSet holds the open streams, to be able to end them.
type streamSet struct {
	mu     sync.Mutex // guards the fields below
	open   map[uint64]openStream
	next   uint64
	closed error
}

type openStream struct {
	cancel        context.CancelCauseFunc
	requireLeader bool
}

// add registers a stream and returns what removes it.
func (s *streamSet) add(o openStream) (remove func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed != nil {
		return nil, s.closed
	}
	if s.open == nil {
		s.open = map[uint64]openStream{}
	}
	id := s.next
	s.next++
	s.open[id] = o
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, id)
	}, nil
}

// endLeaderless cancels the streams of clients that insist on a leader.
func (s *streamSet) endLeaderless(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.open {
		if o.requireLeader {
			o.cancel(reason)
		}
	}
}

// close cancels all streams and refuses new ones.
func (s *streamSet) close(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = reason
	for _, o := range s.open {
		o.cancel(reason)
	}
}

// leaderPatience is how many election time-outs in a row may pass without a
// leader before such streams end: reconnecting them all costs far more than
// the requests refused meanwhile.
const leaderPatience = 3

// watchLeader ends the streams of clients that insist on a leader once there
// has been none for leaderPatience election time-outs. It runs until ctx ends.
func (g *guard) watchLeader(ctx context.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for missing := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		g.entry.settle()
		if g.node.Leader() != 0 {
			missing = 0
			continue
		}
		if missing++; missing >= leaderPatience {
			g.streams.endLeaderless(rpctypes.ErrGRPCNoLeader)
		}
	}
}
