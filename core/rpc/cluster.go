package rpc

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/core/membership"
)

// clusterServer is etcd's Cluster service: the list of members and its
// changes, which any member takes and the leader decides.
//
// Headers carry no revision, as in etcd: members aren't keys.
type clusterServer struct {
	pb.UnimplementedClusterServer
	*member
}

func (c *clusterServer) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.Linearizable {
		if err := c.node.ReadBarrier(ctx); err != nil {
			return nil, toStatus(err)
		}
	}
	return &pb.MemberListResponse{Header: c.memberHeader(), Members: membersOf(c.node.View().Members)}, nil
}

func (c *clusterServer) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	urls, err := peerURLs(r.PeerURLs)
	if err != nil {
		return nil, err
	}
	added, all, err := c.node.AddMember(ctx, urls, r.IsLearner)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.MemberAddResponse{Header: c.memberHeader(), Member: memberOf(added), Members: membersOf(all)}, nil
}

func (c *clusterServer) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	all, err := c.node.RemoveMember(ctx, r.ID)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.MemberRemoveResponse{Header: c.memberHeader(), Members: membersOf(all)}, nil
}

// MemberUpdate refuses URLs that MemberAdd would, which etcd takes and then
// cannot dial.
func (c *clusterServer) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	urls, err := peerURLs(r.PeerURLs)
	if err != nil {
		return nil, err
	}
	all, err := c.node.UpdateMember(ctx, r.ID, urls)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.MemberUpdateResponse{Header: c.memberHeader(), Members: membersOf(all)}, nil
}

func (c *clusterServer) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	all, err := c.node.PromoteMember(ctx, r.ID)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.MemberPromoteResponse{Header: c.memberHeader(), Members: membersOf(all)}, nil
}

func (c *clusterServer) memberHeader() *pb.ResponseHeader { return c.id.header(0, c.node.Term()) }

func membersOf(members []membership.Member) []*pb.Member {
	all := make([]*pb.Member, len(members))
	for i, m := range members {
		all[i] = memberOf(m)
	}
	return all
}

func memberOf(m membership.Member) *pb.Member {
	return &pb.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.IsLearner}
}

// peerURLs takes what etcd takes and a member can dial: scheme, host and port, or
// a socket. A voter that nobody can reach may cost the quorum, and with it the way
// to remove it again.
func peerURLs(given []string) ([]string, error) {
	if len(given) == 0 {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	urls := make([]string, len(given))
	for i, s := range given {
		s = strings.TrimSpace(s)
		u, err := url.Parse(s)
		if err != nil {
			return nil, rpctypes.ErrGRPCMemberBadURLs
		}
		switch u.Scheme {
		case "http":
			if n, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || n == 0 || u.Path != "" {
				return nil, rpctypes.ErrGRPCMemberBadURLs
			}
		case "unix":
			if u.Host+u.Path == "" {
				return nil, rpctypes.ErrGRPCMemberBadURLs
			}
		case "https", "unixs":
			return nil, status.Errorf(codes.InvalidArgument, "muster: peer URL %s: TLS is not supported yet: use %s", s, strings.TrimSuffix(u.Scheme, "s"))
		default:
			return nil, rpctypes.ErrGRPCMemberBadURLs
		}
		urls[i] = s
	}
	return urls, nil
}
