package machine

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/simbug"
)

// The refusals of Restore.
var (
	// ErrBadCheckpoint means that a checkpoint's buckets don't make sense.
	ErrBadCheckpoint = errors.New("checkpoint is not usable")
	// ErrNewerCheckpoint means a checkpoint that a newer release wrote.
	ErrNewerCheckpoint = errors.New("checkpoint was written by a newer release")
	// ErrAuthEnabled means a snapshot of a cluster with authentication. Serving it
	// without would open it to all.
	ErrAuthEnabled = errors.New("auth is enabled in this snapshot and not supported by this release; disable auth before taking the snapshot")
)

// Source is where a checkpoint's buckets are read from.
type Source interface {
	// Each calls fn for every pair of a bucket in key order and passes on its error;
	// a bucket that isn't there has no pairs. Key and value are valid during the call.
	Each(bucket string, fn func(key, value []byte) error) error
}

// Restore returns the machine whose View gave the buckets in src. A snapshot
// made by etcd will do as well.
func Restore(cfg Config, src Source) (*Machine, error) {
	return restore(cfg, src, func(rev, compactRev int64) (int64, int64) { return rev, compactRev })
}

// Refound returns the state with which every member of a new cluster begins that
// takes over the data in src: keys and leases are those of src, members are the
// given ones, the index is 0; settings are those of cfg and, where it leaves them open, of src. The revision is raised by bump and, if asked for,
// all history up to there is marked compacted, so that nobody who knew the old
// cluster mistakes a new revision for an old one.
func Refound(cfg Config, src Source, bump int64, markCompacted bool, members ...membership.Member) (*Machine, error) {
	if bump < 0 || bump > math.MaxInt64/2 {
		return nil, fmt.Errorf("%w: revision bump of %d", ErrBadCheckpoint, bump)
	}
	m, err := restore(cfg, src, func(rev, compactRev int64) (int64, int64) {
		rev += bump
		if markCompacted {
			compactRev = rev
		}
		return rev, compactRev
	})
	if err != nil {
		return nil, err
	}
	fresh, err := New(cfg, members...)
	if err != nil {
		return nil, err
	}
	if m.settings, err = m.settings.merge(cfg.Settings.Encode()); err != nil {
		return nil, err
	}
	m.members, m.confState = fresh.members, fresh.confState
	m.members.SetMaxLearners(int(m.settings.MaxLearners))
	m.alarms, m.full, m.disputed, m.clusterVersion = nil, false, false, ""
	m.index, m.term, m.hash, m.recent = 0, 0, 0, hashLog{} // the content is what it is
	// A member founded from other data, or from none, is found out by the first
	// comparison of hashes.
	v := m.kv.Publish()
	content, compactRev, rev, err := v.HashKV(0)
	if err != nil {
		return nil, err
	}
	m.hash.fold(effectRestored, uint64(rev), uint64(content))
	m.hash.fold(effectRestored, uint64(compactRev), uint64(m.leases.Len()))
	return m, nil
}

// restoring collects what the buckets say.
type restoring struct {
	m          *Machine
	loader     *mvcc.Loader
	rev        int64
	compactRev int64
	members    []membership.Member
	removed    []uint64
	confState  *etcdConfState
	alarms     []RaisedAlarm
	hash       runningHash
	ours       bool // there is a bucket muster
}

func restore(cfg Config, src Source, adjust func(rev, compactRev int64) (int64, int64)) (*Machine, error) {
	r := restoring{
		m: &Machine{
			log: cfg.logger(), leases: lease.NewTable(), settings: cfg.Settings.withDefaults(),
		},
		loader:     mvcc.NewLoader(),
		compactRev: -1,
	}
	for _, b := range []struct {
		name string
		read func(k, v []byte) error
	}{
		{bucketMuster, r.muster}, // first: its format may be refused
		{bucketAuth, r.auth},
		{bucketMeta, r.meta},
		{bucketKey, r.key},
		{bucketLease, r.lease},
		{bucketMembers, r.member},
		{bucketRemoved, r.removedMember},
		{bucketCluster, r.cluster},
		{bucketAlarm, r.alarm},
	} {
		if err := src.Each(b.name, b.read); err != nil {
			return nil, fmt.Errorf("bucket %q: %w", b.name, err)
		}
	}
	return r.finish(cfg, adjust)
}

// maxRevision is far beyond what any cluster reaches, and as far from where
// numbers end.
const maxRevision = 1 << 62

func (r *restoring) finish(cfg Config, adjust func(rev, compactRev int64) (int64, int64)) (_ *Machine, err error) {
	m := r.m
	// Before it is raised, too: raised beyond where numbers end it would be small.
	rev, compactRev := max(r.rev, r.compactRev), r.compactRev
	if rev <= maxRevision {
		rev, compactRev = adjust(rev, compactRev)
	}
	if rev > maxRevision {
		return nil, fmt.Errorf("%w: revision %d leaves no room for more", ErrBadCheckpoint, rev)
	}
	if m.kv, err = r.loader.Finish(rev, compactRev); err != nil {
		return nil, fmt.Errorf("bucket %q: %w", bucketKey, err)
	}
	// Which keys go with a lease is written in the keys.
	err = m.kv.Publish().RangeEach(mvcc.RangeOptions{Key: []byte{0}, End: []byte{0}}, func(rec mvcc.Record) bool {
		m.content.add(digest(rec))
		if id := rec.Lease(); id != 0 {
			if _, ok := m.leases.Lookup(id); ok {
				m.leases.Attach(rec.Key(), id)
			}
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("attaching keys to leases: %w", err)
	}
	if m.members, err = membership.NewSet(r.members, r.removed); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadCheckpoint, err)
	}
	m.members.SetMaxLearners(int(m.settings.MaxLearners))
	if r.confState != nil {
		m.confState = r.confState.raft()
	} else if fresh, err := New(cfg, r.members...); err == nil {
		m.confState = fresh.confState
	}
	for _, a := range r.alarms {
		m.setAlarm(a, true)
	}
	if !r.ours {
		m.full = m.alarms.has(pb.AlarmType_NOSPACE)
	}
	m.hash = r.hash // last: reading a state is no effect
	m.recent.add(m.index, m.stateHash())
	return m, nil
}

func number(k, v []byte) (uint64, error) {
	if len(v) != 8 {
		return 0, fmt.Errorf("%w: %q has %d bytes instead of 8", ErrBadCheckpoint, k, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

func (r *restoring) muster(k, v []byte) error {
	r.ours = true
	m := r.m
	switch string(k) {
	case musterFormat:
		n, err := number(k, v)
		if err == nil && n != musterFormatVersion {
			err = fmt.Errorf("%w: format %d, this release reads %d", ErrNewerCheckpoint, n, musterFormatVersion)
		}
		return err
	case musterHash:
		if len(v) != 16 {
			return fmt.Errorf("%w: %q has %d bytes instead of 16", ErrBadCheckpoint, k, len(v))
		}
		if version := binary.BigEndian.Uint64(v); version != hashVersion {
			return fmt.Errorf("%w: hash version %d, this release has %d", ErrNewerCheckpoint, version, hashVersion)
		}
		r.hash = runningHash(binary.BigEndian.Uint64(v[8:]))
	case musterMaxTime:
		n, err := number(k, v)
		m.maxTime = int64(n)
		return err
	case musterRevision:
		n, err := number(k, v)
		r.rev = max(r.rev, int64(n))
		return err
	case musterSettings:
		s, err := m.settings.merge(v)
		m.settings = s
		return err
	case musterFull:
		m.full = true
	case musterDisputed:
		m.disputed = true
	default:
		return fmt.Errorf("%w: it holds %q", ErrNewerCheckpoint, k)
	}
	return nil
}

func (r *restoring) auth(k, v []byte) error {
	if string(k) == authEnabledKey && len(v) == 1 && v[0] != 0 {
		return ErrAuthEnabled
	}
	return nil
}

func (r *restoring) meta(k, v []byte) (err error) {
	m := r.m
	switch string(k) {
	case metaIndex:
		if m.index, err = number(k, v); err == nil && m.index > math.MaxInt64 {
			err = fmt.Errorf("%w: it stands at index %d, which no log reaches", ErrBadCheckpoint, m.index)
		}
	case metaTerm:
		m.term, err = number(k, v)
	case metaFinished, metaScheduled:
		// A compaction that etcd had scheduled and not finished counts as done: logically it is.
		main, _, _, err := parseRevisionKey(v)
		r.compactRev = max(r.compactRev, main)
		return err
	case metaConfState:
		r.confState = new(etcdConfState)
		if err := json.Unmarshal(v, r.confState); err != nil {
			return fmt.Errorf("%w: %q: %w", ErrBadCheckpoint, k, err)
		}
	}
	return err
}

func (r *restoring) key(k, v []byte) error {
	main, sub, tombstone, err := parseRevisionKey(k)
	if err != nil {
		return err
	}
	r.rev = max(r.rev, main)
	return r.loader.Add(main, sub, tombstone, v)
}

func (r *restoring) lease(_, v []byte) error {
	var l lease.Lease
	if err := ints(v, &l.ID, &l.TTL, &l.Remaining); err != nil {
		return err
	}
	if !r.ours {
		// A cluster that starts from etcd's data starts all its leases afresh.
		l.Remaining = 0
	}
	if err := r.m.leases.Restore(l); err != nil {
		return fmt.Errorf("%w: %w", ErrBadCheckpoint, err)
	}
	r.m.content.add(leaseDigest(l))
	return nil
}

func (r *restoring) member(k, v []byte) error {
	var member membership.Member
	id, err := membership.ParseID(string(k))
	if err == nil {
		err = json.Unmarshal(v, &member)
	}
	if err != nil {
		return fmt.Errorf("%w: %q: %w", ErrBadCheckpoint, k, err)
	}
	member.ID = id
	r.members = append(r.members, member)
	return nil
}

func (r *restoring) removedMember(k, _ []byte) error {
	id, err := membership.ParseID(string(k))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadCheckpoint, err)
	}
	if simbug.On(simbug.RemovedForgotten) {
		return nil
	}
	r.removed = append(r.removed, id)
	return nil
}

func (r *restoring) cluster(k, v []byte) error {
	if string(k) != clusterVersionKey {
		return nil
	}
	if _, err := parseVersion(string(v)); err != nil {
		return fmt.Errorf("%w: %w", ErrBadCheckpoint, err)
	}
	if newer(string(v)) {
		return fmt.Errorf("%w: its cluster version is %s, this release knows %s", ErrNewerCheckpoint, v, CurrentClusterVersion)
	}
	r.m.clusterVersion = string(v)
	return nil
}

func (r *restoring) alarm(k, _ []byte) error {
	var a pb.AlarmMember
	if err := proto.Unmarshal(k, &a); err != nil {
		return fmt.Errorf("%w: %q: %w", ErrBadCheckpoint, k, err)
	}
	r.alarms = append(r.alarms, RaisedAlarm{Member: a.MemberID, Type: a.Alarm})
	return nil
}
