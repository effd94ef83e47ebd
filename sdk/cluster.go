package sdk

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Member is one member of the cluster.
type Member struct {
	ID                   uint64
	Name                 string
	PeerURLs, ClientURLs []string
	Learner              bool
}

// MemberStatus is what one member says of itself.
type MemberStatus struct {
	Header                 Header
	Version                string
	Leader                 uint64
	RaftIndex, RaftApplied uint64
	DBSize, DBSizeInUse    int64
	Learner                bool
	Errors                 []string
	StorageVersion         string
	DBSizeQuota            int64
}

// MemberList lists the members, as agreed by the quorum.
func (c *Client) MemberList(ctx context.Context) ([]Member, error) {
	resp, err := pb.NewClusterClient(c.conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	if err != nil {
		return nil, err
	}
	out := make([]Member, 0, len(resp.GetMembers()))
	for _, m := range resp.GetMembers() {
		out = append(out, Member{
			ID: m.GetID(), Name: m.GetName(), PeerURLs: m.GetPeerURLs(), ClientURLs: m.GetClientURLs(), Learner: m.GetIsLearner(),
		})
	}
	return out, nil
}

// Status asks the member at one endpoint.
func (c *Client) Status(ctx context.Context, endpoint string) (MemberStatus, error) {
	cc, err := c.ConnTo(endpoint)
	if err != nil {
		return MemberStatus{}, err
	}
	r, err := pb.NewMaintenanceClient(cc).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return MemberStatus{}, err
	}
	return MemberStatus{
		Header: headerFrom(r.GetHeader()), Version: r.GetVersion(), Leader: r.GetLeader(), RaftIndex: r.GetRaftIndex(),
		RaftApplied: r.GetRaftAppliedIndex(), DBSize: r.GetDbSize(), DBSizeInUse: r.GetDbSizeInUse(), Learner: r.GetIsLearner(),
		Errors: r.GetErrors(), StorageVersion: r.GetStorageVersion(), DBSizeQuota: r.GetDbSizeQuota(),
	}, nil
}
