package rpc

import (
	"context"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/tap"
)

// admission refuses writes that a member has no room for before anything is
// spent on them: by whoever reads the connection, without a goroutine and
// without looking at the body. Otherwise a crowd of clients that are refused and
// ask again takes as much of the processor as writes do, and the goroutines that
// are to refuse them stand in line before those that keep leases and leadership
// alive. Lease calls, reads of ranges, watches and the operator's calls are not refused here.
//
// A call that was admitted and has not begun yet takes room, too; its client may
// have gone before it began, so the difference is settled when there is little to do.
type admission struct {
	room    func() (free, of int)
	bounded map[string]*method

	admitted, begun atomic.Int64
	gone            atomic.Int64 // admitted, and never begun
}

func newAdmission(room func() (free, of int), methods map[string]*method) *admission {
	a := &admission{room: room, bounded: map[string]*method{}}
	for full, m := range methods {
		if m.service == "etcdserverpb.KV" && (m.name == "Put" || m.name == "DeleteRange" || m.name == "Txn") {
			a.bounded[full] = m
		}
	}
	return a
}

// tap is called for each call as soon as its header is there.
func (a *admission) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	m := a.bounded[info.FullMethodName]
	if m == nil {
		return ctx, nil
	}
	if free, _ := a.room(); int64(free) <= a.coming() {
		err := rpctypes.ErrGRPCRequestTooManyRequests
		m.started.Inc()
		m.done(err, 0)
		noteRefusal(ctx)
		return nil, err
	}
	a.admitted.Add(1)
	return ctx, nil
}

// coming is how many calls were admitted and have not begun.
func (a *admission) coming() int64 { return a.admitted.Load() - a.begun.Load() - a.gone.Load() }

// begin notes that a call's handler runs.
func (a *admission) begin(full string) {
	if a.bounded[full] != nil {
		a.begun.Add(1)
	}
}

// settle is called now and then.
func (a *admission) settle() {
	if free, of := a.room(); free >= of-of/4 {
		a.gone.Add(a.coming())
	}
}
