package node

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/musterhq/muster/core/machine"
)

// Propose takes a command through the log and returns what applying it gave.
// body is the request's wire form and is copied before Propose returns.
//
// The result's own refusal is in Result.Err and also returned. Any other error
// means the outcome is unknown, except ErrNoLeader and ErrTooManyRequests:
// then nothing was sent.
func (n *Node) Propose(ctx context.Context, kind machine.Kind, body []byte, user string, authRevision uint64) (machine.Result, error) {
	if n.lagging() && kind != machine.LeaseRevoke {
		return machine.Result{}, ErrTooManyRequests
	}
	w := waiterPool.Get().(*waiter)
	w.deadline = n.now() + n.cfg.RequestTimeout
	cmd := machine.Command{Kind: kind, Member: n.Member.ID, User: user, AuthRevision: authRevision, Body: body}
	id, err := n.inbox.propose(&cmd, w)
	if err != nil {
		waiterPool.Put(w)
		return machine.Result{}, err
	}
	if err := n.wait(ctx, id, w); err != nil {
		if errors.Is(err, ErrTimeout) || errors.Is(err, ErrLeaderChanged) {
			n.failed.Add(1)
		}
		return machine.Result{}, err
	}
	res := w.result
	w.result = machine.Result{}
	waiterPool.Put(w)
	return res, res.Err
}

// Room is how many more writes this member takes on at the moment, out of how many.
func (n *Node) Room() (free, of int) {
	of = n.inbox.maxPending
	return of - int(n.inbox.waiting.Load()), of
}

// wait blocks until the waiter has its result or the caller gives up. The
// waiter may be used again by its caller only if no error comes back, which
// leaves the result in it; an error that is the waiter's result is returned.
func (n *Node) wait(ctx context.Context, id uint64, w *waiter) error {
	select {
	case <-w.ch:
	case <-ctx.Done():
		if n.inbox.forget(id) {
			waiterPool.Put(w)
			return ctx.Err()
		}
		<-w.ch // the result was on its way
	}
	return nil
}

// maxApplyGap is how many entries the state machine may lag behind what is
// committed before new writes are refused, as etcd has it.
const maxApplyGap = 5000

func (n *Node) lagging() bool { return n.gap.Load() > maxApplyGap }

// ReadBarrier returns once the view shows everything acknowledged before the call.
func (n *Node) ReadBarrier(ctx context.Context) error {
	if n.solo.Load() {
		return nil
	}
	b, err := n.joinBarrier()
	if err != nil {
		return err
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// joinBarrier adds the caller to the read batch that has not been handed to
// the loop yet. One ticket serves all of them.
func (n *Node) joinBarrier() (*barrier, error) {
	in := n.inbox
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed != nil {
		return nil, in.closed
	}
	if in.read != nil {
		return in.read, nil
	}
	b := &barrier{done: make(chan struct{})}
	in.read = b
	in.events = append(in.events, event{call: func(s *Stepper) { n.startBarrier(s, b) }})
	in.signal()
	return b, nil
}

func (n *Node) startBarrier(s *Stepper, b *barrier) {
	in := n.inbox
	in.mu.Lock()
	if in.read == b {
		in.read = nil // who comes now joins the next batch
	}
	id := in.nextID
	in.nextID++
	in.mu.Unlock()
	n.barriers[id] = b
	s.Read(id, n.now()+n.cfg.RequestTimeout)
}

// finishBarriers wakes the readers among what the stepper completed. Loop only.
func (n *Node) finishBarriers(done []Completion) []Completion {
	rest := done[:0]
	for _, c := range done {
		if b, ok := n.barriers[c.ID]; ok {
			delete(n.barriers, c.ID)
			if b.err = c.Err; b.err != nil {
				n.counters.failedReads.Add(1)
			}
			close(b.done)
			continue
		}
		rest = append(rest, c)
	}
	return rest
}

func (n *Node) closeBarriers() {
	for id, b := range n.barriers {
		delete(n.barriers, id)
		b.err = ErrStopped
		close(b.done)
	}
	n.inbox.mu.Lock()
	defer n.inbox.mu.Unlock()
	if b := n.inbox.read; b != nil {
		n.inbox.read = nil
		b.err = ErrStopped
		close(b.done)
	}
}

// RenewLease renews a lease with the leader and returns its TTL in seconds.
// ErrLeaseNotFound: it has expired or never was.
func (n *Node) RenewLease(ctx context.Context, id int64) (ttl int64, err error) {
	r, err := n.askLease(ctx, func(s *Stepper, t uint64) { s.Renew(t, id) })
	return r.ttl, err
}

// LeaseRemaining asks the leader how many seconds a lease has left, and of how many.
func (n *Node) LeaseRemaining(ctx context.Context, id int64) (remaining, granted int64, err error) {
	r, err := n.askLease(ctx, func(s *Stepper, t uint64) { s.Remaining(t, id) })
	return r.remaining, r.ttl, err
}

func (n *Node) askLease(ctx context.Context, ask func(*Stepper, uint64)) (leaseReply, error) {
	w := waiterPool.Get().(*waiter)
	w.deadline = n.now() + n.cfg.RequestTimeout
	w.size = 0
	id, err := n.inbox.register(w)
	if err != nil {
		waiterPool.Put(w)
		return leaseReply{}, err
	}
	n.inbox.post(event{call: func(s *Stepper) { ask(s, id) }})
	if err := n.wait(ctx, id, w); err != nil {
		return leaseReply{}, err
	}
	reply, err := w.lease, w.result.Err
	w.lease, w.result = leaseReply{}, machine.Result{}
	waiterPool.Put(w)
	return reply, err
}

// yieldLeadership moves leadership to the follower that is furthest along,
// briefly: the cluster elects by itself if that does not work out.
func (n *Node) yieldLeadership(ctx context.Context) {
	if n.Leader() != n.Member.ID || len(n.Members()) < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	best := make(chan uint64, 1)
	n.inbox.post(event{call: func(s *Stepper) { best <- s.BestFollower() }})
	select {
	case to := <-best:
		if to != 0 {
			_ = n.TransferLeader(ctx, to)
		}
	case <-ctx.Done():
	case <-n.done:
	}
}

// Term is raft's current term.
func (n *Node) Term() uint64 { return n.status.Load().term }

// Leader is the member taken for the leader, 0 if none is known.
func (n *Node) Leader() uint64 { return n.status.Load().leader }

// ID is this member's id.
func (n *Node) ID() uint64 { return n.Member.ID }

// ClusterID is the cluster's id.
func (n *Node) ClusterID() uint64 { return n.Member.ClusterID }

// IsLearner reports whether this member has no vote yet.
func (n *Node) IsLearner() bool {
	for _, m := range n.Members() {
		if m.ID == n.Member.ID {
			return m.IsLearner
		}
	}
	return false
}

// Status gathers what operators and Maintenance.Status ask for.
func (n *Node) Status() Status {
	st, v := n.status.Load(), n.View()
	s := Status{
		ID: n.Member.ID, ClusterID: n.Member.ClusterID, Leader: st.leader, Term: st.term, Role: roleName(st.role),
		AppliedIndex: v.Index, AppliedTerm: v.Term, CommitIndex: max(v.Index, n.commit.Load()),
		Learner: n.IsLearner(), Revision: v.KV.Rev(),
		DBSize: v.Used, InUse: v.Used, Quota: v.Settings.Quota,
		LeaderChanges: n.leaderChanges.Load(), FailedProposals: n.failed.Load(),
		LogBytes: n.logBytes.Load(), ClusterVersion: v.ClusterVersion,
		Restoring: n.Step.restoring.Load() > 0, Counters: n.counters.read(),
	}
	n.inbox.mu.Lock()
	s.Pending = int64(len(n.inbox.waiters))
	n.inbox.mu.Unlock()
	for _, m := range v.Members {
		if m.ID != n.Member.ID && !n.peers.ActiveSince(m.ID).IsZero() {
			s.ConnectedPeers = append(s.ConnectedPeers, m.ID)
		}
	}
	return s
}

func roleName(r raft.StateType) string {
	switch r {
	case raft.StateLeader:
		return "leader"
	case raft.StateFollower:
		return "follower"
	default:
		return "candidate"
	}
}
