package differential

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// answer is what a server made of one step, as text.
type answer struct {
	text string
	sent string // the request's bytes in hex, if they were mangled
}

// transcript is what came of a program: an answer for each step, then what
// each watcher was told.
type transcript struct {
	answers []answer
	watched []string
	model   string // what the specification would have answered otherwise
	took    time.Duration
}

// run executes one program.
type run struct {
	*server
	life    context.Context // of the program's streams
	streams map[int]*watchStream
	renew   grpc.ClientStream // of keep-alives
	renewer *member           // where that was opened
}

// run takes a program through the server and leaves it without keys and leases.
// An error means that the server is not to be used any more.
func (s *server) run(ctx context.Context, p Program) (t transcript, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	r := &run{server: s, life: ctx, streams: map[int]*watchStream{}}
	defer r.close(cancel)
	s.chosen = nil
	for i, step := range p.Steps {
		a, err := r.step(ctx, step)
		if err != nil {
			return t, fmt.Errorf("%s, step %d: %w", s.name, i, err)
		}
		t.answers = append(t.answers, a)
	}
	for _, n := range r.streamNumbers() {
		w := r.streams[n]
		if err := w.settle(ctx); err != nil {
			return t, fmt.Errorf("%s, stream %d: %w", s.name, n, err)
		}
		t.watched = append(t.watched, w.log()...)
	}
	t.took = time.Since(began)
	r.close(cancel)
	if s.model != nil {
		t.model = s.model.diff
	}
	if p.Ruins {
		return t, nil
	}
	if err := s.clean(context.WithoutCancel(ctx)); err != nil {
		return t, fmt.Errorf("%s, cleaning up: %w", s.name, err)
	}
	return t, nil
}

func (r *run) streamNumbers() []int {
	var all []int
	for n := range r.streams {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

// close ends the streams and waits for their goroutines.
func (r *run) close(cancel context.CancelFunc) {
	cancel()
	for _, w := range r.streams {
		<-w.ended
	}
}

// step sends one request and waits for its answer.
func (r *run) step(ctx context.Context, step Step) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if step.Meta[0] != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, step.Meta[0], step.Meta[1])
	}
	if step.Method == pauseMethod {
		return r.awaitExpiry(ctx)
	}
	if err := r.turn(ctx); err != nil {
		return answer{}, err
	}
	request := resolve(step.Request, r.value)
	resolveMembers(request, r.ids)
	if watch, ok := request.(*pb.WatchRequest); ok {
		return r.watchStep(ctx, step.Stream, watch)
	}
	if step.Method == compactMethod {
		// What a watcher is told of history must not depend on who is faster.
		for _, n := range r.streamNumbers() {
			if err := r.streams[n].settle(ctx); err != nil {
				return answer{}, err
			}
		}
	}
	if step.Method == hashMethod && r.compacting {
		// etcd hashes what it has not got round to removing, too. A compaction that is
		// refused still waits for those before it.
		again := &pb.CompactionRequest{Revision: r.compactRev, Physical: true}
		if _, err := pb.NewKVClient(r.conn).Compact(ctx, again); status.Code(err) != codes.OutOfRange {
			return answer{}, fmt.Errorf("compaction a second time: %w", err)
		}
		r.compacting = false
	}
	wire, err := wireOf(request, step.Mangle)
	if err != nil {
		return answer{}, err
	}
	var text string
	if step.Method == keepAliveMethod {
		text, err = r.keepAlive(ctx, wire)
	} else {
		text, err = r.call(ctx, step, request, wire)
	}
	return answer{text: text, sent: hexOf(wire)}, err
}

// value is what a symbol stands for now.
func (s *server) value(k symbol, n int) int64 {
	switch {
	case k == symNow:
		return s.rev + int64(n)
	case k == symCompacted:
		return s.compactRev + int64(n)
	case n < len(s.chosen):
		return s.chosen[n]
	default:
		return 7_000_000 + int64(n) // never granted
	}
}

// call makes a call of any shape but those of watches and keep-alives.
func (s *server) call(ctx context.Context, step Step, request proto.Message, wire any) (string, error) {
	full := step.Method
	m := methodOf(full)
	if m.streaming {
		return s.serverStream(ctx, full, m, wire)
	}
	response := m.response.New().Interface()
	err := s.conn.Invoke(ctx, full, wire, response)
	sent, readable := asSent(request, wire)
	text := ""
	if err != nil {
		if text, err = s.refusal(err); err != nil {
			return "", err
		}
	} else {
		s.note(sent, response)
	}
	if readable && s.model != nil {
		s.model.check(s, step, sent, response, text)
	}
	if text == "" {
		text = s.render(response)
	}
	return text, nil
}

// refusal is an error as the client sees it. One that isn't the server's word is an error here.
func (s *server) refusal(err error) (string, error) {
	st, ok := status.FromError(err)
	if !ok || !s.running() || strings.Contains(st.Message(), "error reading from server") || errors.Is(err, context.DeadlineExceeded) {
		return "", fmt.Errorf("no answer: %w", err)
	}
	return fmt.Sprintf("%v: %s", st.Code(), st.Message()), nil
}

// note keeps what later requests refer to.
func (s *server) note(request, response proto.Message) {
	if h := headerOf(response); h != nil && h.Revision > s.rev {
		s.rev = h.Revision
	}
	switch resp := response.(type) {
	case *pb.TxnResponse:
		if t, ok := request.(*pb.TxnRequest); ok && deletesFromKey(t) {
			s.unlike = max(s.unlike, s.rev) // etcd's hash is wrong if the txn also wrote such a key
		}
	case *pb.CompactionResponse:
		r := request.(*pb.CompactionRequest)
		s.compactRev = max(s.compactRev, r.Revision)
		s.compacting = !r.Physical
	case *pb.LeaseGrantResponse:
		if req, ok := request.(*pb.LeaseGrantRequest); ok && req.ID == 0 {
			s.unlike = math.MaxInt64
			s.leases[resp.ID] = len(s.leases)
			s.chosen = append(s.chosen, resp.ID)
		}
	case *pb.MemberAddResponse:
		if _, known := s.ids[resp.Member.ID]; !known {
			s.ids[resp.Member.ID] = firstMember + uint64(len(s.ids))
		}
	}
}

func headerOf(m proto.Message) *pb.ResponseHeader {
	h, _ := m.(interface{ GetHeader() *pb.ResponseHeader })
	if h == nil {
		return nil
	}
	return h.GetHeader()
}

// serverStream collects all that a server sends.
func (s *server) serverStream(ctx context.Context, full string, m method, wire any) (string, error) {
	stream, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, full)
	if err != nil {
		return s.refusal(err)
	}
	if err := errors.Join(stream.SendMsg(wire), stream.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return s.refusal(err)
	}
	var texts []string
	var snapshot []byte
	for {
		response := m.response.New().Interface()
		err := stream.RecvMsg(response)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return s.refusal(err)
		}
		if part, ok := response.(*pb.SnapshotResponse); ok {
			snapshot = append(snapshot, part.Blob...)
			texts = []string{fmt.Sprintf("remaining %d", part.RemainingBytes)}
			continue
		}
		texts = append(texts, s.render(response))
	}
	if len(snapshot) > sha256.Size {
		data, sum := snapshot[:len(snapshot)-sha256.Size], sha256.Sum256(snapshot[:len(snapshot)-sha256.Size])
		texts = append(texts, fmt.Sprintf("a snapshot of whole pages: %v, sum right: %v", len(data)%4096 == 0, bytes.Equal(sum[:], snapshot[len(data):])))
	}
	return strings.Join(texts, " "), nil
}

// keepAlive renews over the program's one stream for that.
func (r *run) keepAlive(ctx context.Context, wire any) (string, error) {
	if r.renew == nil {
		stream, err := r.conn.NewStream(r.life, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, keepAliveMethod)
		if err != nil {
			return "", err
		}
		r.renew, r.renewer = stream, r.member()
	}
	if err := r.catchUp(ctx, r.renewer); err != nil {
		return "", err
	}
	if err := r.renew.SendMsg(wire); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	var response pb.LeaseKeepAliveResponse
	if err := r.renew.RecvMsg(&response); err != nil {
		r.renew = nil // the next one opens another
		return r.refusal(err)
	}
	return r.render(&response), nil
}

// awaitExpiry reads until no lease is left.
func (s *server) awaitExpiry(ctx context.Context) (answer, error) {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		left, err := pb.NewLeaseClient(s.conn).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
		if err != nil {
			return answer{}, err
		}
		if len(left.Leases) == 0 {
			s.rev = max(s.rev, left.Header.Revision)
			return answer{text: "all leases are gone"}, nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return answer{}, fmt.Errorf("%d leases are still there: %w", len(left.Leases), ctx.Err())
		}
	}
}

// clean removes all leases and keys.
func (s *server) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	leases, err := pb.NewLeaseClient(s.conn).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return err
	}
	slices.SortFunc(leases.Leases, func(a, b *pb.LeaseStatus) int { return s.leaseOrder(a.ID, b.ID) })
	for _, l := range leases.Leases {
		r := &pb.LeaseRevokeRequest{ID: l.ID}
		_, err := pb.NewLeaseClient(s.conn).LeaseRevoke(ctx, r)
		if err != nil && !strings.Contains(err.Error(), "not found") { // it expired
			return err
		}
		if err := s.follow(r, err); err != nil {
			return err
		}
	}
	r := &pb.DeleteRangeRequest{Key: everything[0], RangeEnd: everything[1]}
	gone, err := pb.NewKVClient(s.conn).DeleteRange(ctx, r)
	if err != nil {
		return err
	}
	if err := s.follow(r, nil); err != nil {
		return err
	}
	s.rev = gone.Header.Revision
	s.unlike = min(s.unlike, s.rev)
	return nil
}

// follow keeps the model where the server is after a request that is no step.
func (s *server) follow(r proto.Message, refused error) error {
	if s.model == nil {
		return nil
	}
	if refused != nil {
		s.model = nil // a lease ran out: there is no telling when
		return nil
	}
	_, err := s.model.state.Apply(r)
	return err
}

// render normalises what must differ between two servers and gives the rest as text.
func (s *server) render(m proto.Message) string {
	s.normalise(m)
	var b strings.Builder
	renderMessage(&b, m.ProtoReflect(), s.leases)
	return b.String()
}

// missing stands where a server should have said who it is.
const missing = 404

// normalise takes out of a response what differs between any two servers.
func (s *server) normalise(m proto.Message) {
	if h := headerOf(m); h != nil {
		for _, id := range []*uint64{&h.ClusterId, &h.MemberId, &h.RaftTerm} {
			if *id == 0 {
				*id = missing
			} else {
				*id = 0
			}
		}
	}
	s.replaceNames(m.ProtoReflect())
	switch r := m.(type) {
	case *pb.LeaseTimeToLiveResponse:
		if r.TTL > r.GrantedTTL-25 && r.TTL <= r.GrantedTTL && r.TTL >= 0 {
			r.TTL = r.GrantedTTL // time passes
		}
		slices.SortFunc(r.Keys, bytes.Compare) // etcd: as its map has them
	case *pb.LeaseLeasesResponse:
		// etcd: by the time they expire
		slices.SortFunc(r.Leases, func(a, b *pb.LeaseStatus) int { return s.leaseOrder(a.ID, b.ID) })
	case *pb.MemberListResponse:
		sortMembers(r.Members)
	case *pb.MemberAddResponse:
		sortMembers(r.Members)
	case *pb.MemberRemoveResponse:
		sortMembers(r.Members)
	case *pb.MemberUpdateResponse:
		sortMembers(r.Members)
	case *pb.StatusResponse:
		for _, n := range []*int64{&r.DbSize, &r.DbSizeInUse} {
			*n = min(*n, 1)
		}
		for _, n := range []*uint64{&r.RaftIndex, &r.RaftAppliedIndex, &r.RaftTerm} {
			*n = min(*n, 1)
		}
		if r.StorageVersion == "" || r.StorageVersion == "3.5.0" {
			r.StorageVersion = "3.7.0" // etcd's is that a few seconds after its start
		}
	case *pb.HashKVResponse:
		if s.unlike >= r.CompactRevision {
			r.Hash = min(r.Hash, 1)
		}
	case *pb.HashResponse:
		r.Hash = min(r.Hash, 1) // over bbolt's pages of other buckets too
	}
}

// leaseOrder puts the leases that the server chose last, in the order in which it did.
func (s *server) leaseOrder(a, b int64) int {
	rank := func(id int64) (int, int64) {
		if n, ok := s.leases[id]; ok {
			return 1, int64(n)
		}
		return 0, id
	}
	x, i := rank(a)
	y, j := rank(b)
	if x != y {
		return x - y
	}
	switch {
	case i < j:
		return -1
	case i > j:
		return 1
	}
	return 0
}

func sortMembers(all []*pb.Member) {
	slices.SortFunc(all, func(a, b *pb.Member) int { return int(a.ID) - int(b.ID) })
}

// replaceNames puts numbers for member ids and words for the server's addresses.
func (s *server) replaceNames(m protoreflect.Message) {
	names := []string{s.members[0].client, "client", s.members[0].peer, "peer"}
	for id, n := range s.ids {
		names = append(names, fmt.Sprint(id), fmt.Sprint(n))
	}
	words := strings.NewReplacer(names...)
	eachScalar(m, func(fd protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
		switch fd.Kind() {
		case protoreflect.Uint64Kind:
			if n, ok := s.ids[v.Uint()]; ok {
				return protoreflect.ValueOfUint64(n)
			}
		case protoreflect.StringKind:
			return protoreflect.ValueOfString(words.Replace(v.String()))
		}
		return v
	})
}

// resolveMembers puts the members' ids into a request.
func resolveMembers(m proto.Message, ids map[uint64]uint64) {
	eachScalar(m.ProtoReflect(), func(fd protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
		if fd.Kind() == protoreflect.Uint64Kind {
			for id, n := range ids {
				if n == v.Uint() {
					return protoreflect.ValueOfUint64(id)
				}
			}
		}
		return v
	})
}
