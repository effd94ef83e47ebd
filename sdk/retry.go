package sdk

import (
	"context"
	"errors"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// verdict is what to do about a failed attempt.
type verdict uint8

const (
	final          verdict = iota // the answer: hand it to the caller
	elsewhere                     // certainly not executed, or harmless to repeat: try the next member
	reauthenticate                // refused for its token: get a new one and repeat
	unknown                       // a write that may have been executed
)

// judge decides from how the attempt failed. sent tells whether the request may have reached a member; read, whether
// executing it twice is harmless.
func judge(err error, sent, read bool) verdict {
	s, _ := status.FromError(err)
	switch s.Message() {
	// These are refusals made before a request is proposed, so even a write may go elsewhere.
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader), rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner):
		return elsewhere
	// The leader holds a change of the members against its rules before it proposes it; nobody else has other rules.
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCUnhealthy):
		return final
	// The token is checked before execution, too.
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCInvalidAuthToken), rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthOldRevision),
		rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty):
		return reauthenticate
	}
	switch s.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.OutOfRange, codes.AlreadyExists,
		codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented, codes.DataLoss:
		return final
	case codes.ResourceExhausted:
		// gRPC's own, such as an answer bigger than MaxMsgSize, comes after execution; a member's is a refusal.
		if read || strings.HasPrefix(s.Message(), "etcdserver: ") {
			return final
		}
		return unknown
	}
	if !sent {
		return elsewhere
	}
	if !read {
		return unknown
	}
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return elsewhere
	}
	return final
}

// isLearner tells whether a member refused because it has no vote.
func isLearner(err error) bool {
	s, _ := status.FromError(err)
	return s.Message() == rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner)
}

// passing tells whether a stream that failed with err may work when opened again, on this member or another.
func (f *failover) passing(err error) bool {
	if errors.Is(err, ErrClosed) {
		return false
	}
	s, _ := status.FromError(err)
	switch judge(err, true, true) {
	case elsewhere:
		return true
	case reauthenticate:
		return f.cfg.Username != ""
	}
	switch s.Code() {
	case codes.Internal, codes.Unknown, codes.Aborted:
		return true // a proxy or transport that broke the stream
	case codes.ResourceExhausted:
		return strings.HasPrefix(s.Message(), "etcdserver: ")
	}
	return false
}

// isRead tells whether executing the call twice is harmless and tells the same.
func isRead(method string, args any) bool {
	switch method {
	case pb.KV_Range_FullMethodName,
		pb.Lease_LeaseTimeToLive_FullMethodName, pb.Lease_LeaseLeases_FullMethodName,
		pb.Cluster_MemberList_FullMethodName,
		pb.Maintenance_Status_FullMethodName, pb.Maintenance_Hash_FullMethodName, pb.Maintenance_HashKV_FullMethodName,
		pb.Auth_AuthStatus_FullMethodName, pb.Auth_Authenticate_FullMethodName,
		pb.Auth_UserGet_FullMethodName, pb.Auth_UserList_FullMethodName,
		pb.Auth_RoleGet_FullMethodName, pb.Auth_RoleList_FullMethodName:
		return true
	case pb.KV_Txn_FullMethodName:
		t, ok := args.(*pb.TxnRequest)
		return ok && readOnly(t)
	case pb.Maintenance_Alarm_FullMethodName:
		a, ok := args.(*pb.AlarmRequest)
		return ok && a.GetAction() == pb.AlarmRequest_GET
	}
	return false
}

func readOnly(t *pb.TxnRequest) bool {
	for _, branch := range [][]*pb.RequestOp{t.GetSuccess(), t.GetFailure()} {
		for _, op := range branch {
			switch v := op.GetRequest().(type) {
			case *pb.RequestOp_RequestRange:
			case *pb.RequestOp_RequestTxn:
				if !readOnly(v.RequestTxn) {
					return false
				}
			default:
				return false
			}
		}
	}
	return true
}

// needsLeader tells whether a member without a leader should refuse the call rather than let it wait. What a single
// member can answer by itself is left alone.
func needsLeader(method string, args any) bool {
	switch {
	case method == pb.KV_Range_FullMethodName:
		r, ok := args.(*pb.RangeRequest)
		return !ok || !r.GetSerializable()
	case method == pb.Cluster_MemberList_FullMethodName:
		r, ok := args.(*pb.MemberListRequest)
		return !ok || r.GetLinearizable()
	case strings.HasPrefix(method, "/etcdserverpb.Maintenance/"):
		return false
	}
	return strings.HasPrefix(method, "/etcdserverpb.") || strings.HasPrefix(method, "/v3lockpb.") ||
		strings.HasPrefix(method, "/v3electionpb.")
}

// withRequireLeader asks the member to refuse when it sees no leader.
func withRequireLeader(ctx context.Context) context.Context {
	if md, ok := metadata.FromOutgoingContext(ctx); ok && len(md.Get(rpctypes.MetadataRequireLeaderKey)) > 0 {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
}

// backoffDelay is how long to wait before the attempt after the given one, once every member has been tried: 25 ms
// doubling to a second, of which jitter (0 to 1) spreads the upper half.
func backoffDelay(attempt, members int, jitter float64) time.Duration {
	round := attempt + 1 - members
	if round < 0 {
		return 0
	}
	d := time.Second
	if round < 6 {
		d = min(d, 25*time.Millisecond<<round)
	}
	return d/2 + time.Duration(jitter*float64(d/2))
}
