package spec

import (
	"bytes"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const maxLeaseTTL = 9_000_000_000

// LeaseGrant adds a lease; its id has been chosen.
func (s *State) LeaseGrant(r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	switch {
	case r.ID == 0:
		return nil, rpctypes.ErrLeaseNotFound
	case r.TTL > maxLeaseTTL:
		return nil, rpctypes.ErrLeaseTTLTooLarge
	}
	if _, ok := s.leases[r.ID]; ok {
		return nil, rpctypes.ErrLeaseExist
	}
	s.leases[r.ID] = max(r.TTL, s.MinLeaseTTL)
	return &pb.LeaseGrantResponse{Header: s.header(), ID: r.ID, TTL: s.leases[r.ID]}, nil
}

// LeaseRevoke removes a lease and its keys.
func (s *State) LeaseRevoke(r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if _, ok := s.leases[r.ID]; !ok {
		return nil, rpctypes.ErrLeaseNotFound
	}
	s.Expire(r.ID)
	return &pb.LeaseRevokeResponse{Header: s.header()}, nil
}

// Expire removes leases whose time is up, with their keys, all in one revision.
// Those that are gone already are passed over.
func (s *State) Expire(ids ...int64) {
	c := change{s: s}
	for _, id := range ids {
		for _, key := range s.LeaseKeys(id) {
			c.delete(key)
		}
		delete(s.leases, id)
	}
	c.done()
}

// Lease gives the TTL of a lease, false if there is none with that id.
func (s *State) Lease(id int64) (ttl int64, ok bool) {
	ttl, ok = s.leases[id]
	return ttl, ok
}

// LeaseKeys returns the keys attached to a lease, in order.
func (s *State) LeaseKeys(id int64) [][]byte {
	var keys [][]byte
	for _, kv := range s.keys {
		if id != 0 && kv.Lease == id {
			keys = append(keys, kv.Key)
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return keys
}

// Leases returns the ids and TTLs of all leases. Don't write to it.
func (s *State) Leases() map[int64]int64 { return s.leases }
