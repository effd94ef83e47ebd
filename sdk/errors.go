package sdk

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	// ErrClosed is returned by calls on a closed Client.
	ErrClosed = errors.New("sdk: client is closed")
	// ErrNoEndpoints: the configuration names no endpoint.
	ErrNoEndpoints = errors.New("sdk: no endpoints; set Config.Endpoints, such as [\"127.0.0.1:2379\"]")
	// ErrUnknownOutcome: a write was sent and its answer is missing, so it may or may not have been executed, now or
	// later. Read before repeating it.
	ErrUnknownOutcome = errors.New("sdk: outcome of the write is unknown")
	// ErrUnavailable: no member took the call before its deadline. It was not executed.
	ErrUnavailable = errors.New("sdk: no member could serve the call")
	// ErrNoLeader: the member sees no leader; the call was refused before it was executed.
	ErrNoLeader = errors.New("sdk: cluster has no leader")
	// ErrCompacted: the revision asked for is compacted away. See also [CompactedError].
	ErrCompacted = errors.New("sdk: revision has been compacted")
	// ErrFutureRevision: the revision asked for doesn't exist yet.
	ErrFutureRevision = errors.New("sdk: revision is in the future")
	// ErrLeaseNotFound: the lease has expired, was revoked, or never existed.
	ErrLeaseNotFound = errors.New("sdk: lease not found")
	// ErrLeaseExists: a lease with the wished id exists.
	ErrLeaseExists = errors.New("sdk: lease already exists")
	// ErrPermissionDenied: the user lacks a permission for the range.
	ErrPermissionDenied = errors.New("sdk: permission denied")
	// ErrUnauthenticated: name or password are wrong or missing.
	ErrUnauthenticated = errors.New("sdk: not authenticated")
	// ErrNoSpace: the quota is exceeded; compact or delete, then disarm the alarm.
	ErrNoSpace = errors.New("sdk: database space exceeded")
	// ErrTooManyRequests: the member sheds load; the call was not executed.
	ErrTooManyRequests = errors.New("sdk: too many requests")
	// ErrKeyNotFound: a put WithIgnoreValue or WithIgnoreLease found no key.
	ErrKeyNotFound = errors.New("sdk: key not found")
	// ErrWatchCanceled: the member ended a watch for good, for the reason in the text.
	ErrWatchCanceled = errors.New("sdk: watch canceled by the member")
	// ErrSessionLost is the cause of a session's context once its lease can no longer be relied on.
	ErrSessionLost = errors.New("sdk: session lost; its lease may have expired")
	// ErrSessionClosed is the cause of a session's context after Close or Orphan.
	ErrSessionClosed = errors.New("sdk: session is closed")
	// ErrInvalid: an argument or option can't be used as given; nothing was sent.
	ErrInvalid = errors.New("sdk: invalid argument")
)

// sentinels translates the messages a member sends, which are part of the wire.
func sentinel(s *status.Status) error {
	switch s.Message() {
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCCompacted):
		return ErrCompacted
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCFutureRev):
		return ErrFutureRevision
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCLeaseNotFound):
		return ErrLeaseNotFound
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCLeaseExist):
		return ErrLeaseExists
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCPermissionDenied):
		return ErrPermissionDenied
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthFailed), rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty),
		rpctypes.ErrorDesc(rpctypes.ErrGRPCInvalidAuthToken):
		return ErrUnauthenticated
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCNoSpace):
		return ErrNoSpace
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooManyRequests):
		return ErrTooManyRequests
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCKeyNotFound):
		return ErrKeyNotFound
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader):
		return ErrNoLeader
	}
	switch s.Code() {
	case codes.PermissionDenied:
		return ErrPermissionDenied
	case codes.Unauthenticated:
		return ErrUnauthenticated
	}
	return nil
}

// Error is what every failed call returns. errors.Is sees the sentinels of this package, context errors and the gRPC
// status error; status.FromError sees the status as the member sent it.
type Error struct {
	Method   string // full gRPC method, "/etcdserverpb.KV/Put"
	Endpoint string // where it went; empty if nowhere
	Status   *status.Status
	kinds    []error
}

// Error gives the member's message, preceded by what is known about the outcome.
func (e *Error) Error() string {
	var b strings.Builder
	for _, k := range e.kinds {
		if errors.Is(k, ErrUnknownOutcome) || errors.Is(k, ErrUnavailable) {
			fmt.Fprintf(&b, "%v: ", k)
		}
	}
	b.WriteString(e.Method[strings.LastIndexByte(e.Method, '/')+1:])
	if e.Endpoint != "" {
		b.WriteString(" on " + e.Endpoint)
	}
	b.WriteString(": " + e.Status.Message())
	return b.String()
}

// GRPCStatus makes status.FromError and status.Code work.
func (e *Error) GRPCStatus() *status.Status { return e.Status }

// Unwrap makes errors.Is work.
func (e *Error) Unwrap() []error { return append([]error{e.Status.Err()}, e.kinds...) }

// orBetter chooses what is told of several failed attempts: the latest of those that say most. What a member answered
// says more than a connection that failed, and that more than time running out.
func (e *Error) orBetter(next *Error) *Error {
	if e == nil || next.telling() >= e.telling() {
		return next
	}
	return e
}

func (e *Error) telling() int {
	switch {
	case strings.HasPrefix(e.Status.Message(), "etcdserver: "):
		return 2
	case e.Status.Code() != codes.DeadlineExceeded && e.Status.Code() != codes.Canceled:
		return 1
	}
	return 0
}

// newError describes err, which ended a call of method on endpoint, with the extra kinds.
func newError(ctx context.Context, method, endpoint string, err error, kinds ...error) *Error {
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	if k := sentinel(s); k != nil {
		kinds = append(kinds, k)
	}
	switch {
	case s.Code() == codes.DeadlineExceeded || errors.Is(ctx.Err(), context.DeadlineExceeded):
		kinds = append(kinds, context.DeadlineExceeded)
	case ctx.Err() != nil:
		kinds = append(kinds, context.Canceled)
	}
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
			kinds = append(kinds, cause)
		}
	}
	return &Error{Method: method, Endpoint: endpoint, Status: s, kinds: kinds}
}

// CompactedError ends a watch whose next revision is compacted. It is [ErrCompacted].
type CompactedError struct {
	// CompactRevision is the oldest revision a watch or read may still ask for.
	CompactRevision int64
}

func (e *CompactedError) Error() string {
	return fmt.Sprintf("%v; read the state anew and watch from there, at or above revision %d", ErrCompacted, e.CompactRevision)
}

// Is reports that it is ErrCompacted.
func (e *CompactedError) Is(target error) bool { return target == ErrCompacted }

// GRPCStatus gives the status a unary read at that revision would have had.
func (e *CompactedError) GRPCStatus() *status.Status {
	return status.New(codes.OutOfRange, rpctypes.ErrorDesc(rpctypes.ErrGRPCCompacted))
}
