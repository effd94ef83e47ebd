package node

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/checkpoint"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/replica"
	"github.com/musterhq/muster/core/simbug"
	"github.com/musterhq/muster/core/wal"
)

// Member is everything one member consists of, without a goroutine: the
// recovered log, checkpoints and state machine, and the stepper over them.
// A Node puts goroutines around it, the simulator steps it from a seed.
//
// Who may call what: Write belongs to the log's owner, Apply and the final
// checkpoint to the machine's owner, Step and Offered to the loop. View is for everybody.
type Member struct {
	ID, ClusterID uint64
	// FirstID is the first command id of this run: ids from here on are ours.
	FirstID uint64

	Step        *Stepper
	Checkpoints *checkpoint.Dir

	applier *Applier
	log     *wal.Log
	joined  []membership.Member // who the cluster is, while there is no state to tell
	replay  int64               // bytes of log after the checkpoint
	offered *machine.View
	machine machine.Config
	unlock  io.Closer
	view    atomic.Pointer[machine.View]
	tail    logTail
}

// OpenMember recovers a member from its directory, or founds it on a first
// start. hub makes the watch hub over the recovered state; nextID draws command
// ids, the first of which must be firstID.
func OpenMember(ctx context.Context, cfg Config, hub func(*Member) Hub, nextID func(firstID uint64) func() uint64) (*Member, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	rec, err := recoverState(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	m := &Member{
		ID: rec.id, ClusterID: rec.clusterID, FirstID: rec.firstID,
		Checkpoints: rec.ckpts, log: rec.log, joined: rec.peers, replay: rec.replayBytes, machine: cfg.Machine, unlock: rec.unlock,
	}
	m.tail.note(rec.entries)
	rec.machine.Replays(rec.hard.GetCommit())
	v := rec.machine.Publish()
	m.view.Store(v)
	m.applier = &Applier{
		Machine: rec.machine, Hub: hub(m), Self: rec.id, FirstID: rec.firstID,
		Publish: m.view.Store, Restore: m.load,
	}
	r, err := replica.New(replica.Config{
		ID: rec.id, HardState: rec.hard, ConfState: v.ConfState,
		Start: rec.start, Entries: rec.entries, Applied: v.Index,
		ElectionTicks: cfg.ElectionTicks, KeepBytes: cfg.KeepBytes, Logger: cfg.Logger,
		Snapshot: m.describe,
	})
	if err != nil {
		return nil, errors.Join(err, m.Release())
	}
	m.Step = NewStepper(StepperConfig{
		ID: rec.id, Replica: r, View: m.View, NextID: nextID(rec.firstID),
		Settings:        cfg.Machine.Settings,
		ElectionTimeout: cfg.electionTimeout(), NoStrictReconfig: cfg.NoStrictReconfig,
		HealthInterval: cfg.HealthInterval, ConnectedSince: cfg.ConnectedSince,
	})
	return m, nil
}

// Release closes the log and gives up the directory.
func (m *Member) Release() error { return errors.Join(m.log.Close(), m.unlock.Close()) }

// View is the newest published state.
func (m *Member) View() *machine.View { return m.view.Load() }

// Apply carries out a task; see Applier.Run.
func (m *Member) Apply(t *replica.ApplyTask) (ApplyDone, []machine.Result, error) {
	return m.applier.Run(t)
}

// Background does a slice of the work that compaction left; true if there is more.
func (m *Member) Background(n int) bool { return m.applier.Machine.Background(n) }

// Write carries log writes out in order: every task is written, then one sync
// makes all of them durable. An error is final: what the disk holds is unknown.
func (m *Member) Write(tasks []*replica.AppendTask) error {
	sync := false
	for _, t := range tasks {
		if simbug.On(simbug.ForgetVote) {
			t.HardState = nil
		}
		if simbug.On(simbug.ForgetCommit) && t.HardState != nil {
			t.HardState.Commit = new(uint64)
		}
		if t.Snapshot != nil {
			md := t.Snapshot.GetMetadata()
			m.tail.changed.Store(md.GetIndex()) // it may hold changes, and is yet to be loaded
			if err := m.log.Reset(wal.Position{Index: md.GetIndex(), Term: md.GetTerm()}, t.HardState); err != nil {
				return err
			}
		}
		m.tail.note(t.Entries)
		if len(t.Entries) > 0 || (t.HardState != nil && t.Snapshot == nil) {
			if err := m.log.Append(t.HardState, t.Entries); err != nil {
				return err
			}
		}
		sync = sync || t.NeedsSync()
	}
	if sync && !simbug.On(simbug.SkipSync) {
		return m.log.Sync()
	}
	return nil
}

// ReleaseLog drops log that no kept checkpoint needs. Log owner only.
func (m *Member) ReleaseLog() error {
	if simbug.On(simbug.ReleaseTooMuch) {
		return m.log.ReleaseBefore(m.Checkpoints.List()[0].Index + 1)
	}
	return m.log.ReleaseBefore(m.Checkpoints.Oldest() + 1)
}

// Save writes a view as a checkpoint.
func (m *Member) Save(ctx context.Context, v *machine.View, pace checkpoint.Pace) error {
	return saveCheckpoint(ctx, m.Checkpoints, v, pace)
}

// SaveFinal takes a checkpoint when nothing is applied any more.
func (m *Member) SaveFinal(ctx context.Context) error {
	v := m.applier.Machine.Publish()
	if v.Index == 0 {
		return nil // joined and never brought up: there is no state yet
	}
	if newest, err := m.Checkpoints.Newest(); err == nil && newest.Index == v.Index {
		return nil
	}
	if err := m.Save(ctx, v, nil); err != nil {
		return err
	}
	return m.ReleaseLog()
}

func (m *Member) load(index uint64) (*machine.Machine, error) {
	return loadCheckpoint(m.Checkpoints, m.machine, index)
}

// describe answers raft when a follower needs more than the window holds: the
// state as published now. The view is kept until the message about it comes up.
func (m *Member) describe() (*raftpb.Snapshot, error) {
	v := m.view.Load()
	if v.Index == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	m.offered = v
	index, term := v.Index, v.Term
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: v.ConfState}}, nil
}

// Offered is the view that raft was told a follower can have; nil if another
// one has been offered since, in which case the transfer must be reported as failed.
func (m *Member) Offered(announce *raftpb.Message) *machine.View {
	if m.offered == nil || m.offered.Index != announce.GetSnapshot().GetMetadata().GetIndex() {
		return nil
	}
	return m.offered
}

// Install stores a checkpoint that a leader sent, verified and durable. Only
// then may its announcement be given to the stepper. One that is no news is not read.
func (m *Member) Install(ctx context.Context, announce *raftpb.Message, body io.Reader) error {
	md := announce.GetSnapshot().GetMetadata()
	if announce.GetType() != raftpb.MessageType_MsgSnap || md.GetIndex() == 0 {
		return errBadMessage
	}
	if m.Has(announce) {
		return nil // its announcement has raft say where this member stands, which the leader does not know
	}
	if m.Step.restoring.Load() > 0 {
		// Each new one would push out the oldest, which is yet to be loaded.
		return errRestoring
	}
	_, err := m.Checkpoints.Install(ctx, body, md.GetIndex(), md.GetTerm())
	return err
}

// Has reports whether this member's state holds what an announced checkpoint does.
func (m *Member) Has(announce *raftpb.Message) bool {
	return announce.GetSnapshot().GetMetadata().GetIndex() <= m.view.Load().Index
}

var errRestoring = errors.New("this member has yet to load the checkpoint it received before")

// RaftMessage wraps a raft message for Stepper.Receive.
func RaftMessage(m *raftpb.Message) *Message { return &Message{kind: msgRaft, Raft: m} }
