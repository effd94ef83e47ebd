package rpc

import (
	"context"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/node"
)

// Node is what the services need of the member they speak for.
//
// The calls made once a request or oftener (View, Term, Leader, IsLearner)
// must be one atomic load each. *node.Node is one. Propose, ReadBarrier and RenewLease bound their
// own waiting: no timer is made here for them.
type Node interface {
	// Propose takes the command through the log and returns what applying it
	// gave. body is copied before Propose returns, and not kept.
	Propose(ctx context.Context, kind machine.Kind, body []byte, user string, authRevision uint64) (machine.Result, error)
	// ReadBarrier returns once the view shows everything that was
	// acknowledged before the call.
	ReadBarrier(ctx context.Context) error
	View() *machine.View
	Term() uint64
	Leader() uint64
	IsLearner() bool
	Status() node.Status
	// RenewLease gives the TTL the lease now has.
	RenewLease(ctx context.Context, id int64) (ttl int64, err error)
	// LeaseRemaining asks the leader how long the lease has still to live.
	LeaseRemaining(ctx context.Context, id int64) (remaining, granted int64, err error)

	// The changes of the membership return all members after the change.
	AddMember(ctx context.Context, peerURLs []string, learner bool) (added membership.Member, all []membership.Member, err error)
	RemoveMember(ctx context.Context, id uint64) ([]membership.Member, error)
	UpdateMember(ctx context.Context, id uint64, peerURLs []string) ([]membership.Member, error)
	PromoteMember(ctx context.Context, id uint64) ([]membership.Member, error)
	// TransferLeader returns once the other member leads. Leader only.
	TransferLeader(ctx context.Context, to uint64) error
}
