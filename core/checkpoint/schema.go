package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
)

// The buckets of an etcd database (etcd: server/storage/schema) and our own.
const (
	BucketKey            = "key"
	BucketMeta           = "meta"
	BucketLease          = "lease"
	BucketAlarm          = "alarm"
	BucketCluster        = "cluster"
	BucketMembers        = "members"
	BucketMembersRemoved = "members_removed"
	BucketAuth           = "auth"
	BucketAuthUsers      = "authUsers"
	BucketAuthRoles      = "authRoles"
	BucketMuster         = "muster"
)

// Keys of the meta and cluster buckets.
const (
	MetaConsistentIndex  = "consistent_index"    // Uint64
	MetaTerm             = "term"                // Uint64
	MetaConfState        = "confState"           // EncodeConfState
	MetaFinishedCompact  = "finishedCompactRev"  // AppendRevisionKey(rev, 0)
	MetaScheduledCompact = "scheduledCompactRev" // AppendRevisionKey(rev, 0)
	MetaStorageVersion   = "storageVersion"      // "3.7.0"

	ClusterVersionKey   = "clusterVersion" // "3.7.0"
	ClusterDowngradeKey = "downgrade"      // JSON
)

// ErrSchema says that a stored key or value isn't what etcd puts there.
var ErrSchema = errors.New("not in etcd's schema")

// RevisionKeySize is the length of a key of the key bucket; a tombstone's has one byte more.
const RevisionKeySize = 17

// AppendRevisionKey appends a key of the key bucket: main, '_', sub, both big
// endian, and a 't' if the revision deleted the key.
func AppendRevisionKey(b []byte, main, sub int64, tombstone bool) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(main))
	b = append(b, '_')
	b = binary.BigEndian.AppendUint64(b, uint64(sub))
	if tombstone {
		b = append(b, 't')
	}
	return b
}

// ParseRevisionKey reverses AppendRevisionKey.
func ParseRevisionKey(b []byte) (main, sub int64, tombstone bool, err error) {
	tombstone = len(b) == RevisionKeySize+1 && b[RevisionKeySize] == 't'
	if len(b) != RevisionKeySize && !tombstone || b[8] != '_' {
		return 0, 0, false, fmt.Errorf("%w: revision key %x", ErrSchema, b)
	}
	main, sub = int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[9:]))
	if main < 0 || sub < 0 {
		return 0, 0, false, fmt.Errorf("%w: negative revision %d, %d", ErrSchema, main, sub)
	}
	return main, sub, tombstone, nil
}

// Uint64 encodes the values of consistent_index and term, and the keys of the
// lease bucket: big endian.
func Uint64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// ParseUint64 reverses Uint64.
func ParseUint64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: %d bytes for a number of 8", ErrSchema, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// Lease is a record of the lease bucket; its key is Uint64(uint64(ID)).
type Lease struct {
	ID, TTL   int64
	Remaining int64 // checkpointed remaining TTL, 0 if none
}

// Append encodes the lease as etcd's leasepb.Lease.
func (l Lease) Append(b []byte) []byte {
	for i, v := range []int64{l.ID, l.TTL, l.Remaining} {
		if v != 0 {
			b = protowire.AppendTag(b, protowire.Number(i+1), protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(v))
		}
	}
	return b
}

// ParseLease decodes a leasepb.Lease; unknown fields are skipped.
func ParseLease(b []byte) (Lease, error) {
	var l Lease
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return l, fmt.Errorf("%w: lease record: %w", ErrSchema, protowire.ParseError(n))
		}
		b = b[n:]
		if typ == protowire.VarintType && num <= 3 {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return l, fmt.Errorf("%w: lease record: %w", ErrSchema, protowire.ParseError(n))
			}
			*[]*int64{&l.ID, &l.TTL, &l.Remaining}[num-1] = int64(v)
			b = b[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return l, fmt.Errorf("%w: lease record: %w", ErrSchema, protowire.ParseError(n))
		}
		b = b[n:]
	}
	return l, nil
}

// EncodeConfState encodes a configuration as etcd does: the message's fields as JSON.
func EncodeConfState(cs *raftpb.ConfState) ([]byte, error) { return json.Marshal(cs) }

// ParseConfState reverses EncodeConfState; it reads what any etcd since 3.5 wrote.
func ParseConfState(b []byte) (*raftpb.ConfState, error) {
	cs := new(raftpb.ConfState)
	if err := json.Unmarshal(b, cs); err != nil {
		return nil, fmt.Errorf("%w: confState: %w", ErrSchema, err)
	}
	return cs, nil
}
