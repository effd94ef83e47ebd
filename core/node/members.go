package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
)

var (
	// ErrRemoved ends a member that was removed from its cluster.
	ErrRemoved = errors.New("this member was removed from the cluster; its data directory is of no use to it any more: delete it before the machine joins again")
	// ErrBadTransferee: leadership can't go to that member.
	ErrBadTransferee = errors.New("leadership cannot be handed to this member: it is unknown or a learner")
	// ErrTransferTimeout: raft gave up handing leadership over.
	ErrTransferTimeout = errors.New("handing leadership over took too long")
)

// AddMember adds a member, reached at peerURLs, and returns it with all
// members. It has to be started afterwards, with Config.Join.
//
// The changes may be asked of any member, which sends them to the leader once;
// the refusals are those of this package and of core/membership.
func (n *Node) AddMember(ctx context.Context, peerURLs []string, learner bool) (membership.Member, []membership.Member, error) {
	c := membership.Change{Op: membership.AddVoter}
	if learner {
		c.Op = membership.AddLearner
	}
	urls := slices.Sorted(slices.Values(peerURLs))
	c.Member = membership.Member{ID: n.FreshID(urls, n.cfg.Wall()), PeerURLs: urls, IsLearner: learner}
	all, err := n.changeMembers(ctx, c)
	return c.Member, all, err
}

// RemoveMember removes a member for good: its id never comes back. A leader
// that is to be removed hands its leadership over first.
func (n *Node) RemoveMember(ctx context.Context, id uint64) ([]membership.Member, error) {
	return n.changeMembers(ctx, membership.Change{Op: membership.Remove, Member: membership.Member{ID: id}})
}

// UpdateMember changes where a member is reached by its peers.
func (n *Node) UpdateMember(ctx context.Context, id uint64, peerURLs []string) ([]membership.Member, error) {
	urls := slices.Sorted(slices.Values(peerURLs))
	return n.changeMembers(ctx, membership.Change{Op: membership.UpdatePeer, Member: membership.Member{ID: id, PeerURLs: urls}})
}

// PromoteMember gives a learner a vote, once it has caught up with the leader and as
// long as that hears it (etcd goes by its progress alone).
func (n *Node) PromoteMember(ctx context.Context, id uint64) ([]membership.Member, error) {
	return n.changeMembers(ctx, membership.Change{Op: membership.Promote, Member: membership.Member{ID: id}})
}

// maxMoves is how often a removal follows a leader that moves away from it.
const maxMoves = 3

func (n *Node) changeMembers(ctx context.Context, c membership.Change) ([]membership.Member, error) {
	for moves := 0; ; moves++ {
		err := n.changeOnce(ctx, c)
		if err == nil && NeedsConfirmation(c) {
			err = n.confirm(ctx)
		}
		if err == nil {
			return n.Members(), nil
		}
		if c.Op == membership.Remove && c.Member.ID == n.Member.ID && errors.Is(n.Err(), ErrRemoved) {
			// The others applied it before this member had its commit: what it
			// heard is that it is removed, which is what was asked for.
			return slices.DeleteFunc(slices.Clone(n.Members()), func(m membership.Member) bool { return m.ID == n.Member.ID }), nil
		}
		if !errors.Is(err, errLeaderMoves) {
			return nil, err
		}
		// Refused before anything was proposed, so asking again is safe.
		if moves == maxMoves {
			return nil, ErrNoLeader
		}
		if err := n.awaitLeaderOtherThan(ctx, c.Member.ID); err != nil {
			return nil, err
		}
	}
}

// changeOnce takes a membership change through the log.
func (n *Node) changeOnce(ctx context.Context, c membership.Change) error {
	w := waiterPool.Get().(*waiter)
	w.deadline = n.now() + n.cfg.RequestTimeout
	w.size = 0
	id, err := n.inbox.register(w)
	if err != nil {
		waiterPool.Put(w)
		return err
	}
	cc, err := machine.ConfChangeContext(machine.Command{ID: id, Member: n.Member.ID}, c)
	if err != nil {
		n.inbox.forget(id)
		return err
	}
	deadline := w.deadline // the waiter may be another's by then
	n.inbox.post(event{call: func(s *Stepper) { s.ChangeMembers(id, deadline, cc.GetContext()) }})
	if err := n.wait(ctx, id, w); err != nil {
		return err
	}
	err = w.result.Err
	w.result = machine.Result{}
	waiterPool.Put(w)
	return err
}

// confirm returns once a change that is applied here can't be forgotten any more; see
// NeedsConfirmation. Who was removed can't ask for that, and leaves it to the others.
func (n *Node) confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, n.cfg.RequestTimeout, ErrTimeout)
	defer cancel()
	retry := time.NewTicker(n.cfg.Tick)
	defer retry.Stop()
	for !n.Removed() {
		if _, err := n.Propose(ctx, machine.Noop, nil, "", 0); err == nil || errors.Is(err, ErrStopped) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-retry.C:
		}
	}
	return nil
}

// awaitLeaderOtherThan waits for the outcome of a hand-over, or until raft must
// have given it up.
func (n *Node) awaitLeaderOtherThan(ctx context.Context, id uint64) error {
	giveUp := time.NewTimer(2 * n.cfg.electionTimeout())
	defer giveUp.Stop()
	return n.poll(ctx, giveUp.C, func() bool { l := n.Leader(); return l != 0 && l != id })
}

// poll waits for a condition on what the loop publishes; the end of the timer
// is no error.
func (n *Node) poll(ctx context.Context, end <-chan time.Time, done func() bool) error {
	ticker := time.NewTicker(max(n.cfg.Tick/10, time.Millisecond))
	defer ticker.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.done:
			return ErrStopped
		case <-end:
			return nil
		case <-ticker.C:
		}
	}
	return nil
}

// TransferLeader hands leadership to another voter and waits until it is there.
func (n *Node) TransferLeader(ctx context.Context, to uint64) error {
	if n.Leader() != n.Member.ID {
		return ErrNotLeader
	}
	i := slices.IndexFunc(n.Members(), func(m membership.Member) bool { return m.ID == to })
	if i < 0 || n.Members()[i].IsLearner {
		return fmt.Errorf("%w: %s", ErrBadTransferee, formatID(to))
	}
	n.inbox.post(event{call: func(s *Stepper) { s.TransferLeader(to) }})
	giveUp := time.NewTimer(n.cfg.RequestTimeout)
	defer giveUp.Stop()
	if err := n.poll(ctx, giveUp.C, func() bool { return n.Leader() == to }); err != nil {
		return err
	}
	if n.Leader() != to {
		return ErrTransferTimeout
	}
	return nil
}

// Members are the cluster's members as this member knows them.
func (n *Node) Members() []membership.Member { return n.View().Members }

// longestLeave is how many election time-outs a removed member stays that may be needed.
const longestLeave = 30

// leave stops a removed member, a little later: the others may still need to
// hear from it what was committed, its callers what became of their requests.
func (n *Node) leave() {
	n.leaving.Do(func() {
		n.cfg.Logger.Warn("this member was removed from the cluster; it stops", "member-id", formatID(n.Member.ID))
		n.wg.Go(func() {
			t := time.NewTicker(n.cfg.electionTimeout())
			defer t.Stop()
			for range longestLeave {
				select {
				case <-t.C:
				case <-n.ctx.Done():
					return
				}
				if n.expelled.Load() || !n.MayBeNeeded() {
					break
				}
			}
			n.stop(ErrRemoved)
		})
	})
}

// connectedSince is when the stream to a peer was opened, on the node's clock.
func (n *Node) connectedSince(id uint64) (time.Duration, bool) {
	t := n.peers.ActiveSince(id)
	return t.Sub(n.origin), !t.IsZero()
}

// Expelled: a peer has applied this member's removal.
func (p *peerHandler) Expelled(by uint64) {
	p.cfg.Logger.Info("a peer says that this member was removed", "peer", formatID(by))
	p.expelled.Store(true)
	(*Node)(p).leave()
}
