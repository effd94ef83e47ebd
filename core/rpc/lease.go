package rpc

import (
	"context"
	"errors"
	"io"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/node"
)

// leaseServer is etcd's Lease service. Its unary methods go through the
// generated code, the keep-alive stream through lean messages.
type leaseServer struct {
	pb.UnimplementedLeaseServer
	*member
	minTTL int64
	nextID func() int64
}

func (l *leaseServer) register(s grpc.ServiceRegistrar) {
	desc := pb.Lease_ServiceDesc
	desc.Streams = slices.Clone(desc.Streams)
	for i := range desc.Streams {
		if desc.Streams[i].StreamName == "LeaseKeepAlive" {
			desc.Streams[i].Handler = func(_ any, ss grpc.ServerStream) error { return l.keepAlive(ss) }
		}
	}
	s.RegisterService(&desc, l)
}

// LeaseGrant picks an id if the client left it open and raises a TTL that is
// too short to be kept alive across an election, both before the command is
// proposed: applying it must give the same on every member.
func (l *leaseServer) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if r.TTL > lease.MaxTTL {
		return nil, toStatus(lease.ErrTTLTooLarge)
	}
	r.TTL = max(r.TTL, l.minTTL)
	for r.ID == 0 {
		r.ID = l.nextID()
	}
	resp := new(pb.LeaseGrantResponse)
	hdr, err := l.proposeInto(ctx, machine.LeaseGrant, r, resp)
	if err != nil {
		return nil, err
	}
	resp.Header = hdr
	return resp, nil
}

func (l *leaseServer) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	resp := new(pb.LeaseRevokeResponse)
	hdr, err := l.proposeInto(ctx, machine.LeaseRevoke, r, resp)
	if err != nil {
		return nil, err
	}
	resp.Header = hdr
	return resp, nil
}

// LeaseTimeToLive answers an unknown lease with TTL -1 and no error, as etcd.
// The keys come from this member's view, which has to hold what was
// acknowledged by others first.
func (l *leaseServer) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	left, granted, err := l.node.LeaseRemaining(ctx, r.ID)
	resp := &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: left, GrantedTTL: granted}
	switch {
	case leaseGone(err):
		resp.TTL, resp.GrantedTTL = -1, 0
	case err != nil:
		return nil, toStatus(err)
	case r.Keys:
		if err := l.node.ReadBarrier(ctx); err != nil {
			return nil, toStatus(err)
		}
		resp.Keys = l.node.View().Leases.Keys(r.ID)
	}
	resp.Header = l.header()
	return resp, nil
}

// LeaseLeases lists what this member has applied, as etcd.
func (l *leaseServer) LeaseLeases(context.Context, *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	leases := l.node.View().Leases
	resp := &pb.LeaseLeasesResponse{Header: l.header(), Leases: make([]*pb.LeaseStatus, 0, leases.Len())}
	leases.Each(func(le lease.Lease) bool {
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: le.ID})
		return true
	})
	return resp, nil
}

// keepAlive runs the stream until either side ends it. Receiving waits for the
// client alone, so that the server's reasons to stop are watched from here;
// once this returns, grpc ends the stream and with it the other goroutine.
func (l *leaseServer) keepAlive(ss grpc.ServerStream) error {
	ended := make(chan error, 1)
	go func() { ended <- l.renewals(ss) }()
	select {
	case err := <-ended:
		return err
	case <-ss.Context().Done():
		return ss.Context().Err()
	}
}

// renewals renews leases in the order asked for. An expired or unknown one is
// answered with TTL 0 and no error.
func (l *leaseServer) renewals(ss grpc.ServerStream) error {
	ctx := ss.Context()
	var req keepAliveRequest
	for {
		if err := ss.RecvMsg(&req); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		// The header's revision is the one before the renewal: a client must
		// never see a lease alive at a revision that had already ended it.
		rev, term := l.node.View().KV.Rev(), l.node.Term()
		ttl, err := l.node.RenewLease(ctx, req.id)
		if leaseGone(err) {
			ttl, err = 0, nil
		}
		if err != nil {
			return toStatus(err)
		}
		e := new(encoded)
		b := l.id.appendHeader(e.inline[:0], rev, term)
		b = appendVarintField(b, 2, uint64(req.id))
		b = appendVarintField(b, 3, uint64(ttl))
		if err := ss.SendMsg(e.one(b)); err != nil {
			return err
		}
	}
}

func leaseGone(err error) bool {
	return errors.Is(err, lease.ErrNotFound) || errors.Is(err, node.ErrLeaseNotFound)
}
