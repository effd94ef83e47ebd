package simtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/replica"
	"github.com/musterhq/muster/core/vfs"
	"github.com/musterhq/muster/core/watch"
)

const (
	tick          = 100 * time.Millisecond
	electionTicks = 10
	wallOrigin    = int64(1_700_000_000_000_000_000)
)

var errPowerCut = errors.New("simulated power cut")

// member is one simulated host: a disk that may lose what was not synced, a
// clock of its own, and the node.Member that lives on them.
type member struct {
	w    *World
	slot int
	name string
	id   uint64
	cfg  node.Config

	mem *vfs.Mem
	// cutIn counts down the I/Os to a power cut; dead once it came.
	cutIn int
	dead  bool
	eio   bool // the next sync fails

	rate  float64       // of its monotonic clock
	boot  time.Duration // world time its clock counts from
	skew  int64         // of its wall clock
	slow  time.Duration // extra disk latency
	pause time.Duration // stands still until then

	life     int // changes with every crash: events of an earlier life are void
	n        *node.Member
	hub      *watch.Hub
	nextID   uint64
	writes   []*replica.AppendTask
	writing  bool
	applies  []*replica.ApplyTask
	applying bool
	waiting  map[uint64]func(outcome)
	held     []func() // what arrived while it was paused
}

// outcome is what a caller on a member learns.
type outcome struct {
	res  machine.Result
	err  error
	view *machine.View // as the outcome came
}

func newMember(w *World, slot int) *member {
	m := &member{w: w, slot: slot, name: fmt.Sprintf("m%d", slot), mem: vfs.NewMem(), rate: 1 + (w.rng.Float64()-0.5)*0.04}
	cluster := map[string][]string{}
	for i := range w.opts.Members {
		cluster[fmt.Sprintf("m%d", i)] = []string{fmt.Sprintf("http://m%d:2380", i)}
	}
	m.cfg = node.Config{
		Name: m.name, Dir: "data", InitialCluster: cluster, Token: "sim", Tick: tick, ElectionTicks: electionTicks,
		SegmentBytes: 16 << 10, KeepBytes: 8 << 10, NoSync: w.opts.LoseSyncs,
		Machine: machine.Config{Settings: machine.Settings{MinLeaseTTL: 2}},
		Logger:  w.log.With("member", m.name),
	}
	return m
}

func (m *member) up() bool { return m.n != nil }

// start opens the member on what its disk holds.
func (m *member) start() {
	m.life++
	m.dead, m.cutIn, m.eio = false, 0, false
	m.boot = m.w.now
	m.waiting = map[uint64]func(outcome){}
	m.cfg.FS = vfs.NewFault(m.mem, m.inject)
	n, err := node.OpenMember(context.Background(), m.cfg, func(n *node.Member) node.Hub {
		v := n.View()
		m.hub = watch.NewHub(v.KV.Rev(), func() *mvcc.View { return n.View().KV }, watch.Config{StreamBudget: 16 << 10})
		return &tap{m}
	}, func(first uint64) func() uint64 {
		m.nextID = first
		return m.drawID
	})
	if err != nil {
		m.w.fail("%s cannot start: %v", m.name, err)
		return
	}
	m.n, m.id = n, n.ID
	m.w.log.Info("start", "member", m.name, "at", m.w.now, "applied", n.View().Index)
	m.scheduleTick(m.life)
	if m.w.opts.Members == 1 {
		m.step(func(s *node.Stepper) { s.Campaign() })
	}
}

func (m *member) drawID() uint64 {
	m.nextID++
	return m.nextID - 1
}

// inject is the disk's bad luck.
func (m *member) inject(op vfs.Op) error {
	if m.dead {
		return errPowerCut
	}
	if m.eio && op.Kind == vfs.OpSync {
		return errors.New("simulated EIO")
	}
	if m.cutIn > 0 && op.Kind.Changes() {
		if m.cutIn--; m.cutIn == 0 {
			m.dead = true
			return errPowerCut
		}
	}
	return nil
}

// crash stops the member; its disk keeps what the mode leaves.
func (m *member) crash(mode vfs.CrashMode) {
	if !m.up() {
		return
	}
	m.w.log.Info("crash", "member", m.name, "at", m.w.now, "mode", mode.String())
	m.life++
	m.hub.Close()
	m.n = nil
	m.mem = m.mem.Crash(m.w.rng, mode)
	m.writes, m.applies, m.writing, m.applying, m.held = nil, nil, false, false, nil
	m.pause = 0
	m.waiting = nil // callers learn nothing: their time-outs tell them
}

func (m *member) close() {
	if m.up() {
		m.hub.Close()
		m.n = nil
	}
}

// die ends the member because it gave up by itself, as a failed disk makes it,
// and starts it again a little later.
func (m *member) die(err error) {
	if !errors.Is(err, errPowerCut) && !m.eio {
		m.w.fail("%s stopped by itself: %v", m.name, err)
		return
	}
	m.crash(m.w.crashMode())
	life := m.life
	m.w.after(m.w.between(10*time.Millisecond, 3*time.Second), func() {
		if m.life == life && !m.up() {
			m.start()
		}
	})
}

func (m *member) clock() time.Duration {
	return time.Second + time.Duration(float64(m.w.now-m.boot)*m.rate)
}

// do runs f as part of this life, later if the member stands still.
func (m *member) do(life int, f func()) {
	if m.life != life || !m.up() || m.w.failure != nil {
		return
	}
	if m.w.now < m.pause {
		m.held = append(m.held, f)
		return
	}
	f()
}

// wake lets a paused member go on with all that piled up.
func (m *member) wake(life int) {
	if m.life != life || !m.up() || m.w.now < m.pause {
		return
	}
	held := m.held
	m.held = nil
	for _, f := range held {
		m.do(life, f)
	}
}

func (m *member) scheduleTick(life int) {
	m.w.after(time.Duration(float64(tick)/m.rate), func() {
		if m.life != life || !m.up() {
			return
		}
		// A paused process misses its ticks, as a ticker drops them.
		if m.w.now >= m.pause {
			m.step(func(s *node.Stepper) { s.Tick() })
		}
		m.scheduleTick(life)
	})
}

// step lets the stepper do something and carries out what comes of it.
func (m *member) step(f func(*node.Stepper)) {
	if !m.up() || m.w.failure != nil {
		return
	}
	m.n.Step.SetTime(m.clock(), wallOrigin+int64(m.w.now)+m.skew)
	f(m.n.Step)
	eff := m.n.Step.Take()
	m.writes = append(m.writes, eff.Append...)
	m.applies = append(m.applies, eff.Apply...)
	for _, e := range eff.Send {
		to := m.w.slotOf(e.To)
		frame, err := e.Msg.AppendTo(nil)
		if err != nil {
			m.w.fail("encode a peer message: %v", err)
			return
		}
		if to >= 0 {
			m.w.net.send(m.slot, to, frame)
		}
	}
	for _, s := range eff.Snapshots {
		m.sendSnapshot(s)
	}
	for _, c := range eff.Done {
		m.complete(c.ID, outcome{err: c.Err})
	}
	m.startWrite()
	m.startApply()
}

func (m *member) complete(id uint64, o outcome) {
	if f := m.waiting[id]; f != nil {
		delete(m.waiting, id)
		o.view = m.n.View()
		f(o)
	}
}

func (m *member) receive(from uint64, frame []byte) {
	m.do(m.life, func() {
		msg, err := node.DecodeMessage(frame)
		if err != nil {
			m.w.fail("decode a peer message: %v", err)
			return
		}
		m.step(func(s *node.Stepper) { s.Receive(from, msg) })
	})
}

// startWrite has the disk carry out everything queued, after a while.
func (m *member) startWrite() {
	if m.writing || len(m.writes) == 0 {
		return
	}
	m.writing = true
	life := m.life
	m.w.after(m.w.between(50*time.Microsecond, time.Millisecond)+m.slow, func() {
		m.do(life, func() {
			tasks := m.writes
			m.writes = nil
			if err := m.n.Write(tasks); err != nil {
				m.die(err)
				return
			}
			m.writing = false
			for _, t := range tasks {
				m.step(func(s *node.Stepper) { s.Appended(t) })
			}
			m.startWrite()
		})
	})
}

func (m *member) startApply() {
	if m.applying || len(m.applies) == 0 {
		return
	}
	m.applying = true
	life := m.life
	m.w.after(m.w.between(10*time.Microsecond, 500*time.Microsecond), func() {
		m.do(life, func() {
			t := m.applies[0]
			m.applies = m.applies[1:]
			done, results, err := m.n.Apply(t)
			if err != nil {
				m.die(err)
				return
			}
			m.applying = false
			m.w.truth.applied(m.w, m)
			m.w.leases.applied(m.w, done)
			outcomes := make([]outcome, len(results))
			for i, r := range results {
				outcomes[i] = outcome{res: r, err: r.Err}
			}
			m.step(func(s *node.Stepper) { s.ApplyFinished(done) })
			for _, o := range outcomes {
				m.complete(o.res.ID, o)
			}
			m.n.Background(20)
			if m.w.chance(0.003) {
				m.checkpoint()
			}
			m.startApply()
		})
	})
}

// checkpoint saves the published view, and lets the log go.
func (m *member) checkpoint() {
	m.w.stats.Faults["checkpoint"]++
	err := m.n.Save(context.Background(), m.n.View(), nil)
	if err == nil && !m.writing {
		err = m.n.ReleaseLog()
	}
	if err != nil {
		m.die(err)
	}
}

func (m *member) sendSnapshot(announce *raftpb.Message) {
	to, life := m.w.slotOf(announce.GetTo()), m.life
	report := func(ok bool) {
		m.do(life, func() { m.step(func(s *node.Stepper) { s.SnapshotSent(announce.GetTo(), ok) }) })
	}
	v := m.n.Offered(announce)
	if v == nil || to < 0 {
		m.w.after(time.Millisecond, func() { report(false) })
		return
	}
	var body bytes.Buffer
	if err := node.WriteSnapshot(&body, v); err != nil {
		m.w.fail("write a checkpoint for %s: %v", m.w.members[to].name, err)
		return
	}
	m.w.stats.Faults["checkpoint sent"]++
	m.w.after(m.w.between(5*time.Millisecond, 800*time.Millisecond), func() {
		r := m.w.members[to]
		if l := m.w.net.links[m.slot][to]; l.cut || m.w.chance(l.drop) || !r.up() || r.w.now < r.pause {
			report(false)
			return
		}
		err := r.n.Install(context.Background(), announce, bytes.NewReader(body.Bytes()))
		if err != nil && r.dead {
			r.die(err)
		}
		if err == nil {
			from := m.id
			r.step(func(s *node.Stepper) { s.Receive(from, node.RaftMessage(announce)) })
		}
		report(err == nil)
	})
}

func (w *World) slotOf(id uint64) int {
	for i, m := range w.members {
		if m.id == id {
			return i
		}
	}
	return -1
}

func (w *World) leader() *member {
	for _, m := range w.members {
		if m.up() && m.n.Step.Role() == raft.StateLeader {
			return m
		}
	}
	return nil
}

// tap lets the truth see what a member tells its watchers.
type tap struct{ m *member }

func (t *tap) Notify(rev int64, events []mvcc.Event) {
	t.m.w.truth.notified(t.m.w, t.m, events)
	t.m.hub.Notify(rev, events)
}

func (t *tap) Reset(rev int64) {
	t.m.w.stats.Faults["checkpoint installed"]++
	t.m.hub.Reset(rev)
}
