package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/musterhq/muster/core/watch"
)

// WatchConfig says what a WatchServer serves. Hub and Term are needed.
type WatchConfig struct {
	Hub *watch.Hub
	// ClusterID and MemberID go into every response's header, and Term, which
	// is asked once a response and must be one atomic load.
	ClusterID, MemberID uint64
	Term                func() uint64

	// Authorize decides whether the caller behind ctx may watch the range, as
	// the request gives it. Its error, one of rpctypes' ErrGRPC ones, becomes
	// the cancel reason. nil: everyone may.
	Authorize func(ctx context.Context, key, rangeEnd []byte) error

	// ProgressInterval is how often watchers that asked for it hear where they
	// stand if nothing happened. Up to a tenth is added at random, so that
	// those who came together aren't served together. Default 10 min, at least
	// 100 ms.
	ProgressInterval time.Duration
	// MaxFragmentBytes is the size from which a response is split for watchers
	// that asked for it. Default 2 MiB.
	MaxFragmentBytes int
	Logger           *slog.Logger // nil: no logs
}

const (
	defaultProgressInterval = 10 * time.Minute
	minProgressInterval     = 100 * time.Millisecond
)

// WatchServer is etcd's Watch service on a watch.Hub.
//
// A stream has two goroutines: grpc's, which sends, and one that receives. It
// is the sender that grpc waits for, because a server ends a stream by
// returning from its handler, and nothing but that interrupts a Recv.
type WatchServer struct {
	pb.UnimplementedWatchServer
	cfg WatchConfig
	id  identity
}

// NewWatchServer makes the service. The server it is registered with must use
// this package's codec.
func NewWatchServer(cfg WatchConfig) *WatchServer {
	if cfg.ProgressInterval == 0 {
		cfg.ProgressInterval = defaultProgressInterval
	}
	cfg.ProgressInterval = max(cfg.ProgressInterval, minProgressInterval)
	if cfg.MaxFragmentBytes == 0 {
		cfg.MaxFragmentBytes = DefaultMaxMessageBytes
	}
	if cfg.Authorize == nil {
		cfg.Authorize = func(context.Context, []byte, []byte) error { return nil }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &WatchServer{cfg: cfg, id: newIdentity(cfg.ClusterID, cfg.MemberID)}
}

// Watch serves one stream until the client, the server or the hub ends it.
func (s *WatchServer) Watch(gs pb.Watch_WatchServer) error {
	ctx, cancel := context.WithCancelCause(gs.Context())
	defer cancel(nil)
	st := s.cfg.Hub.NewStream()
	defer st.Close()
	progress := &progressTimer{tick: st.Tick, interval: s.cfg.ProgressInterval}
	defer progress.stop()

	// It ends with the stream: grpc fails its Recv once this handler returns.
	go func() {
		if err := s.receive(ctx, gs, st, progress); err != nil {
			cancel(err)
		}
	}()
	for {
		r, err := st.Next(ctx)
		if err == nil {
			err = s.send(gs, &r)
		}
		if err != nil {
			return streamEnd(ctx, err)
		}
	}
}

// streamEnd is what the client is told at the end of its stream.
func streamEnd(ctx context.Context, err error) error {
	if errors.Is(err, watch.ErrClosed) {
		return rpctypes.ErrGRPCStopped
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return err
}

// receive passes the client's requests on. A client that says it has no more of
// them keeps its watchers.
func (s *WatchServer) receive(ctx context.Context, gs pb.Watch_WatchServer, st *watch.Stream, progress *progressTimer) error {
	for {
		req, err := gs.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := st.Admit(ctx); err != nil {
			return err
		}
		switch {
		case req.GetCreateRequest() != nil:
			s.create(ctx, st, req.GetCreateRequest(), progress)
		case req.GetCancelRequest() != nil:
			st.Cancel(req.GetCancelRequest().GetWatchId())
		case req.GetProgressRequest() != nil:
			st.RequestProgress()
		default:
			s.cfg.Logger.Info("watch request of an unknown kind ignored", "type", fmt.Sprintf("%T", req.GetRequestUnion()))
		}
	}
}

func (s *WatchServer) create(ctx context.Context, st *watch.Stream, r *pb.WatchCreateRequest, progress *progressTimer) {
	key := r.GetKey()
	if len(key) == 0 {
		key = []byte{0} // the smallest key: what is authorised must be what is watched
	}
	// A negative revision is refused before the caller is looked at, as in etcd.
	if r.GetStartRevision() >= 0 {
		if err := s.cfg.Authorize(ctx, key, r.GetRangeEnd()); err != nil {
			st.Refuse(err)
			return
		}
	}
	req := watch.Request{
		ID: r.GetWatchId(), Key: key, End: r.GetRangeEnd(), StartRev: r.GetStartRevision(),
		PrevKV: r.GetPrevKv(), Progress: r.GetProgressNotify(), Fragment: r.GetFragment(),
	}
	for _, f := range r.GetFilters() {
		switch f {
		case pb.WatchCreateRequest_NOPUT:
			req.NoPut = true
		case pb.WatchCreateRequest_NODELETE:
			req.NoDelete = true
		}
	}
	if req.Progress {
		progress.start()
	}
	st.Watch(req)
}

// send writes one response, in fragments if it is large and the watcher wants
// them: all but the last say that more follows.
func (s *WatchServer) send(gs pb.Watch_WatchServer, r *watch.Response) error {
	m := watchReply{id: &s.id, term: s.cfg.Term(), Response: r, events: r.Events}
	if !r.Fragment || len(r.Events) < 2 || m.size() < s.cfg.MaxFragmentBytes {
		return gs.SendMsg(m.encode())
	}
	for rest := r.Events; len(rest) > 0; {
		m.more, m.events = true, rest[:1]
		size := m.size()
		n := 1
		for n < len(rest) && size+len(rest[n].Wire) < s.cfg.MaxFragmentBytes {
			size += len(rest[n].Wire)
			n++
		}
		m.events, rest = rest[:n], rest[n:]
		m.more = len(rest) > 0
		if err := gs.SendMsg(m.encode()); err != nil {
			return err
		}
	}
	return nil
}

// watchReply encodes a WatchResponse: a few fields of its own and the events'
// shared bytes.
type watchReply struct {
	id   *identity
	term uint64
	*watch.Response
	events []*watch.Encoded // the response's, or a fragment's part of them
	more   bool
}

// size is the message's size, or a few bytes more.
func (m *watchReply) size() int {
	n := len(m.id.prefix) + 2 + sizeField(uint64(m.Rev)) + sizeField(m.term) +
		sizeField(uint64(m.WatchID)) + sizeField(uint64(m.CompactRev)) + 3*2
	if m.Err != nil {
		n += 1 + 10 + len(cancelReason(m.Err))
	}
	for _, e := range m.events {
		n += len(e.Wire)
	}
	return n
}

// watchMessage is an encoded WatchResponse. For the most common one, a single
// event, it is one object beside the event's bytes.
type watchMessage struct {
	bufs   mem.BufferSlice
	parts  [2]mem.Buffer
	fields [72]byte
}

func (m *watchMessage) marshalWire() (mem.BufferSlice, error) { return m.bufs, nil } //nolint:unparam // wireReply, which others may fail at

// shareFrom is the size from which an event's bytes go to the transport as they
// are, and not as a copy for each watcher.
const shareFrom = 128

func (m *watchReply) encode() *watchMessage {
	size := m.size()
	for _, e := range m.events {
		if len(e.Wire) >= shareFrom {
			size -= len(e.Wire)
		}
	}
	out := new(watchMessage)
	out.bufs = out.parts[:0]
	b := out.fields[:0]
	if size > len(out.fields) {
		b = make([]byte, 0, size)
	}
	b = m.appendFields(b)
	for _, e := range m.events {
		if len(e.Wire) < shareFrom {
			b = append(b, e.Wire...)
			continue
		}
		if len(b) > 0 {
			out.bufs = append(out.bufs, mem.SliceBuffer(b))
			b = b[len(b):]
		}
		out.bufs = append(out.bufs, mem.SliceBuffer(e.Wire))
	}
	if len(b) > 0 {
		out.bufs = append(out.bufs, mem.SliceBuffer(b))
	}
	return out
}

func (m *watchReply) appendFields(b []byte) []byte {
	b = m.id.appendHeader(b, m.Rev, m.term)
	b = appendVarintField(b, 2, uint64(m.WatchID))
	b = appendBoolField(b, 3, m.Created)
	b = appendBoolField(b, 4, m.Canceled)
	b = appendVarintField(b, 5, uint64(m.CompactRev))
	if m.Err != nil {
		b = protowire.AppendString(append(b, 6<<3|byte(protowire.BytesType)), cancelReason(m.Err))
	}
	return appendBoolField(b, 7, m.more)
}

func sizeField(v uint64) int { return 1 + sizeVarint(v) }

// cancelReason is etcd's wording for why a watcher was refused.
func cancelReason(err error) string {
	switch {
	case errors.Is(err, watch.ErrNegativeRevision):
		return rpctypes.ErrCompacted.Error()
	case errors.Is(err, watch.ErrEmptyRange):
		return "mvcc: watcher range is empty"
	case errors.Is(err, watch.ErrDuplicateID):
		return "mvcc: duplicate watch ID provided on the WatchStream"
	default:
		return err.Error()
	}
}

// progressTimer calls tick once an interval, from the first watcher on that
// wants it: a timer costs a stream nothing while there is none.
type progressTimer struct {
	tick     func()
	interval time.Duration

	mu      sync.Mutex // guards the fields below
	timer   *time.Timer
	stopped bool
}

func (p *progressTimer) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer == nil && !p.stopped {
		p.timer = time.AfterFunc(p.jittered(), p.fire)
	}
}

func (p *progressTimer) fire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.tick()
		p.timer.Reset(p.jittered())
	}
}

func (p *progressTimer) jittered() time.Duration {
	return p.interval + rand.N(p.interval/10)
}

func (p *progressTimer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	if p.timer != nil {
		p.timer.Stop()
	}
}
