package machine

import (
	"errors"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/mvcc"
)

// Refusals: the command was understood and changed nothing (but the alarm list,
// for ErrNoSpace). The request texts are etcd's.
var (
	ErrEmptyKey          = errors.New("key is not provided")
	ErrKeyNotFound       = errors.New("key not found")
	ErrValueProvided     = errors.New("value is provided")
	ErrLeaseProvided     = errors.New("lease is provided")
	ErrTooManyOps        = errors.New("too many operations in txn request")
	ErrDuplicateKey      = errors.New("duplicate key given in txn request")
	ErrInvalidSortOption = errors.New("invalid sort option")
	ErrNoSpace           = errors.New("database space exceeded; delete or compact, or raise the quota")
	ErrCorrupt           = errors.New("corrupt cluster: a CORRUPT alarm is raised")
	ErrMalformed         = errors.New("malformed request")
	ErrBadSettings       = errors.New("bad settings")
	ErrBadVersion        = errors.New("bad cluster version")
	// ErrStaleTerm means an expiry by a leader that had been replaced.
	ErrStaleTerm = errors.New("expiry of an earlier term")
)

// ErrDiverged means that this member's state is not what that of a majority was
// at the same index. The member must stop: what it would serve is wrong.
var ErrDiverged = errors.New("state has diverged from the majority's")

// Fatal reports whether an error of Apply must stop the member.
func Fatal(err error) bool {
	return errors.Is(err, ErrUnknownCommand) || errors.Is(err, ErrBadEntry) || errors.Is(err, ErrDiverged)
}

// refusalCode numbers a refusal for the running hash. The numbers belong to the
// hash's version.
func refusalCode(err error) uint64 {
	for code, known := range [...]error{
		1: ErrEmptyKey, 2: ErrKeyNotFound, 3: ErrValueProvided, 4: ErrLeaseProvided, 5: ErrTooManyOps,
		6: ErrDuplicateKey, 7: ErrInvalidSortOption, 8: ErrNoSpace, 9: ErrCorrupt, 10: ErrMalformed,
		11: ErrBadSettings, 12: ErrStaleTerm, 13: mvcc.ErrCompacted, 14: mvcc.ErrFutureRev,
		15: lease.ErrNotFound, 16: lease.ErrExists, 17: lease.ErrTTLTooLarge,
		18: membership.ErrIDRemoved, 19: membership.ErrIDExists, 20: membership.ErrIDNotFound,
		21: membership.ErrPeerURLExists, 22: membership.ErrNotLearner, 23: membership.ErrTooManyLearners,
		24: membership.ErrBadChange, 25: ErrBadVersion, 26: membership.ErrLastVoter,
	} {
		if known != nil && errors.Is(err, known) {
			return uint64(code)
		}
	}
	return 255
}
