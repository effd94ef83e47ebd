package server

import (
	"context"
	"errors"
	"log/slog"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/mvcc"
)

// compactor decides when to compact and up to where. It is pure: time and
// revision are arguments.
//
// By period it remembers what the revision was at each look, and compacts to
// what it was a period ago; a restart or a new leader begins to remember anew,
// so that history is kept too long rather than too short. By revisions it keeps
// the last so many.
type compactor struct {
	keep  Retention
	seen  []sighting
	until int64 // compacted up to here, by us
}

type sighting struct {
	at  time.Time
	rev int64
}

// every is how often to look: a tenth of the period, as etcd, within reason.
func (c *compactor) every() time.Duration {
	if c.keep.Period == 0 {
		return 5 * time.Minute
	}
	return max(min(c.keep.Period, time.Hour)/10, 100*time.Millisecond)
}

// look returns the revision to compact to, 0 for none.
func (c *compactor) look(now time.Time, rev int64) int64 {
	target := rev - c.keep.Revisions
	if c.keep.Period > 0 {
		target = 0
		c.seen = append(c.seen, sighting{now, rev})
		for len(c.seen) > 0 && now.Sub(c.seen[0].at) >= c.keep.Period {
			target = c.seen[0].rev
			c.seen = c.seen[1:]
		}
	}
	if target <= c.until || target <= 1 {
		return 0
	}
	return target
}

// forget is called while another member leads.
func (c *compactor) forget() { c.seen = nil }

// runCompactor compacts as long as this member leads.
func runCompactor(ctx context.Context, n Node, keep Retention, log *slog.Logger) {
	c := &compactor{keep: keep}
	tick := time.NewTicker(c.every())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if n.Leader() != n.ID() {
				c.forget()
				continue
			}
			if target := c.look(now, n.View().KV.Rev()); target != 0 {
				compactTo(ctx, n, c, target, log)
			}
		}
	}
}

func compactTo(ctx context.Context, n Node, c *compactor, target int64, log *slog.Logger) {
	body, err := proto.Marshal(&pb.CompactionRequest{Revision: target})
	if err != nil {
		log.Error("automatic compaction", "error", err)
		return
	}
	switch _, err := n.Propose(ctx, machine.Compact, body, "", 0); {
	case err == nil:
		c.until = target
		log.Info("completed auto compaction", "revision", target)
	case errors.Is(err, mvcc.ErrCompacted):
		c.until = target // someone was faster
	case ctx.Err() == nil:
		log.Warn("automatic compaction failed; trying again later", "revision", target, "error", err)
	}
}
