package sdk

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// kind is a set of operations.
type kind uint16

const (
	onPut kind = 1 << iota
	onGet
	onDelete
	onWatch
	onCompact
	onGrant
	onTxn
)

func (k kind) String() string {
	switch k {
	case onPut:
		return "put"
	case onGet:
		return "get"
	case onDelete:
		return "delete"
	case onWatch:
		return "watch"
	case onCompact:
		return "compact"
	case onGrant:
		return "grant"
	}
	return "txn"
}

// Option changes one call or Op. An option that doesn't apply is refused by name when the call is made.
type Option struct {
	name  string
	on    kind
	apply func(*request)
}

// request gathers a call's arguments and options, for whichever operation.
type request struct {
	kind       kind
	key, value []byte
	end        []byte
	lease      int64
	rev, limit int64
	minMod     int64
	maxMod     int64
	minCreate  int64
	maxCreate  int64
	sortTarget SortTarget
	sortOrder  SortOrder

	serializable, keysOnly, countOnly          bool
	prevKV, ignoreValue, ignoreLease           bool
	progress, noPut, noDelete, fragment        bool
	created, requireLeader, physical, wantsEnd bool
}

func newRequest(k kind, key string, value []byte, opts []Option) (*request, error) {
	r := &request{kind: k, key: []byte(key), value: value}
	for _, o := range opts {
		if o.apply == nil {
			return nil, fmt.Errorf("%w: zero Option given to %v; use the With… functions", ErrInvalid, k)
		}
		if o.on&k == 0 {
			return nil, fmt.Errorf("%w: %s doesn't apply to %v; remove it", ErrInvalid, o.name, k)
		}
		o.apply(r)
	}
	if len(r.key) == 0 {
		if k&(onPut|onGet|onDelete|onWatch) != 0 && !r.wantsEnd {
			return nil, fmt.Errorf("%w: empty key; give one, or WithPrefix for all keys", ErrInvalid)
		}
		r.key = []byte{0}
	}
	return r, nil
}

// SortTarget is the field a range is sorted by.
type SortTarget int32

// The fields to sort by; the default is the key.
const (
	SortByKey     = SortTarget(pb.RangeRequest_KEY)
	SortByVersion = SortTarget(pb.RangeRequest_VERSION)
	SortByCreate  = SortTarget(pb.RangeRequest_CREATE)
	SortByMod     = SortTarget(pb.RangeRequest_MOD)
	SortByValue   = SortTarget(pb.RangeRequest_VALUE)
)

// SortOrder is the direction of a sort.
type SortOrder int32

// The directions. Unsorted is the order of keys.
const (
	Unsorted   = SortOrder(pb.RangeRequest_NONE)
	Ascending  = SortOrder(pb.RangeRequest_ASCEND)
	Descending = SortOrder(pb.RangeRequest_DESCEND)
)

// WithLease binds the key to a lease: it is deleted when the lease ends.
func WithLease(id int64) Option {
	return Option{"WithLease", onPut, func(r *request) { r.lease = id }}
}

// WithPrefix takes all keys that begin with the key; with an empty key, all keys.
func WithPrefix() Option {
	return Option{"WithPrefix", onGet | onDelete | onWatch, func(r *request) {
		r.wantsEnd = true
		r.end = prefixEnd(r.key)
	}}
}

// WithRange takes the keys from key up to, not including, end.
func WithRange(end string) Option {
	return Option{"WithRange", onGet | onDelete | onWatch, func(r *request) {
		r.wantsEnd = true
		r.end = []byte(end)
	}}
}

// WithFromKey takes all keys equal to or after the key.
func WithFromKey() Option {
	return Option{"WithFromKey", onGet | onDelete | onWatch, func(r *request) {
		r.wantsEnd = true
		r.end = []byte{0}
	}}
}

// WithRev reads at an old revision, or watches from that revision, inclusive.
func WithRev(rev int64) Option {
	return Option{"WithRev", onGet | onWatch, func(r *request) { r.rev = rev }}
}

// WithLimit returns at most n keys; 0 is no limit.
func WithLimit(n int64) Option {
	return Option{"WithLimit", onGet, func(r *request) { r.limit = n }}
}

// WithSerializable answers from the member's own state, which may be behind, without asking the quorum.
func WithSerializable() Option {
	return Option{"WithSerializable", onGet, func(r *request) { r.serializable = true }}
}

// WithKeysOnly leaves the values out.
func WithKeysOnly() Option {
	return Option{"WithKeysOnly", onGet, func(r *request) { r.keysOnly = true }}
}

// WithCountOnly returns only Count.
func WithCountOnly() Option {
	return Option{"WithCountOnly", onGet, func(r *request) { r.countOnly = true }}
}

// WithPrevKV adds the key as it was before.
func WithPrevKV() Option {
	return Option{"WithPrevKV", onPut | onDelete | onWatch, func(r *request) { r.prevKV = true }}
}

// WithSort sorts on the member. Any target but SortByKey makes it look at the whole range.
func WithSort(target SortTarget, order SortOrder) Option {
	return Option{"WithSort", onGet, func(r *request) { r.sortTarget, r.sortOrder = target, order }}
}

// WithIgnoreValue keeps the key's present value; the key must exist and the given value be empty.
func WithIgnoreValue() Option {
	return Option{"WithIgnoreValue", onPut, func(r *request) { r.ignoreValue = true }}
}

// WithIgnoreLease keeps the key's present lease; the key must exist.
func WithIgnoreLease() Option {
	return Option{"WithIgnoreLease", onPut, func(r *request) { r.ignoreLease = true }}
}

// WithMinModRev leaves out keys last changed before rev.
func WithMinModRev(rev int64) Option {
	return Option{"WithMinModRev", onGet, func(r *request) { r.minMod = rev }}
}

// WithMaxModRev leaves out keys last changed after rev.
func WithMaxModRev(rev int64) Option {
	return Option{"WithMaxModRev", onGet, func(r *request) { r.maxMod = rev }}
}

// WithMinCreateRev leaves out keys created before rev.
func WithMinCreateRev(rev int64) Option {
	return Option{"WithMinCreateRev", onGet, func(r *request) { r.minCreate = rev }}
}

// WithMaxCreateRev leaves out keys created after rev.
func WithMaxCreateRev(rev int64) Option {
	return Option{"WithMaxCreateRev", onGet, func(r *request) { r.maxCreate = rev }}
}

// WithProgressNotify yields, now and then, a batch without events whose Header.Revision says how far the watch is.
func WithProgressNotify() Option {
	return Option{"WithProgressNotify", onWatch, func(r *request) { r.progress = true }}
}

// WithFilterPut leaves put events out.
func WithFilterPut() Option {
	return Option{"WithFilterPut", onWatch, func(r *request) { r.noPut = true }}
}

// WithFilterDelete leaves delete events out.
func WithFilterDelete() Option {
	return Option{"WithFilterDelete", onWatch, func(r *request) { r.noDelete = true }}
}

// WithFragment lets the member send a big batch in parts. They are joined before they are yielded.
func WithFragment() Option {
	return Option{"WithFragment", onWatch, func(r *request) { r.fragment = true }}
}

// WithCreatedNotify yields one batch with Created set once the watch stands, whose Header.Revision is the revision it
// starts after. It is yielded once, not on reconnects.
func WithCreatedNotify() Option {
	return Option{"WithCreatedNotify", onWatch, func(r *request) { r.created = true }}
}

// WithRequireLeader refuses the call at once on a member that sees no leader. It is the default for all but
// serializable reads, for which this option turns it on.
func WithRequireLeader() Option {
	return Option{"WithRequireLeader", onGet | onWatch, func(r *request) { r.requireLeader = true }}
}

// WithPhysical waits until the member has freed the space.
func WithPhysical() Option {
	return Option{"WithPhysical", onCompact, func(r *request) { r.physical = true }}
}

// WithLeaseID wishes for this lease id. With an id of one's own, repeating a grant after ErrUnknownOutcome is safe:
// ErrLeaseExists then tells that it had happened.
func WithLeaseID(id int64) Option {
	return Option{"WithLeaseID", onGrant, func(r *request) { r.lease = id }}
}

// prefixEnd is the smallest key after all that begin with prefix, in etcd's wire form: "\x00" is the end of all keys.
func prefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return []byte{0}
}
