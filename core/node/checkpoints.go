package node

import (
	"context"
	"fmt"
	"io"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/checkpoint"
	"github.com/musterhq/muster/core/machine"
)

const minCheckpointLog = 256 << 20

// maybeCheckpoint starts a checkpoint if the log has grown enough since the
// last one. It is called between batches, so the view stands at an entry's end.
func (n *Node) maybeCheckpoint() {
	v := n.View()
	due := n.cfg.CheckpointBytes
	if due == 0 {
		due = max(minCheckpointLog, v.Used/4)
	}
	if n.logBytes.Load() < due || !n.checkpointing.CompareAndSwap(false, true) {
		return
	}
	covered := n.logBytes.Load()
	n.wg.Go(func() {
		defer n.checkpointing.Store(false)
		// Its failure is not the member's: the log still holds everything.
		if err := n.takeCheckpoint(n.ctx, v, n.pace); err != nil && n.ctx.Err() == nil {
			n.cfg.Logger.Error("checkpoint failed; the log keeps growing until one succeeds", "error", err)
			return
		}
		n.logBytes.Add(-covered)
	})
}

// takeCheckpoint writes a view and then lets go of the log that no kept
// checkpoint needs.
func (n *Node) takeCheckpoint(ctx context.Context, v *machine.View, pace checkpoint.Pace) error {
	began := n.now()
	if err := n.Save(ctx, v, pace); err != nil {
		return err
	}
	took := n.now() - began
	if f := n.cfg.Metrics.CheckpointTaken; f != nil {
		f(took, v.Used)
	}
	n.cfg.Logger.Info("saved snapshot", "index", v.Index, "revision", v.KV.Rev(), "took", took.Round(time.Millisecond).String())
	n.disk.push(diskTask{call: n.ReleaseLog})
	return nil
}

// pace holds a checkpoint's writer back to a steady rate, so that the log's
// syncs find the disk free.
func (n *Node) pace(ctx context.Context, written int) error {
	d := time.Duration(int64(written) * int64(time.Second) / n.cfg.PaceBytes)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func saveCheckpoint(ctx context.Context, d *checkpoint.Dir, v *machine.View, pace checkpoint.Pace) error {
	buckets, err := bucketsOf(v)
	if err != nil {
		return err
	}
	_, err = d.Save(ctx, v.Index, v.Term, buckets, pace)
	return err
}

// bucketsOf hands a view's content to the checkpoint's writer. The two packages
// are peers that know nothing of each other.
func bucketsOf(v *machine.View) ([]checkpoint.Bucket, error) {
	parts, err := v.Buckets()
	if err != nil {
		return nil, err
	}
	buckets := make([]checkpoint.Bucket, len(parts))
	for i, p := range parts {
		buckets[i] = checkpoint.Bucket(p)
	}
	return buckets, nil
}

func loadCheckpoint(d *checkpoint.Dir, cfg machine.Config, index uint64) (*machine.Machine, error) {
	r, err := d.Open(index)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	m, err := machine.Restore(cfg, r)
	if err != nil {
		return nil, fmt.Errorf("checkpoint at index %d: %w", index, err)
	}
	return m, nil
}

// sendSnapshot streams the view that raft was told of to the follower that
// needs it. Loop only; the streaming has a goroutine of its own.
func (n *Node) sendSnapshot(m *raftpb.Message) {
	to, v := m.GetTo(), n.Offered(m)
	if v == nil {
		n.inbox.post(event{call: func(s *Stepper) { s.SnapshotSent(to, false) }})
		return
	}
	n.sends.Go(func() {
		n.cfg.Logger.Info("sending a checkpoint to a follower", "to", formatID(to), "index", v.Index)
		header, err := proto.Marshal(m)
		if err == nil {
			err = n.peers.SendSnapshot(n.ctx, to, header, func(w io.Writer) error { return WriteSnapshot(w, v) })
		}
		if err != nil && n.ctx.Err() == nil {
			n.cfg.Logger.Warn("sending a checkpoint failed", "to", formatID(to), "error", err)
		}
		n.inbox.post(event{call: func(s *Stepper) { s.SnapshotSent(to, err == nil) }})
	})
}

// ReceiveSnapshot stores a checkpoint from the leader, verified and durable,
// and only then tells raft about it.
func (p *peerHandler) ReceiveSnapshot(ctx context.Context, from uint64, header []byte, body io.Reader) error {
	m := new(raftpb.Message)
	if err := proto.Unmarshal(header, m); err != nil {
		return fmt.Errorf("%w: %w", errBadMessage, err)
	}
	if m.GetFrom() != from {
		return errBadMessage
	}
	p.cfg.Logger.Info("receiving a checkpoint", "from", formatID(from), "index", m.GetSnapshot().GetMetadata().GetIndex())
	if err := p.Install(ctx, m, body); err != nil {
		return err
	}
	p.inbox.post(event{message: RaftMessage(m), from: from})
	return nil
}
