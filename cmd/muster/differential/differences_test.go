package differential

import (
	"regexp"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// difference is one way in which we answer otherwise than etcd on purpose.
// doc.go lists them for readers.
type difference struct {
	name string
	// excuses says whether it is this, and nothing else, that tells the answers apart.
	excuses func(s Step, etcd, ours string) bool
}

// differences is the whole list. Anything that it doesn't excuse is a bug.
func differences() []difference {
	return []difference{
		{"text of malformed messages", func(_ Step, etcd, ours string) bool {
			return unreadable.MatchString(etcd) && unreadable.MatchString(ours)
		}},
		{"keys_only never shows leases", func(s Step, etcd, ours string) bool {
			return asksKeysByValue(s) && withoutLeases(etcd) == ours
		}},
		{"the size limit is the request's own", func(s Step, etcd, ours string) bool {
			const limit, around = 1536 << 10, 32
			n := proto.Size(s.Request)
			return etcd == "InvalidArgument: etcdserver: request is too large" && n > limit-around && n <= limit && strings.HasPrefix(ours, "{header:")
		}},
		{"sorted before it is cut", func(s Step, etcd, ours string) bool {
			return cutsUnsorted(s) && pairs.ReplaceAllString(etcd, "kvs") == pairs.ReplaceAllString(ours, "kvs")
		}},
		{"no RangeStream yet", refused("/etcdserverpb.KV/RangeStream", "Unimplemented: muster: RangeStream is not supported yet")},
		{"no Downgrade yet", refused(maintenanceService+"Downgrade", "Unimplemented: muster: Downgrade is not supported yet")},
		{"no authentication yet", refused(authService, "Unimplemented: muster: authentication is not supported yet")},
		{"no lock service yet", refused("/v3lockpb.Lock/", "Unimplemented: unknown service v3lockpb.Lock")},
		{"no election service yet", refused("/v3electionpb.Election/", "Unimplemented: unknown service v3electionpb.Election")},
		{"hash of a negative revision", func(s Step, etcd, ours string) bool {
			return s.Method == hashMethod && field(etcd, "hash_revision") < 0 && field(ours, "hash_revision") == field(ours, "revision")
		}},
		{"hashes from before a compaction", func(s Step, etcd, ours string) bool {
			// etcd's cache: it was hashed before the compaction forgot what went before.
			cached := strings.HasPrefix(etcd, "{header:") && field(etcd, "compact_revision") < field(etcd, "hash_revision")
			if s.Method == hashMethod && cached && field(etcd, "hash_revision") == 0 {
				return field(ours, "compact_revision") >= 0 // the store was compacted at 0, which else asks for now
			}
			return s.Method == hashMethod && cached &&
				(ours == "OutOfRange: etcdserver: mvcc: required revision has been compacted" ||
					field(ours, "compact_revision") == field(etcd, "hash_revision") && field(ours, "hash_revision") == field(etcd, "hash_revision"))
		}},
		{"declared codes", func(_ Step, etcd, ours string) bool {
			message, ok := strings.CutPrefix(etcd, "Unknown: ")
			return ok && (ours == "FailedPrecondition: "+message || ours == "ResourceExhausted: "+message)
		}},
	}
}

// refused is for what we don't do: whatever etcd makes of it, ours is this.
func refused(prefix, text string) func(Step, string, string) bool {
	return func(s Step, _, ours string) bool { return strings.HasPrefix(s.Method, prefix) && ours == text }
}

// field is a number in an answer, 0 if it isn't there.
func field(text, name string) (n int64) {
	m := regexp.MustCompile(`[ {]` + name + `:(-?\d+)`).FindStringSubmatch(text)
	if m != nil {
		n, _ = strconv.ParseInt(m[1], 10, 64)
	}
	return n
}

var unreadable = regexp.MustCompile(`^Internal: grpc: (error unmarshalling request|failed to unmarshal the received message): `)

var leaseField = regexp.MustCompile(` lease:[^ }]+`)

func withoutLeases(text string) string { return leaseField.ReplaceAllString(text, "") }

var pairs = regexp.MustCompile(`kvs:\{[^}]*\}`)

// asksKeysByValue tells whether a range of the step is of keys alone, sorted by value.
func asksKeysByValue(s Step) bool {
	return anyRange(s, func(r *pb.RangeRequest) bool { return r.KeysOnly && r.SortTarget == pb.RangeRequest_VALUE })
}

// cutsUnsorted tells whether a range of the step has a limit and a target to sort by, but no order.
func cutsUnsorted(s Step) bool {
	return anyRange(s, func(r *pb.RangeRequest) bool {
		return r.SortOrder == pb.RangeRequest_NONE && r.SortTarget != pb.RangeRequest_KEY && r.Limit > 0
	})
}

// anyRange looks for a range in a step; what was mangled may hold any.
func anyRange(s Step, is func(*pb.RangeRequest) bool) bool {
	switch r := s.Request.(type) {
	case *pb.RangeRequest:
		return s.Mangle != 0 || is(r)
	case *pb.TxnRequest:
		found := s.Mangle != 0
		eachOp(r, func(op *pb.RequestOp) { found = found || op.GetRequestRange() != nil && is(op.GetRequestRange()) })
		return found
	}
	return false
}
