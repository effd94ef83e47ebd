package rpc

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/node"
)

// translation is one line of the table: our error, and what etcd's clients
// know it by. Both string and code are contract: clients match on them.
type translation struct{ ours, wire error }

// errorTable is the one place where an error of ours gets a gRPC code.
//
// Two rows differ from what etcd puts on the wire: it maps "too many requests"
// and "not enough started members" to client-side error values by mistake, so
// that they travel as Unknown. Here they have the code that etcd declares.
func errorTable() []translation {
	return []translation{
		{mvcc.ErrCompacted, rpctypes.ErrGRPCCompacted},
		{mvcc.ErrFutureRev, rpctypes.ErrGRPCFutureRev},

		{machine.ErrEmptyKey, rpctypes.ErrGRPCEmptyKey},
		{machine.ErrKeyNotFound, rpctypes.ErrGRPCKeyNotFound},
		{machine.ErrValueProvided, rpctypes.ErrGRPCValueProvided},
		{machine.ErrLeaseProvided, rpctypes.ErrGRPCLeaseProvided},
		{machine.ErrTooManyOps, rpctypes.ErrGRPCTooManyOps},
		{machine.ErrDuplicateKey, rpctypes.ErrGRPCDuplicateKey},
		{machine.ErrInvalidSortOption, rpctypes.ErrGRPCInvalidSortOption},
		{machine.ErrNoSpace, rpctypes.ErrGRPCNoSpace},
		{machine.ErrCorrupt, rpctypes.ErrGRPCCorrupt},

		{lease.ErrNotFound, rpctypes.ErrGRPCLeaseNotFound},
		{node.ErrLeaseNotFound, rpctypes.ErrGRPCLeaseNotFound},
		{lease.ErrExists, rpctypes.ErrGRPCLeaseExist},
		{lease.ErrTTLTooLarge, rpctypes.ErrGRPCLeaseTTLTooLarge},

		{membership.ErrIDRemoved, rpctypes.ErrGRPCMemberNotFound},
		{membership.ErrIDNotFound, rpctypes.ErrGRPCMemberNotFound},
		{membership.ErrIDExists, rpctypes.ErrGRPCMemberExist},
		{membership.ErrPeerURLExists, rpctypes.ErrGRPCPeerURLExist},
		{membership.ErrNotLearner, rpctypes.ErrGRPCMemberNotLearner},
		{membership.ErrTooManyLearners, rpctypes.ErrGRPCTooManyLearners},
		{membership.ErrLastVoter, rpctypes.ErrGRPCMemberNotEnoughStarted}, // etcd panics
		{node.ErrNotEnoughStarted, rpctypes.ErrGRPCMemberNotEnoughStarted},
		{node.ErrUnhealthy, rpctypes.ErrGRPCUnhealthy},
		{node.ErrLearnerNotReady, rpctypes.ErrGRPCLearnerNotReady},
		{node.ErrBadTransferee, rpctypes.ErrGRPCBadLeaderTransferee},
		{node.ErrTransferTimeout, status.Error(codes.Unknown, "etcdserver: request timed out, leader transfer took too long")},
		// etcd has no word for this: a second change is dropped and times out.
		{node.ErrChangeUnderWay, status.Error(codes.Unavailable, "muster: "+node.ErrChangeUnderWay.Error())},

		{node.ErrNoLeader, rpctypes.ErrGRPCNoLeader},
		{node.ErrNotLeader, rpctypes.ErrGRPCNotLeader},
		{node.ErrLeaderChanged, rpctypes.ErrGRPCLeaderChanged},
		{node.ErrTooManyRequests, rpctypes.ErrGRPCRequestTooManyRequests},
		{node.ErrTimeout, rpctypes.ErrGRPCTimeout},
		{node.ErrStopped, rpctypes.ErrGRPCStopped},
	}
}

// toStatus translates an error for the wire. What already is a status goes
// through; an ended context stays as it is, for grpc tells cancelled from late;
// what nobody knows is Unknown with its text, as in etcd.
func toStatus(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	for _, t := range errorTable() {
		if errors.Is(err, t.ours) {
			return t.wire
		}
	}
	return status.Error(codes.Unknown, err.Error())
}
