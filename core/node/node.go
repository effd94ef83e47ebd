package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/replica"
	"github.com/musterhq/muster/core/transport"
	"github.com/musterhq/muster/core/watch"
)

// Node is one running member. See the package documentation for who owns what.
type Node struct {
	*Member
	cfg    Config
	origin time.Time // of the monotonic clock

	inbox  *inbox
	hub    *watch.Hub
	status atomic.Pointer[raftStatus]
	solo   atomic.Bool
	peers  *transport.Transport

	disk  *queue[diskTask]
	apply *queue[*replica.ApplyTask]

	writes []*replica.AppendTask // the disk goroutine's

	barriers map[uint64]*barrier      // the loop's: reads that wait, by ticket
	beats    map[uint64]time.Duration // the loop's: when the heartbeat was sent that each peer has yet to answer
	ticked   time.Duration            // the loop's: its last tick
	ready    chan struct{}            // closed once this member serves

	commit, gap   atomic.Uint64
	leaderChanges atomic.Int64
	failed        atomic.Int64
	counters      counters
	logBytes      atomic.Int64 // log written since the newest checkpoint
	checkpointing atomic.Bool
	sends         sync.WaitGroup // checkpoints on their way to followers

	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	done     chan struct{}
	fatal    atomic.Pointer[error]
	close    sync.Once
	leaving  sync.Once
	expelled atomic.Bool // a peer has applied this member's removal
	released bool
}

// diskTask is one thing for the log's owner: a write, or a call on it.
type diskTask struct {
	append *replica.AppendTask
	call   func() error
}

// raftStatus is what the loop publishes for everybody else.
type raftStatus struct {
	leader, term uint64
	role         raft.StateType
}

// Status describes a member.
type Status struct {
	ID, ClusterID, Leader, Term uint64
	CommitIndex, AppliedIndex   uint64
	AppliedTerm                 uint64
	Learner                     bool
	Role                        string
	Revision                    int64
	DBSize, InUse, Quota        int64
	LeaderChanges, Pending      int64
	FailedProposals             int64
	LogBytes                    int64
	ClusterVersion              string
	ConnectedPeers              []uint64
	Restoring                   bool // a checkpoint from the leader is being loaded
	Counters
}

// Open recovers the member's state from its directory, or founds it on a first
// start, and starts its goroutines. It returns before the cluster has a
// leader; see WaitReady.
func Open(ctx context.Context, cfg Config) (*Node, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, origin: time.Now(),
		disk: newQueue[diskTask](), apply: newQueue[*replica.ApplyTask](), done: make(chan struct{}),
		barriers: map[uint64]*barrier{}, beats: map[uint64]time.Duration{}, ready: make(chan struct{}),
	}
	cfg.ConnectedSince = n.connectedSince
	var err error
	n.Member, err = OpenMember(ctx, cfg, func(m *Member) Hub {
		v := m.View()
		n.hub = watch.NewHub(v.KV.Rev(), func() *mvcc.View { return m.View().KV }, cfg.Watch)
		return n.hub
	}, func(firstID uint64) func() uint64 {
		n.inbox = newInbox(firstID, cfg.MaxPending)
		return n.inbox.id
	})
	if err != nil {
		return nil, err
	}
	n.ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	n.logBytes.Store(n.replay)
	s := n.Step
	n.status.Store(&raftStatus{term: s.Term()})
	n.peers = transport.Open(transport.Config{
		Listeners: cfg.PeerListeners, ClusterID: n.Member.ClusterID, Self: n.Member.ID,
		Handler: (*peerHandler)(n), Peers: n.Peers(), Logger: cfg.Logger, Metrics: cfg.Metrics.Peers,
	})
	n.wg.Go(func() { n.runLoop(s) })
	n.wg.Go(n.runDisk)
	n.wg.Go(n.runApply)
	n.wg.Go(n.publishSelf)
	return n, nil
}

// now is the node's monotonic clock.
func (n *Node) now() time.Duration { return time.Since(n.origin) }

// stop ends the node because of err; the first reason wins.
func (n *Node) stop(err error) {
	if n.fatal.CompareAndSwap(nil, &err) {
		level := slog.LevelError
		if errors.Is(err, ErrRemoved) {
			level = slog.LevelWarn // it was asked to
		}
		n.cfg.Logger.Log(context.WithoutCancel(n.ctx), level, "member stops", "error", err)
	}
	n.shutdown(ErrStopped)
}

func (n *Node) shutdown(err error) {
	n.inbox.close(err)
	n.cancel()
	n.disk.close()
	n.apply.close()
	n.close.Do(func() { close(n.done) })
}

// Done is closed when the member stops, by Close or because of Err.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err is why the member stopped by itself, nil otherwise.
func (n *Node) Err() error {
	if p := n.fatal.Load(); p != nil {
		return *p
	}
	return nil
}

// Close hands leadership over if it can, takes a checkpoint, so that the next
// start has nothing to replay, and releases everything.
func (n *Node) Close(ctx context.Context) error {
	if n.Err() == nil {
		n.yieldLeadership(ctx)
	}
	n.shutdown(ErrStopped)
	n.peers.Close()
	n.wg.Wait()
	n.sends.Wait() // after the loop, which may begin another until it ends
	if n.released {
		return nil
	}
	n.released = true
	// A removed member writes it down, too, so that its next start knows at once
	// (unless its peers told it first: then they tell it again).
	if n.Err() == nil || errors.Is(n.Err(), ErrRemoved) {
		if err := n.SaveFinal(ctx); err != nil {
			n.cfg.Logger.Warn("no checkpoint on close; the next start replays the log", "error", err)
		}
	}
	n.hub.Close()
	return n.Release()
}

// runLoop owns the stepper.
func (n *Node) runLoop(s *Stepper) {
	ticker := time.NewTicker(n.cfg.Tick)
	defer ticker.Stop()
	defer n.closeBarriers()
	var events []event
	lone := len(n.View().Members) == 1
	if lone {
		s.SetTime(n.now(), n.cfg.Wall().UnixNano())
		s.Campaign()
		n.carryOut(s)
	}
	for {
		tick := false
		select {
		case <-n.ctx.Done():
			return
		case <-ticker.C:
			tick = true
		case <-n.inbox.wake:
			// Let the handlers that are ready to run add to this batch:
			// what decides the cost of a write is how many share a sync.
			runtime.Gosched()
		}
		s.SetTime(n.now(), n.cfg.Wall().UnixNano())
		var batches []*Batch
		batches, events = n.inbox.take(s.Busy(), events)
		for i := range events {
			n.handle(s, &events[i])
			events[i] = event{}
		}
		for _, b := range batches {
			s.Propose(b)
		}
		if tick {
			n.noteTick(s)
			s.Tick()
			n.inbox.overdue(n.now())
		}
		n.carryOut(s)
	}
}

func (n *Node) handle(s *Stepper, e *event) {
	switch {
	case e.message != nil:
		n.noteAnswer(e.from, e.message)
		s.Receive(e.from, e.message)
	case e.appended != nil:
		s.Appended(e.appended)
		if len(e.appended.Entries) > 0 {
			n.inbox.signal() // the disk has room: take what was left waiting
		}
		if n.Moved() {
			n.peers.SetPeers(n.Peers())
		}
	case e.applied != nil:
		s.ApplyFinished(*e.applied)
		if len(e.applied.ConfChanges) > 0 || e.applied.Task.Restore != nil {
			n.peers.SetPeers(n.Peers())
		}
	case e.call != nil:
		e.call(s)
	}
}

// carryOut hands the stepper's effects to those who do the work.
func (n *Node) carryOut(s *Stepper) {
	eff := s.Take()
	for _, t := range eff.Append {
		n.disk.push(diskTask{append: t})
	}
	for _, t := range eff.Apply {
		if e := t.Entries; len(e) > 0 {
			n.commit.Store(e[len(e)-1].GetIndex())
		}
		n.apply.push(t)
	}
	if applied := s.Applied(); n.commit.Load() > applied {
		n.gap.Store(n.commit.Load() - applied)
	} else {
		n.gap.Store(0)
	}
	for i := range eff.Send {
		e := &eff.Send[i]
		if s.MustWait(e) {
			s.Unsent(e)
			continue
		}
		frame, err := e.Msg.AppendTo(nil)
		if err != nil {
			n.stop(fmt.Errorf("encode a peer message: %w", err))
			return
		}
		n.noteBeat(e)
		if !n.peers.Send(e.To, frame) {
			s.Unsent(e)
		}
	}
	for _, m := range eff.Snapshots {
		n.sendSnapshot(m)
	}
	n.solo.Store(s.Solo())
	n.counters.renewed.Store(s.leases.renewed)
	n.counters.expired.Store(s.leases.expired)
	n.inbox.finish(n.finishBarriers(eff.Done))
	if st := n.status.Load(); st.leader != s.Leader() || st.term != s.Term() || st.role != s.Role() {
		if s.Leader() != 0 && s.Leader() != st.leader {
			n.leaderChanges.Add(1)
		}
		n.status.Store(&raftStatus{leader: s.Leader(), term: s.Term(), role: s.Role()})
	}
}

// noteTick counts heartbeats that come late because this process or its loop stood still.
func (n *Node) noteTick(s *Stepper) {
	now := n.now()
	if s.Role() == raft.StateLeader && n.ticked != 0 && now-n.ticked > 2*n.cfg.Tick {
		n.counters.lateHeartbeats.Add(1)
	}
	n.ticked = now
}

// noteBeat and noteAnswer time the round trip of heartbeats: of the first one
// that is not answered yet, unless that was lost.
func (n *Node) noteBeat(e *Envelope) {
	if e.Msg.Raft.GetType() != raftpb.MessageType_MsgHeartbeat || n.cfg.Metrics.PeerRoundTrip == nil {
		return
	}
	now := n.now()
	if at, waiting := n.beats[e.To]; !waiting || now-at > n.cfg.electionTimeout() {
		n.beats[e.To] = now
	}
}

func (n *Node) noteAnswer(from uint64, m *Message) {
	if m.Raft.GetType() != raftpb.MessageType_MsgHeartbeatResp {
		return
	}
	if at, waiting := n.beats[from]; waiting {
		delete(n.beats, from)
		n.cfg.Metrics.PeerRoundTrip(from, n.now()-at)
	}
}

// runDisk owns the log: it drains its queue, writes every task and syncs once
// for all of them. This is where a write becomes durable.
func (n *Node) runDisk() {
	var tasks []diskTask
	for {
		var ok bool
		if tasks, ok = n.disk.take(tasks); !ok {
			return
		}
		if err := n.writeLog(tasks); err != nil {
			// What the disk holds now is unknown; a retry could acknowledge
			// what a crash would lose. Only a restart reads the truth.
			n.stop(fmt.Errorf("write the log: %w", err))
			return
		}
	}
}

func (n *Node) writeLog(tasks []diskTask) error {
	n.writes = n.writes[:0]
	for _, t := range tasks {
		if t.append == nil {
			continue
		}
		n.writes = append(n.writes, t.append)
		for _, e := range t.append.Entries {
			n.logBytes.Add(int64(len(e.GetData())) + 32)
		}
	}
	if err := n.Write(n.writes); err != nil {
		return err
	}
	for _, t := range tasks {
		if t.append != nil {
			n.inbox.post(event{appended: t.append})
		} else if err := t.call(); err != nil {
			return err
		}
	}
	return nil
}

// runApply owns the machine.
func (n *Node) runApply() {
	var tasks []*replica.ApplyTask
	for {
		var ok bool
		if tasks, ok = n.apply.take(tasks); !ok {
			return
		}
		for _, t := range tasks {
			done, results, err := n.Apply(t)
			if err != nil {
				n.stop(fmt.Errorf("apply: %w", err))
				return
			}
			// The loop must know of granted leases before their owner can ask
			// to renew one: so first the event, then the waiters.
			n.counters.applied(&done)
			n.inbox.post(event{applied: &done})
			n.inbox.complete(results)
			if n.Removed() {
				n.leave()
			}
		}
		n.maybeCheckpoint()
		for n.apply.empty() && n.ctx.Err() == nil && n.Background(backgroundStep) {
			runtime.Gosched()
		}
		n.Background(backgroundStep) // also under steady load
	}
}

const backgroundStep = 2000

// Hub is where watches are made.
func (n *Node) Hub() *watch.Hub { return n.hub }

// peerHandler is the Node as the transport sees it.
type peerHandler Node

func (p *peerHandler) Receive(from uint64, frame []byte) {
	m, err := DecodeMessage(frame)
	if err != nil {
		p.cfg.Logger.Warn("ignored a peer's message", "error", err)
		return
	}
	if m.Raft != nil && m.Raft.GetFrom() != from {
		return
	}
	p.inbox.post(event{message: m, from: from})
}

func (p *peerHandler) Unreachable(id uint64) {
	p.inbox.post(event{call: func(s *Stepper) { s.Unreachable(id) }})
}
