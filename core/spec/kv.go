package spec

import (
	"bytes"
	"cmp"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// A change is what one request does to the keys: all of it at one new revision.
type change struct {
	s     *State
	wrote bool
}

// rev is the revision a reply should carry now.
func (c *change) rev() int64 {
	if c.wrote {
		return c.s.rev + 1
	}
	return c.s.rev
}

func (c *change) header() *pb.ResponseHeader { return &pb.ResponseHeader{Revision: c.rev()} }

func (c *change) done() { c.s.rev = c.rev() }

// contains says whether key is in the range that etcd writes as key and range_end.
func contains(from, end, key []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(key, from)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(key, from) >= 0
	default:
		return bytes.Compare(key, from) >= 0 && bytes.Compare(key, end) < 0
	}
}

func inRange(keys map[string]*mvccpb.KeyValue, from, end []byte) []*mvccpb.KeyValue {
	if len(end) == 0 {
		if kv := keys[string(from)]; kv != nil {
			return []*mvccpb.KeyValue{kv}
		}
		return nil
	}
	var out []*mvccpb.KeyValue
	for _, kv := range keys {
		if contains(from, end, kv.Key) {
			out = append(out, kv)
		}
	}
	slices.SortFunc(out, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	return out
}

// Put writes one key.
func (s *State) Put(r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	if err := s.allowsPut(r); err != nil {
		return nil, err
	}
	c := change{s: s}
	resp := c.put(r)
	c.done()
	return resp, nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrLeaseProvided
	}
	return nil
}

// allowsPut says whether the present state allows a put.
func (s *State) allowsPut(r *pb.PutRequest) error {
	if _, ok := s.leases[r.Lease]; r.Lease != 0 && !ok {
		return rpctypes.ErrLeaseNotFound
	}
	if (r.IgnoreValue || r.IgnoreLease) && s.keys[string(r.Key)] == nil {
		return rpctypes.ErrKeyNotFound
	}
	return nil
}

func (c *change) put(r *pb.PutRequest) *pb.PutResponse {
	rev := c.s.rev + 1
	kv := &mvccpb.KeyValue{
		Key: r.Key, Value: r.Value, Lease: r.Lease,
		CreateRevision: rev, ModRevision: rev, Version: 1,
	}
	old := c.s.keys[string(r.Key)]
	if old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		if r.IgnoreValue {
			kv.Value = old.Value
		}
		if r.IgnoreLease {
			kv.Lease = old.Lease
		}
	}
	c.s.keys[string(r.Key)] = kv
	c.s.past = append(c.s.past, &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv})
	c.wrote = true
	resp := &pb.PutResponse{Header: c.header()}
	if r.PrevKv {
		resp.PrevKv = old
	}
	return resp
}

// DeleteRange deletes keys.
func (s *State) DeleteRange(r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrEmptyKey
	}
	c := change{s: s}
	resp := c.deleteRange(r)
	c.done()
	return resp, nil
}

func (c *change) deleteRange(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	resp := &pb.DeleteRangeResponse{}
	for _, kv := range inRange(c.s.keys, r.Key, r.RangeEnd) {
		c.delete(kv.Key)
		resp.Deleted++
		if r.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, kv)
		}
	}
	resp.Header = c.header()
	return resp
}

func (c *change) delete(key []byte) {
	delete(c.s.keys, string(key))
	c.s.past = append(c.s.past, &mvccpb.Event{
		Type: mvccpb.Event_DELETE,
		Kv:   &mvccpb.KeyValue{Key: key, ModRevision: c.s.rev + 1},
	})
	c.wrote = true
}

// Range reads keys.
func (s *State) Range(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	c := change{s: s}
	return c.readRange(r)
}

func checkRange(r *pb.RangeRequest) error {
	if len(r.Key) == 0 {
		return rpctypes.ErrEmptyKey
	}
	if r.SortOrder < pb.RangeRequest_NONE || r.SortOrder > pb.RangeRequest_DESCEND ||
		r.SortTarget < pb.RangeRequest_KEY || r.SortTarget > pb.RangeRequest_VALUE {
		return rpctypes.ErrInvalidSortOption
	}
	return nil
}

// readRange sees what this change has written so far.
func (c *change) readRange(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	keys := c.s.keys
	switch rev := r.Revision; {
	case rev > c.rev():
		return nil, rpctypes.ErrFutureRev
	case rev <= 0:
	case rev < c.s.compactRev:
		return nil, rpctypes.ErrCompacted
	default:
		keys = c.s.at(rev, r.Key, r.RangeEnd)
	}
	kvs := inRange(keys, r.Key, r.RangeEnd)
	resp := &pb.RangeResponse{Header: c.header(), Count: int64(len(kvs))}
	if r.CountOnly {
		return resp, nil
	}
	kvs = slices.DeleteFunc(kvs, func(kv *mvccpb.KeyValue) bool {
		return r.MaxModRevision != 0 && kv.ModRevision > r.MaxModRevision ||
			r.MinModRevision != 0 && kv.ModRevision < r.MinModRevision ||
			r.MaxCreateRevision != 0 && kv.CreateRevision > r.MaxCreateRevision ||
			r.MinCreateRevision != 0 && kv.CreateRevision < r.MinCreateRevision
	})
	slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) int {
		order := 0
		switch r.SortTarget {
		case pb.RangeRequest_KEY:
			order = bytes.Compare(a.Key, b.Key)
		case pb.RangeRequest_VERSION:
			order = cmp.Compare(a.Version, b.Version)
		case pb.RangeRequest_CREATE:
			order = cmp.Compare(a.CreateRevision, b.CreateRevision)
		case pb.RangeRequest_MOD:
			order = cmp.Compare(a.ModRevision, b.ModRevision)
		case pb.RangeRequest_VALUE:
			order = bytes.Compare(a.Value, b.Value)
		}
		if r.SortOrder == pb.RangeRequest_DESCEND {
			return -order
		}
		return order
	})
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs = kvs[:r.Limit]
		resp.More = true
	}
	for _, kv := range kvs {
		if r.KeysOnly {
			kv = &mvccpb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version}
		}
		resp.Kvs = append(resp.Kvs, kv)
	}
	return resp, nil
}

// Compact makes everything before a revision unreadable.
func (s *State) Compact(r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	switch {
	case r.Revision <= s.compactRev:
		return nil, rpctypes.ErrCompacted
	case r.Revision > s.rev:
		return nil, rpctypes.ErrFutureRev
	}
	s.compactRev = r.Revision
	return &pb.CompactionResponse{Header: s.header()}, nil
}
