package differential

import (
	"fmt"
	"math"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Program is what one run sends to a server, in this order.
type Program struct {
	Name  string
	Steps []Step
	Ruins bool // the servers answer no writes afterwards
}

// Step is one request. Watch requests with one Stream go over one stream;
// keep-alives have one of their own for a whole program.
type Step struct {
	Method  string // as on the wire: /etcdserverpb.KV/Put
	Stream  int
	Request proto.Message // revisions and leases may be symbols
	Mangle  uint64        // not 0: the seed of what is done to its bytes
	Meta    [2]string     // a line of metadata
}

const (
	kvService          = "/etcdserverpb.KV/"
	leaseService       = "/etcdserverpb.Lease/"
	maintenanceService = "/etcdserverpb.Maintenance/"
	clusterService     = "/etcdserverpb.Cluster/"
	authService        = "/etcdserverpb.Auth/"

	watchMethod     = "/etcdserverpb.Watch/Watch"
	keepAliveMethod = leaseService + "LeaseKeepAlive"
	hashMethod      = maintenanceService + "HashKV"
	compactMethod   = kvService + "Compact"
	grantMethod     = leaseService + "LeaseGrant"

	// pauseMethod is no request: it waits until every lease that may expire
	// within the program has.
	pauseMethod = "await-expiry"
)

// Symbols are numbers that stand for what is known only when a request is
// sent, so that a program means the same wherever it starts, and still means
// something when steps of it are left out.
type symbol int64

const (
	symNow       symbol = iota + 1 // the store's revision
	symCompacted                   // the revision compacted last
	symLease                       // the lease that the server chose an id for, by number

	symBase   = 1 << 50
	symKind   = 1 << 20
	symMiddle = 1 << 10
)

func sym(s symbol, offset int) int64 { return symBase + int64(s)*symKind + int64(offset) + symMiddle }

// now and compacted are revisions, picked is a lease.
func now(offset int) int64       { return sym(symNow, offset) }
func compacted(offset int) int64 { return sym(symCompacted, offset) }
func picked(n int) int64         { return sym(symLease, n) }

// unsym takes a symbol apart; ok tells whether it is one.
func unsym(v int64) (s symbol, offset int, ok bool) {
	v -= symBase
	s = symbol(v / symKind)
	if v < 0 || s < symNow || s > symLease {
		return 0, 0, false
	}
	return s, int(v%symKind) - symMiddle, true
}

func symbolText(v int64) (string, bool) {
	s, offset, ok := unsym(v)
	switch {
	case !ok:
		return "", false
	case s == symLease:
		return fmt.Sprintf("lease#%d", offset), true
	case s == symCompacted:
		return fmt.Sprintf("compacted%+d", offset), true
	default:
		return fmt.Sprintf("now%+d", offset), true
	}
}

// resolve gives the request with its symbols replaced.
func resolve(m proto.Message, value func(s symbol, offset int) int64) proto.Message {
	m = proto.Clone(m)
	eachScalar(m.ProtoReflect(), func(fd protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
		if fd.Kind() == protoreflect.Int64Kind {
			if s, offset, ok := unsym(v.Int()); ok {
				return protoreflect.ValueOfInt64(value(s, offset))
			}
		}
		return v
	})
	return m
}

// eachScalar replaces what a message tree holds, but for messages.
func eachScalar(m protoreflect.Message, f func(protoreflect.FieldDescriptor, protoreflect.Value) protoreflect.Value) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		message := fd.Kind() == protoreflect.MessageKind
		switch {
		case fd.IsMap():
		case fd.IsList():
			for i := range v.List().Len() {
				if message {
					eachScalar(v.List().Get(i).Message(), f)
				} else {
					v.List().Set(i, f(fd, v.List().Get(i)))
				}
			}
		case message:
			eachScalar(v.Message(), f)
		default:
			m.Set(fd, f(fd, v))
		}
		return true
	})
}

// mayExpire tells whether a lease of the program can run out before its end.
func (p Program) mayExpire() bool {
	for _, s := range p.Steps {
		if g, ok := s.Request.(*pb.LeaseGrantRequest); ok && (g.TTL < 30 || s.Mangle != 0) {
			return true
		}
	}
	return false
}

// String is the step for people.
func (s Step) String() string {
	var b strings.Builder
	b.WriteString(s.Method)
	if s.Stream != 0 {
		fmt.Fprintf(&b, " (stream %d)", s.Stream)
	}
	if s.Request != nil {
		b.WriteByte(' ')
		renderMessage(&b, s.Request.ProtoReflect(), nil)
	}
	if s.Meta[0] != "" {
		fmt.Fprintf(&b, " with %s: %q", s.Meta[0], s.Meta[1])
	}
	if s.Mangle != 0 {
		fmt.Fprintf(&b, " mangled by %d", s.Mangle)
	}
	return b.String()
}

func (p Program) String() string {
	var b strings.Builder
	for i, s := range p.Steps {
		fmt.Fprintf(&b, "%3d  %v\n", i, s)
	}
	return b.String()
}

// call is a step of a unary method.
func call(method string, r proto.Message) Step { return Step{Method: method, Request: r} }

func put(r *pb.PutRequest) Step            { return call(kvService+"Put", r) }
func rng(r *pb.RangeRequest) Step          { return call(kvService+"Range", r) }
func del(r *pb.DeleteRangeRequest) Step    { return call(kvService+"DeleteRange", r) }
func txn(r *pb.TxnRequest) Step            { return call(kvService+"Txn", r) }
func compact(r *pb.CompactionRequest) Step { return call(compactMethod, r) }
func grant(id, ttl int64) Step             { return call(grantMethod, &pb.LeaseGrantRequest{ID: id, TTL: ttl}) }

func revoke(id int64) Step { return call(leaseService+"LeaseRevoke", &pb.LeaseRevokeRequest{ID: id}) }

func keepAlive(id int64) Step { return call(keepAliveMethod, &pb.LeaseKeepAliveRequest{ID: id}) }

func timeToLive(id int64, keys bool) Step {
	return call(leaseService+"LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys})
}

func watch(stream int, r *pb.WatchCreateRequest) Step {
	return Step{Method: watchMethod, Stream: stream, Request: &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}}
}

func cancelWatch(stream int, id int64) Step {
	return Step{Method: watchMethod, Stream: stream, Request: &pb.WatchRequest{
		RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}},
	}}
}

func opRange(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func opPut(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

func opDelete(r *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

func opTxn(r *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}

// everything is the range of all keys.
var everything = [2][]byte{{0}, {0}}

const huge int64 = math.MaxInt64
