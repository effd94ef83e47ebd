package node

import (
	"context"
	"time"

	"github.com/musterhq/muster/core/machine"
)

// WaitReady returns once this member knows a leader, has caught up with what
// was committed when it asked, and is known to the cluster by name.
func (n *Node) WaitReady(ctx context.Context) error {
	select {
	case <-n.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.done:
		if err := n.Err(); err != nil {
			return err
		}
		return ErrStopped
	}
}

// publishSelf tells the cluster this member's name and client URLs, and tries
// until it has been told. It does so at every start, also if nothing is new: the
// entry makes the leader compare hashes, so that a member whose data is not what
// it was is found out in a cluster that nobody writes to, too.
func (n *Node) publishSelf() {
	body := machine.EncodeMemberAttributes(n.Member.ID, n.cfg.Name, n.cfg.ClientURLs)
	retry := time.NewTicker(10 * n.cfg.Tick)
	defer retry.Stop()
	told := false
	for n.ctx.Err() == nil {
		if err := n.ReadBarrier(n.ctx); err == nil {
			if told && n.isPublished() {
				close(n.ready)
				return
			}
			if _, err := n.Propose(n.ctx, machine.MemberAttributes, body, "", 0); err == nil {
				told = true
				continue
			}
		}
		select {
		case <-n.ctx.Done():
		case <-retry.C:
		}
	}
}

func (n *Node) isPublished() bool {
	for _, m := range n.Members() {
		if m.ID == n.Member.ID {
			return m.Name == n.cfg.Name && equalSets(m.ClientURLs, n.cfg.ClientURLs)
		}
	}
	return n.Removed() // then it is not this function's business
}

func equalSets(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	have := map[string]bool{}
	for _, s := range a {
		have[s] = true
	}
	for _, s := range b {
		if !have[s] {
			return false
		}
	}
	return true
}
