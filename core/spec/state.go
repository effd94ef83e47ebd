package spec

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// State is the whole state after some sequence of requests.
type State struct {
	// MaxTxnOps and MinLeaseTTL are limits; New sets etcd's.
	MaxTxnOps   int
	MinLeaseTTL int64

	rev        int64 // of the last change; an empty store is at 1
	compactRev int64 // -1: never compacted
	keys       map[string]*mvccpb.KeyValue
	past       []*mvccpb.Event // every change there ever was, oldest first
	leases     map[int64]int64 // id → TTL in seconds
}

// New returns the empty store.
func New() *State {
	return &State{
		MaxTxnOps:   128,
		MinLeaseTTL: 2,
		rev:         1,
		compactRev:  -1,
		keys:        make(map[string]*mvccpb.KeyValue),
		leases:      make(map[int64]int64),
	}
}

// Clone returns an independent copy.
func (s *State) Clone() *State {
	c := *s
	c.keys = maps.Clone(s.keys)
	c.leases = maps.Clone(s.leases)
	c.past = slices.Clip(s.past) // events never change, and appending copies
	return &c
}

// Rev is the current revision, CompactRev the one compacted last (-1: none).
func (s *State) Rev() int64 { return s.rev }

// CompactRev is the revision compacted last, -1 if none ever was.
func (s *State) CompactRev() int64 { return s.compactRev }

// Apply executes any of the requests this package knows.
func (s *State) Apply(req proto.Message) (proto.Message, error) {
	switch r := req.(type) {
	case *pb.PutRequest:
		return reply(s.Put(r))
	case *pb.RangeRequest:
		return reply(s.Range(r))
	case *pb.DeleteRangeRequest:
		return reply(s.DeleteRange(r))
	case *pb.TxnRequest:
		return reply(s.Txn(r))
	case *pb.CompactionRequest:
		return reply(s.Compact(r))
	case *pb.LeaseGrantRequest:
		return reply(s.LeaseGrant(r))
	case *pb.LeaseRevokeRequest:
		return reply(s.LeaseRevoke(r))
	}
	panic(fmt.Sprintf("spec: no such request: %T", req))
}

// reply keeps a nil response from becoming a message that isn't nil.
func reply[M proto.Message](m M, err error) (proto.Message, error) {
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (s *State) header() *pb.ResponseHeader { return &pb.ResponseHeader{Revision: s.rev} }

// Len is the number of keys that exist now.
func (s *State) Len() int { return len(s.keys) }

// Get returns a key as it is now, nil if it does not exist. Don't write to it.
func (s *State) Get(key []byte) *mvccpb.KeyValue { return s.keys[string(key)] }

// Keys returns the keys that exist now, in order.
func (s *State) Keys() []*mvccpb.KeyValue { return sorted(s.keys) }

func sorted(keys map[string]*mvccpb.KeyValue) []*mvccpb.KeyValue {
	out := make([]*mvccpb.KeyValue, 0, len(keys))
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		out = append(out, keys[k])
	}
	return out
}

// at returns the keys of a range as they were at a revision.
func (s *State) at(rev int64, from, end []byte) map[string]*mvccpb.KeyValue {
	keys := make(map[string]*mvccpb.KeyValue)
	for _, e := range s.past {
		switch {
		case e.Kv.ModRevision > rev:
			return keys
		case !contains(from, end, e.Kv.Key):
		case e.Type == mvccpb.Event_DELETE:
			delete(keys, string(e.Kv.Key))
		default:
			keys[string(e.Kv.Key)] = e.Kv
		}
	}
	return keys
}

// Events returns all changes from a revision on, as a watcher sees them: in
// order of revision, those of one revision in the order in which they were made.
// What a key was before is given unless that is compacted. Of a key written more
// than once in the very revision that was compacted, the last event is left.
func (s *State) Events(from int64) ([]*mvccpb.Event, error) {
	if from < s.compactRev {
		return nil, rpctypes.ErrCompacted
	}
	var out []*mvccpb.Event
	for i, e := range s.past {
		if e.Kv.ModRevision < from || s.compacted(i) {
			continue
		}
		shown := &mvccpb.Event{Type: e.Type, Kv: e.Kv}
		if e.Kv.ModRevision-1 >= s.compactRev && e.Kv.CreateRevision != e.Kv.ModRevision { // what creates a key replaces nothing
			shown.PrevKv = s.at(e.Kv.ModRevision-1, e.Kv.Key, nil)[string(e.Kv.Key)]
		}
		out = append(out, shown)
	}
	return out, nil
}

// compacted says whether event i is gone although its revision isn't.
func (s *State) compacted(i int) bool {
	e := s.past[i]
	if e.Kv.ModRevision != s.compactRev {
		return e.Kv.ModRevision < s.compactRev
	}
	return slices.ContainsFunc(s.past[i+1:], func(later *mvccpb.Event) bool {
		return later.Kv.ModRevision == s.compactRev && bytes.Equal(later.Kv.Key, e.Kv.Key)
	})
}

// Equal reports whether two states can't be told apart by any request.
func (s *State) Equal(o *State) bool { return s.text() == o.text() }

// Hash is equal for equal states.
func (s *State) Hash() uint64 {
	h := fnv.New64a()
	h.Write([]byte(s.text()))
	return h.Sum64()
}

// text is everything that can still be read.
func (s *State) text() string {
	b := fmt.Appendf(nil, "rev %d compacted %d limits %d %d\n", s.rev, s.compactRev, s.MaxTxnOps, s.MinLeaseTTL)
	for _, id := range slices.Sorted(maps.Keys(s.leases)) {
		b = fmt.Appendf(b, "lease %d ttl %d\n", id, s.leases[id])
	}
	for _, kv := range sorted(s.at(s.compactRev, []byte{0}, []byte{0})) {
		b = appendKV(b, "base", kv)
	}
	for i, e := range s.past {
		if !s.compacted(i) {
			b = appendKV(b, e.Type.String(), e.Kv)
		}
	}
	return string(b)
}

func appendKV(b []byte, what string, kv *mvccpb.KeyValue) []byte {
	return fmt.Appendf(b, "%s %q=%q create %d mod %d version %d lease %d\n",
		what, kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
}
