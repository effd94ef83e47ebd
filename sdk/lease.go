package sdk

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Lease is a granted lease. TTL is what the member granted, in whole seconds, maybe more than was asked.
type Lease struct {
	ID  int64
	TTL time.Duration
}

// LeaseInfo is a lease's present state.
type LeaseInfo struct {
	ID        int64
	Remaining time.Duration
	Granted   time.Duration
	Keys      []string // only if asked for
}

// Grant makes a lease that ends after ttl, rounded up to whole seconds, unless kept alive.
func (c *Client) Grant(ctx context.Context, ttl time.Duration, opts ...Option) (Lease, error) {
	r, err := newRequest(onGrant, "", nil, opts)
	if err != nil {
		return Lease{}, err
	}
	resp, err := pb.NewLeaseClient(c.conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: seconds(ttl), ID: r.lease})
	if err != nil {
		return Lease{}, err
	}
	return Lease{ID: resp.GetID(), TTL: time.Duration(resp.GetTTL()) * time.Second}, nil
}

// Revoke ends a lease and deletes its keys.
func (c *Client) Revoke(ctx context.Context, id int64) error {
	_, err := pb.NewLeaseClient(c.conn).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id})
	return err
}

// KeepAliveOnce renews a lease; ErrLeaseNotFound if it is gone. Repeating is always safe.
func (c *Client) KeepAliveOnce(ctx context.Context, id int64) (Lease, error) {
	ctx, cancel := c.conn.bounded(ctx)
	defer cancel()
	for attempt := 0; ; attempt++ {
		l, err := c.keepAlive(ctx, id)
		if err == nil || ctx.Err() != nil || !c.conn.passing(err) {
			return l, err
		}
		if !c.conn.backoff(ctx, attempt) {
			return Lease{}, err
		}
	}
}

// keepAlive asks one member once. A stream a renewal costs a little more than one kept open, but nothing lingers
// on either side between renewals and each goes to whichever member works.
func (c *Client) keepAlive(ctx context.Context, id int64) (Lease, error) {
	ctx, cancel := c.conn.share(ctx)
	defer cancel()
	stream, err := pb.NewLeaseClient(c.conn).LeaseKeepAlive(ctx)
	if err != nil {
		return Lease{}, err
	}
	// A send that fails shows its reason on Recv.
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err == nil {
		_ = stream.CloseSend()
	}
	resp, err := stream.Recv()
	if err != nil {
		return Lease{}, err
	}
	if resp.GetTTL() <= 0 {
		return Lease{}, newError(ctx, pb.Lease_LeaseKeepAlive_FullMethodName, "",
			status.Error(codes.NotFound, "etcdserver: requested lease not found"))
	}
	return Lease{ID: resp.GetID(), TTL: time.Duration(resp.GetTTL()) * time.Second}, nil
}

// TimeToLive tells how long a lease has left, and its keys if asked; ErrLeaseNotFound if it is gone.
func (c *Client) TimeToLive(ctx context.Context, id int64, withKeys bool) (LeaseInfo, error) {
	resp, err := pb.NewLeaseClient(c.conn).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: withKeys})
	if err != nil {
		return LeaseInfo{}, err
	}
	if resp.GetTTL() < 0 {
		return LeaseInfo{}, newError(ctx, pb.Lease_LeaseTimeToLive_FullMethodName, "",
			status.Error(codes.NotFound, "etcdserver: requested lease not found"))
	}
	out := LeaseInfo{
		ID: resp.GetID(), Remaining: time.Duration(resp.GetTTL()) * time.Second,
		Granted: time.Duration(resp.GetGrantedTTL()) * time.Second,
	}
	for _, k := range resp.GetKeys() {
		out.Keys = append(out.Keys, string(k))
	}
	return out, nil
}

// Leases lists the ids of all leases.
func (c *Client) Leases(ctx context.Context) ([]int64, error) {
	resp, err := pb.NewLeaseClient(c.conn).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return nil, err
	}
	out := make([]int64, 0, len(resp.GetLeases()))
	for _, l := range resp.GetLeases() {
		out = append(out, l.GetID())
	}
	return out, nil
}

// seconds rounds up: a lease is never shorter than wished.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
