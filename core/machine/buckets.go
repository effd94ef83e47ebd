package machine

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/simbug"
)

// The names of a checkpoint's buckets and of the keys in them are etcd's, so
// that the file is an etcd snapshot, but for the bucket muster, which holds what
// etcd has no place for.
const (
	bucketAlarm   = "alarm"
	bucketAuth    = "auth"
	bucketCluster = "cluster"
	bucketKey     = "key"
	bucketLease   = "lease"
	bucketMembers = "members"
	bucketRemoved = "members_removed"
	bucketMeta    = "meta"
	bucketMuster  = "muster"

	metaIndex          = "consistent_index"
	metaTerm           = "term"
	metaConfState      = "confState"
	metaFinished       = "finishedCompactRev"
	metaScheduled      = "scheduledCompactRev"
	metaStorageVersion = "storageVersion"

	clusterVersionKey   = "clusterVersion"
	clusterDowngradeKey = "downgrade"

	authEnabledKey  = "authEnabled"
	authRevisionKey = "authRevision"

	musterFormat   = "format" // of this bucket; the others are etcd's to version
	musterFull     = "full"
	musterDisputed = "disputed"
	musterHash     = "hash" // version, then value
	musterMaxTime  = "maxTime"
	musterRevision = "revision"
	musterSettings = "settings"

	musterFormatVersion = 1
	storageVersion      = "3.7.0"
)

// Bucket is one bucket of a checkpoint: its pairs in key order. Pairs may be
// iterated more than once; key and value are valid until the next pair.
type Bucket struct {
	Name  string
	Pairs iter.Seq2[[]byte, []byte]
}

// Buckets gives the whole state as a checkpoint's buckets, in name order.
func (v *View) Buckets() ([]Bucket, error) {
	members, removed, err := v.memberPairs()
	if err != nil {
		return nil, err
	}
	meta, err := v.metaPairs()
	if err != nil {
		return nil, err
	}
	alarms := make(pairs, 0, len(v.Alarms))
	for _, a := range v.Alarms {
		alarms = append(alarms, pair{string(a.encode()), nil})
	}
	cluster := pairs{{clusterDowngradeKey, []byte(`{"target-version":"","enabled":false}`)}}
	if v.ClusterVersion != "" {
		cluster = append(cluster, pair{clusterVersionKey, []byte(v.ClusterVersion)})
	}
	auth := pairs{{authEnabledKey, []byte{0}}, {authRevisionKey, be64(1)}}
	muster := pairs{
		{musterFormat, be64(musterFormatVersion)},
		{musterHash, append(be64(hashVersion), be64(uint64(v.running))...)},
		{musterMaxTime, be64(uint64(v.MaxTime))},
		{musterRevision, be64(uint64(v.KV.Rev()))},
		{musterSettings, v.Settings.Encode()},
	}
	if v.Disputed {
		muster = append(muster, pair{musterDisputed, []byte{1}})
	}
	if v.full {
		muster = append(muster, pair{musterFull, []byte{1}})
	}
	return []Bucket{
		{bucketAlarm, alarms.sorted()},
		{bucketAuth, auth.sorted()},
		{"authRoles", pairs(nil).sorted()},
		{"authUsers", pairs(nil).sorted()},
		{bucketCluster, cluster.sorted()},
		{bucketKey, v.keyPairs},
		{bucketLease, v.leasePairs},
		{bucketMembers, members.sorted()},
		{bucketRemoved, removed.sorted()},
		{bucketMeta, meta.sorted()},
		{bucketMuster, muster.sorted()},
	}, nil
}

type pair struct {
	key   string
	value []byte
}

type pairs []pair

func (p pairs) sorted() iter.Seq2[[]byte, []byte] {
	slices.SortFunc(p, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	return func(yield func(k, v []byte) bool) {
		for _, e := range p {
			if !yield([]byte(e.key), e.value) {
				return
			}
		}
	}
}

func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// revisionKey is a key of the bucket "key": main, '_', sub, and 't' on a tombstone.
func revisionKey(b []byte, main, sub int64, tombstone bool) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(main))
	b = append(b, '_')
	b = binary.BigEndian.AppendUint64(b, uint64(sub))
	if tombstone {
		b = append(b, 't')
	}
	return b
}

const revisionKeySize = 17

func parseRevisionKey(b []byte) (main, sub int64, tombstone bool, err error) {
	tombstone = len(b) == revisionKeySize+1 && b[revisionKeySize] == 't'
	if len(b) != revisionKeySize && !tombstone || b[8] != '_' {
		return 0, 0, false, fmt.Errorf("%w: key %x in bucket %q is no revision", ErrBadCheckpoint, b, bucketKey)
	}
	return int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[9:])), tombstone, nil
}

func (v *View) keyPairs(yield func(k, v []byte) bool) {
	buf := make([]byte, 0, revisionKeySize+1)
	v.KV.Dump(func(main, sub int64, tombstone bool, r mvcc.Record) bool {
		return yield(revisionKey(buf[:0], main, sub, tombstone), r)
	})
}

func (v *View) leasePairs(yield func(k, v []byte) bool) {
	key, value := make([]byte, 0, 8), make([]byte, 0, 33)
	v.Leases.Each(func(l lease.Lease) bool {
		b := appendInt(appendInt(value[:0], 1, l.ID), 2, l.TTL)
		return yield(binary.BigEndian.AppendUint64(key, uint64(l.ID)), appendInt(b, 3, l.Remaining))
	})
}

func (v *View) memberPairs() (members, removed pairs, err error) {
	for _, m := range v.Members {
		b, err := json.Marshal(m)
		if err != nil {
			return nil, nil, fmt.Errorf("member %s: %w", membership.FormatID(m.ID), err)
		}
		members = append(members, pair{membership.FormatID(m.ID), b})
	}
	for _, id := range v.RemovedMembers {
		removed = append(removed, pair{membership.FormatID(id), []byte("removed")})
	}
	return members, removed, nil
}

// etcdConfState is raftpb.ConfState as etcd writes it.
type etcdConfState struct {
	Voters         []uint64 `json:"voters,omitempty"`
	Learners       []uint64 `json:"learners,omitempty"`
	VotersOutgoing []uint64 `json:"voters_outgoing,omitempty"`
	LearnersNext   []uint64 `json:"learners_next,omitempty"`
	AutoLeave      bool     `json:"auto_leave"`
}

func (v *View) metaPairs() (pairs, error) {
	cs := v.ConfState
	confState, err := json.Marshal(etcdConfState{
		Voters: cs.GetVoters(), Learners: cs.GetLearners(), VotersOutgoing: cs.GetVotersOutgoing(),
		LearnersNext: cs.GetLearnersNext(), AutoLeave: cs.GetAutoLeave(),
	})
	if err != nil {
		return nil, fmt.Errorf("conf state: %w", err)
	}
	index := v.Index
	switch {
	case simbug.On(simbug.IndexAhead):
		index++
	case simbug.On(simbug.IndexBehind) && index > 1: // a log that reaches back to nothing would be refused
		index--
	}
	meta := pairs{
		{metaConfState, confState},
		{metaStorageVersion, []byte(storageVersion)},
		{metaIndex, be64(index)},
		{metaTerm, be64(v.Term)},
	}
	if rev := v.KV.CompactRev(); rev >= 0 {
		meta = append(meta,
			pair{metaFinished, revisionKey(nil, rev, 0, false)},
			pair{metaScheduled, revisionKey(nil, rev, 0, false)})
	}
	return meta, nil
}

func (c etcdConfState) raft() *raftpb.ConfState {
	return &raftpb.ConfState{
		Voters: c.Voters, Learners: c.Learners, VotersOutgoing: c.VotersOutgoing,
		LearnersNext: c.LearnersNext, AutoLeave: &c.AutoLeave,
	}
}
