package simtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/musterhq/muster/core/checkpoint"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/replica"
	"github.com/musterhq/muster/core/transport"
	"github.com/musterhq/muster/core/vfs"
	"github.com/musterhq/muster/core/wal"
	"github.com/musterhq/muster/core/watch"
)

const (
	tick          = 100 * time.Millisecond
	electionTicks = 10
	wallOrigin    = int64(1_700_000_000_000_000_000)
)

// member is one simulated host: a disk that may lose what was not synced, a
// clock of its own, and the node.Member that lives on them.
type member struct {
	w    *World
	slot int
	name string
	id   uint64 // 0 until it has joined
	cfg  node.Config
	urls []string // where it is reached

	gone       bool // for good,
	goneSince  time.Duration
	departures int // how often it stopped because it was removed

	mem  *vfs.Mem
	disk disk
	dead bool // the power is gone

	installed  uint64 // the last checkpoint from a leader
	savesSince int    // checkpoints of its own since that

	rate  float64       // of its monotonic clock
	boot  time.Duration // world time its clock counts from
	skew  int64         // of its wall clock
	slow  time.Duration // extra disk latency
	lag   time.Duration // extra time to apply entries
	pause time.Duration // stands still until then

	life     int // changes with every crash: events of an earlier life are void
	n        *node.Member
	hub      *watch.Hub
	nextID   uint64
	writes   []*replica.AppendTask
	spare    []*replica.AppendTask // memory of the last ones
	writing  bool
	applies  []*replica.ApplyTask
	applying bool
	waiting  map[uint64]func(outcome)
	held     []func() // what arrived while it was paused
	jobs     jobs

	known    addresses
	solo     bool // see Stepper.Solo
	named    bool // the cluster knows its name
	ticks    int
	leaving  int     // the life that ends because it was removed,
	outlawed int     // and in which it heard so from another
	written  uint64  // highest log index on its disk, checkpoints included
	seen     listing // what was compared last
}

// outcome is what a caller on a member learns.
type outcome struct {
	res     machine.Result
	applied bool // the result came out of the log
	err     error
	view    *machine.View // as the outcome came
}

func newMember(w *World, slot int) *member {
	m := &member{w: w, slot: slot, name: fmt.Sprintf("m%d", slot), mem: vfs.NewMem()}
	m.rate = 1 + (2*w.rng.Float64()-1)*w.shape.drift
	m.cfg = node.Config{
		Name: m.name, Dir: "data", Token: "sim", Tick: tick, ElectionTicks: electionTicks,
		SegmentBytes: w.shape.segmentBytes, KeepBytes: w.shape.keepBytes, NoSync: w.opts.LoseSyncs,
		Machine:          machine.Config{Settings: machine.Settings{MinLeaseTTL: 2, MaxLearners: w.shape.learners}},
		NoStrictReconfig: w.shape.lax,
		HealthInterval:   time.Second,
		ConnectedSince:   m.connectedSince,
		Logger:           w.log.With("member", m.name),
		Wall:             func() time.Time { return time.Unix(0, m.wall()) },
		// One attempt to join or to found ends with the first round of questions: the
		// next one is the supervisor's, in virtual time.
		Ask: m.ask, RequestTimeout: time.Nanosecond,
	}
	return m
}

// found prepares the members of the initial cluster.
func (w *World) found() {
	cluster := map[string][]string{}
	for i := range w.opts.Members {
		cluster[fmt.Sprintf("m%d", i)] = []string{fmt.Sprintf("http://m%d:2380", i)}
	}
	var founders []membership.Member
	for i := range w.opts.Members {
		m := newMember(w, i)
		m.cfg.InitialCluster = cluster
		w.members = append(w.members, m)
		w.net.grow()
		urls := cluster[m.name]
		w.net.listen(urls[0], m)
		id := membership.MemberID(urls, m.cfg.Token, 0)
		founders = append(founders, membership.Member{ID: id, PeerURLs: urls})
		w.operator.names[id] = m.name
	}
	slices.SortFunc(founders, func(a, b membership.Member) int { return cmp.Compare(a.ID, b.ID) })
	w.truth.roster.found(founders, int(w.shape.learners))
}

func (m *member) wall() int64 { return wallOrigin + int64(m.w.now) + m.skew }

func (m *member) up() bool { return m.n != nil }

// start opens the member on what its disk holds.
func (m *member) start() {
	m.life++
	m.w.note('s', m.slot, nil)
	m.boot = m.w.now
	m.waiting = map[uint64]func(outcome){}
	m.cfg.FS = vfs.NewFault(m.mem, m.inject)
	m.known = addresses{said: map[uint64][]string{}}
	m.named, m.solo, m.seen = false, false, listing{}
	n, err := node.OpenMember(context.Background(), m.cfg, func(n *node.Member) node.Hub {
		v := n.View()
		m.hub = watch.NewHub(v.KV.Rev(), func() *mvcc.View { return n.View().KV }, watch.Config{StreamBudget: m.w.shape.streamBudget})
		return &tap{m}
	}, func(first uint64) func() uint64 {
		m.nextID = first
		return m.drawID
	})
	if err != nil {
		m.notStarted(err)
		return
	}
	m.n, m.id = n, n.ID
	if m.disk.damaged {
		m.mended()
	}
	m.w.log.Info("start", "member", m.name, "at", m.w.now, "applied", n.View().Index)
	m.w.truth.listed(m.w, m)
	m.updatePeers()
	m.jobs = m.newJobs(m.life)
	m.scheduleTick()
	if len(n.View().Members) == 1 {
		m.step(func(s *node.Stepper) { s.Campaign() })
	}
	m.introduce(m.life)
}

// notStarted is what becomes of a member that could not be opened: it may be
// the disk's fault, and then it is tried again.
func (m *member) notStarted(err error) {
	switch {
	case m.dead:
		m.lose(m.w.crashMode())
	case m.disk.damaged && (errors.Is(err, checkpoint.ErrCorrupt) || errors.Is(err, wal.ErrCorrupt) || m.savesSince == 0 && (errors.Is(err, node.ErrLogGap) || errors.Is(err, node.ErrNoCheckpoint))):
		// Refused, as it must be. (A gap: the log was started over after a
		// checkpoint from the leader, so no older one can stand in for that.)
		// The operator brings the file back from the mirror.
		m.w.stats.Seen["damage refused"]++
		m.mem, m.disk.damaged, m.disk.rotten = m.disk.mirror, false, rot{}
		if !m.disk.full {
			m.mem.SetCapacity(0) // it may have been full when the mirror was taken
		}
	case m.notJoined(err):
		return
	case m.disk.hurt:
	default:
		m.w.fail("%s cannot start: %v", m.name, err)
		return
	}
	m.mem.Kill()
	m.startIn(m.w.between(10*time.Millisecond, time.Second))
}

// startIn starts the member after a while, unless something else did.
func (m *member) startIn(d time.Duration) {
	life := m.life
	m.w.after(d, func() {
		if m.life == life && !m.up() && !m.gone {
			m.disk.renew()
			m.start()
		}
	})
}

func (m *member) drawID() uint64 {
	m.nextID++
	return m.nextID - 1
}

// crash stops the member; its disk keeps what the mode leaves.
func (m *member) crash(mode crashMode) {
	if !m.up() {
		return
	}
	m.w.log.Info("crash", "member", m.name, "at", m.w.now, "mode", mode.String())
	m.w.note('c', m.slot, []byte(mode.String()))
	m.stop()
	m.lose(mode)
}

// stop ends the process; what becomes of its disk is another matter.
func (m *member) stop() {
	m.life++
	m.hub.Close()
	m.n = nil
	m.writes, m.applies, m.writing, m.applying, m.held = nil, nil, false, false, nil
	m.pause, m.solo = 0, false
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
	if !m.dead && !m.disk.hurt {
		m.w.fail("%s stopped by itself: %v", m.name, err)
		return
	}
	mode := m.w.crashMode()
	if !m.dead && m.w.chance(0.5) {
		mode = killed // the process ended; its machine lives on
	}
	m.crash(mode)
	m.startIn(m.w.between(10*time.Millisecond, 3*time.Second))
}

func (m *member) clock() time.Duration { return m.clockAt(m.w.now) }

func (m *member) clockAt(at time.Duration) time.Duration {
	return time.Second + time.Duration(float64(at-m.boot)*m.rate)
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
	// They came by different connections: nobody knows which is read first.
	m.w.rng.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
	for _, f := range held {
		m.do(life, f)
	}
}

// jobs are what a member does over and over in one life, each made once.
type jobs struct{ tick, write, apply func() }

func (m *member) newJobs(life int) jobs {
	write, apply := m.write, m.apply
	return jobs{
		tick: func() {
			if m.life != life || !m.up() {
				return
			}
			// A paused process misses its ticks, as a ticker drops them.
			if m.w.now >= m.pause {
				m.step((*node.Stepper).Tick)
				if m.ticks++; m.ticks%electionTicks == 0 && m.life == life {
					m.checkVoters()
					m.greet()
				}
			}
			m.scheduleTick()
		},
		write: func() { m.do(life, write) },
		apply: func() { m.do(life, apply) },
	}
}

func (m *member) scheduleTick() {
	m.w.after(time.Duration(float64(tick)/m.rate), m.jobs.tick)
}

// step lets the stepper do something and carries out what comes of it.
func (m *member) step(f func(*node.Stepper)) {
	if !m.up() || m.w.failure != nil {
		return
	}
	m.n.Step.SetTime(m.clock(), m.wall())
	f(m.n.Step)
	eff := m.n.Step.Take()
	m.writes = append(m.writes, eff.Append...)
	m.applies = append(m.applies, eff.Apply...)
	for i := range eff.Send {
		e := &eff.Send[i]
		var to *member
		if !m.n.Step.MustWait(e) {
			to = m.dial(e.To)
		}
		if to == nil {
			m.n.Step.Unsent(e)
			continue
		}
		frame, err := m.w.frames.encode(&e.Msg)
		if err != nil {
			m.w.fail("encode a peer message: %v", err)
			return
		}
		m.w.net.send(m, to, frame)
	}
	for _, s := range eff.Snapshots {
		m.sendSnapshot(s)
	}
	m.solo = m.n.Step.Solo()
	m.checkRole()
	for _, c := range eff.Done {
		m.complete(c.ID, outcome{err: c.Err})
	}
	m.startWrite()
	m.startApply()
}

// complete answers a caller, which must not have the member do anything right away.
func (m *member) complete(id uint64, o outcome) {
	if f := m.waiting[id]; f != nil {
		delete(m.waiting, id)
		o.view = m.n.View()
		m.w.note('d', m.slot, o.res.Body)
		f(o)
	}
}

func (m *member) receive(from *member, urls []string, frame []byte) {
	life := from.life
	if m.w.now < m.pause {
		m.do(m.life, func() { m.take(from, life, urls, frame) })
		return
	}
	m.take(from, life, urls, frame)
}

// take reads a frame, if there is anybody to read it, and if its sender belongs
// to the cluster. A sender that does not is told so, if it is still there.
func (m *member) take(from *member, life int, urls []string, frame []byte) {
	if !m.up() {
		return
	}
	m.w.note('r', m.slot, frame)
	if !m.admits(from.id, urls) {
		if m.n.Standing(from.id) == transport.Removed && from.life == life {
			from.expelled(m)
		}
		return
	}
	msg, err := node.DecodeMessage(frame)
	if err != nil {
		m.w.fail("decode a peer message: %v", err)
		return
	}
	id := from.id
	m.step(func(s *node.Stepper) { s.Receive(id, msg) })
}

// startWrite has the disk carry out everything queued, after a while.
func (m *member) startWrite() {
	if m.writing || len(m.writes) == 0 {
		return
	}
	m.writing = true
	m.w.after(m.w.between(50*time.Microsecond, time.Millisecond)+m.slow, m.jobs.write)
}

func (m *member) write() {
	tasks := m.writes
	m.writes, m.spare = m.spare[:0], nil
	m.w.note('l', m.slot, nil)
	if err := m.n.Write(tasks); err != nil {
		m.die(err)
		return
	}
	m.writing = false
	for _, t := range tasks {
		m.noteWritten(t)
		m.step(func(s *node.Stepper) { s.Appended(t) })
	}
	if m.n.Moved() {
		m.updatePeers()
	}
	clear(tasks)
	m.spare = tasks
	m.startWrite()
}

func (m *member) noteWritten(t *replica.AppendTask) {
	if t.Snapshot != nil {
		m.written = max(m.written, t.Snapshot.GetMetadata().GetIndex())
	}
	if n := len(t.Entries); n > 0 {
		m.written = max(m.written, t.Entries[n-1].GetIndex())
	}
}

func (m *member) startApply() {
	if m.applying || len(m.applies) == 0 {
		return
	}
	m.applying = true
	takes := m.lag + m.w.between(10*time.Microsecond, 500*time.Microsecond)
	if m.applies[0].Restore != nil || m.w.chance(0.005) {
		takes = m.w.between(time.Millisecond, 400*time.Millisecond) // loading a checkpoint, or much to do
	}
	m.w.after(takes, m.jobs.apply)
}

func (m *member) apply() {
	t := m.applies[0]
	m.applies = slices.Delete(m.applies, 0, 1)
	m.w.note('a', m.slot, nil)
	m.w.truth.applying(m.w, m, t)
	done, results, err := m.n.Apply(t)
	if err != nil {
		m.die(err)
		return
	}
	m.applying = false
	m.w.truth.applied(m.w, m)
	m.w.truth.listed(m.w, m)
	m.w.leases.applied(m.w, done)
	outcomes := make([]outcome, len(results))
	for i, r := range results {
		m.w.truth.answered(m.w, m, &r)
		outcomes[i] = outcome{res: r, err: r.Err, applied: true}
	}
	m.step(func(s *node.Stepper) { s.ApplyFinished(done) })
	if len(done.ConfChanges) > 0 || t.Restore != nil {
		m.updatePeers()
	}
	for _, o := range outcomes {
		m.complete(o.res.ID, o)
	}
	if m.n.Removed() {
		m.leave()
	}
	m.n.Background(20)
	if m.w.chance(m.w.shape.checkpoints) {
		m.checkpoint()
	}
	m.startApply()
}

func (w *World) leader() *member {
	for _, m := range w.members {
		if m.up() && m.n.Step.Role() == raft.StateLeader {
			return m
		}
	}
	return nil
}
