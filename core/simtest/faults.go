package simtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/vfs"
)

// faultKind is one kind of bad luck. do reports whether it came about.
type faultKind struct {
	name   string
	weight int
	do     func(w *World, m *member) bool
}

// faultKinds is a function rather than a variable because its entries refer to it.
func faultKinds() []faultKind {
	return append(operations(), []faultKind{
		{"crash", 16, func(w *World, m *member) bool {
			w.crashFor(m, w.between(10*time.Millisecond, 8*time.Second))
			return true
		}},
		{"crash of all", 4, func(w *World, _ *member) bool {
			for _, m := range w.members {
				w.crashFor(m, w.between(10*time.Millisecond, 3*time.Second))
			}
			return true
		}},
		{"power cut between I/Os", 12, func(w *World, m *member) bool {
			m.disk.cutAt = m.disk.changes + 1 + w.rng.IntN(30)
			return m.up()
		}},
		{"power cut during recovery", 5, func(w *World, m *member) bool {
			w.crashFor(m, w.between(10*time.Millisecond, time.Second))
			m.disk.cutAt = m.disk.changes + 1 + w.rng.IntN(30)
			return true
		}},
		{"sync error", 3, diskFault(vfs.OpSync, errEIO)},
		{"write error", 3, diskFault(vfs.OpWrite, errEIO)},
		{"short write", 2, diskFault(vfs.OpWrite, &vfs.ShortWrite{N: 700, Err: syscall.ENOSPC})},
		{"read error on start", 2, func(w *World, m *member) bool {
			w.crashFor(m, w.between(10*time.Millisecond, time.Second))
			m.failNext(vfs.OpRead, "", errEIO)
			return true
		}},
		{"full disk", 3, func(w *World, m *member) bool {
			m.fill(w.rng.Int64N(64 << 10))
			w.after(w.between(500*time.Millisecond, 5*time.Second), m.release)
			return true
		}},
		{"bit rot at rest", 3, func(w *World, m *member) bool {
			w.crashFor(m, w.between(10*time.Millisecond, time.Second))
			return m.rot()
		}},
		{"misdirected checkpoint write", 2, func(w *World, m *member) bool {
			if !m.up() || m.disk.damaged {
				return false
			}
			m.failNext(vfs.OpWrite, "checkpoints", &vfs.Misdirected{Off: w.rng.Int64N(8 << 10)})
			m.disk.mirror, m.disk.damaged = m.mem.Crash(w.rng, vfs.CrashKeep), true
			m.save(m.n.View())
			life := m.life
			m.do(life, func() { w.crashFor(m, time.Second) })
			return true
		}},
		{"partition", 12, func(w *World, _ *member) bool {
			if !w.partition() {
				return false
			}
			w.after(w.between(500*time.Millisecond, 8*time.Second), w.net.repair)
			return true
		}},
		{"partial partition", 5, func(w *World, m *member) bool { // both reach the rest
			o := w.anyone()
			if o == m {
				return false
			}
			w.net.links[m.slot][o.slot].cut, w.net.links[o.slot][m.slot].cut = true, true
			w.after(w.between(500*time.Millisecond, 8*time.Second), w.net.repair)
			return true
		}},
		{"one-way cut", 6, func(w *World, _ *member) bool {
			i, j := w.anyone(), w.anyone()
			if i == j {
				return false
			}
			w.net.links[i.slot][j.slot].cut = true
			w.after(w.between(500*time.Millisecond, 8*time.Second), w.net.repair)
			return true
		}},
		{"bad network", 11, func(w *World, _ *member) bool {
			for i := range w.net.links {
				for j := range w.net.links[i] {
					l := &w.net.links[i][j]
					l.drop, l.duplicate = w.rng.Float64()*0.3, w.rng.Float64()*0.3
					l.hi = l.lo + w.between(time.Millisecond, 400*time.Millisecond)
				}
			}
			w.after(w.between(time.Second, 6*time.Second), w.net.repair)
			return true
		}},
		{"pause", 12, func(w *World, m *member) bool {
			if !m.up() {
				return false
			}
			d := w.between(100*time.Millisecond, 6*time.Second)
			m.pause = max(m.pause, w.now+d)
			life := m.life
			w.after(d, func() { m.wake(life) })
			return true
		}},
		{"leader pauses and is cut off", 3, func(w *World, _ *member) bool {
			l := w.leader()
			if l == nil || w.now < l.pause {
				return false
			}
			// When it wakes it takes itself for the leader until it notices.
			d, life := w.between(2*time.Second, 6*time.Second), l.life
			l.pause = w.now + d
			w.cutOff(l.slot)
			w.after(d, func() { l.wake(life) })
			w.after(d+2*time.Second, w.net.repair)
			return true
		}},
		{"slow disk", 6, func(w *World, m *member) bool {
			m.slow = w.between(time.Millisecond, 400*time.Millisecond)
			w.after(w.between(time.Second, 5*time.Second), func() { m.slow = 0 })
			return true
		}},
		{"disk stall", 3, func(w *World, m *member) bool {
			m.slow = w.between(time.Second, 8*time.Second)
			w.after(w.between(100*time.Millisecond, time.Second), func() { m.slow = 0 })
			return true
		}},
		{"slow apply", 4, func(w *World, m *member) bool {
			m.lag = w.between(time.Millisecond, 100*time.Millisecond)
			w.after(w.between(time.Second, 5*time.Second), func() { m.lag = 0 })
			return true
		}},
		{"wall clock jump", 4, func(w *World, m *member) bool {
			m.skew += int64(w.between(-time.Hour, time.Hour))
			return true
		}},
		{"checkpoint at a bad moment", 6, func(w *World, m *member) bool {
			m.do(m.life, m.checkpoint)
			return m.up()
		}},
		{"leader transfer", 4, func(w *World, _ *member) bool {
			l := w.leader()
			if l == nil || w.now < l.pause {
				return false
			}
			l.step(func(s *node.Stepper) {
				if to := s.BestFollower(); to != 0 {
					s.TransferLeader(to)
				}
			})
			return true
		}},
	}...)
}

// FaultNames are the kinds of fault there are, for Options.Without.
func FaultNames() []string {
	var names []string
	for _, k := range faultKinds() {
		names = append(names, k.name)
	}
	return names
}

func diskFault(kind vfs.Kind, err error) func(*World, *member) bool {
	return func(_ *World, m *member) bool {
		m.failNext(kind, "", err)
		return m.up()
	}
}

// inflicted is a fault that came about.
type inflicted struct {
	number int
	at     time.Duration
	kind   string
	member string
}

func (f inflicted) String() string {
	return fmt.Sprintf("%4d at %v: %s, %s", f.number, f.at.Round(time.Millisecond), f.kind, f.member)
}

// nextFault does something bad now and schedules the next one. Each draws from a
// generator of its own: when some are left out, the others stay what they are.
func (w *World) nextFault() {
	if w.calm || w.failure != nil {
		return
	}
	number := w.faults
	w.faults++
	rng := w.rng
	defer func() { w.rng = rng }()
	w.rng = rand.New(rand.NewPCG(w.opts.Seed, 1<<32+uint64(number)))
	delay := w.between(200*time.Millisecond, 4*time.Second)
	m := w.anyone()
	if l := w.leader(); w.chance(0.4) && l != nil {
		m = l // what happens to the leader is more interesting
	}
	if k := w.drawFault(); w.opts.Faults == nil || slices.Contains(w.opts.Faults, number) {
		w.inflict(number, m, k)
	}
	w.after(delay, w.nextFault)
}

func (w *World) drawFault() faultKind {
	if w.kinds == nil {
		w.kinds, w.changes = faultKinds(), operations()
		if only := w.opts.kinds; only != nil {
			w.kinds = slices.DeleteFunc(w.kinds, func(k faultKind) bool { return !slices.Contains(only, k.name) })
		}
	}
	if w.shape.churn && w.opts.kinds == nil && w.chance(0.5) {
		return w.draw(w.changes)
	}
	return w.draw(w.kinds)
}

func (w *World) draw(kinds []faultKind) faultKind {
	sum := 0
	for _, k := range kinds {
		sum += k.weight
	}
	x := w.rng.IntN(sum)
	for _, k := range kinds {
		if x -= k.weight; x < 0 {
			return k
		}
	}
	panic("unreachable")
}

func (w *World) inflict(number int, m *member, k faultKind) {
	if slices.Contains(w.opts.Without, k.name) {
		return
	}
	w.note('f', m.slot, []byte(k.name))
	w.log.Info("fault", "kind", k.name, "member", m.name, "at", w.now)
	if k.do(w, m) {
		w.stats.Faults[k.name]++
		w.inflicted = append(w.inflicted, inflicted{number, w.now, k.name, m.name})
	}
}

func (w *World) crashFor(m *member, d time.Duration) {
	if !m.up() {
		return
	}
	m.crash(w.crashMode())
	m.startIn(d)
}

// cutOff isolates a member.
func (w *World) cutOff(slot int) {
	for i := range w.members {
		w.net.links[i][slot].cut = i != slot
		w.net.links[slot][i].cut = i != slot
	}
}

// partition splits the members into two sides that do not hear each other. False:
// all are on one.
func (w *World) partition() (split bool) {
	side := make([]bool, len(w.members))
	for i := range side {
		side[i] = w.chance(0.5)
	}
	for i := range side {
		for j := range side {
			if side[i] != side[j] {
				w.net.links[i][j].cut = true
				split = true
			}
		}
	}
	return split
}

// heal ends all faults.
func (w *World) heal() {
	w.net.repair()
	for _, m := range w.hosts() {
		m.slow, m.lag, m.disk.fail = 0, 0, nil
		if w.mode == nil && !m.disk.relapse { // a plan's comes, be it now
			m.disk.cutAt = 0
		}
		m.release()
		if m.pause > w.now {
			m.pause = w.now
			m.wake(m.life)
		}
		if !m.up() {
			m.startIn(0)
		}
	}
}

// settled reports whether the calm cluster has recovered in every respect.
func (w *World) settled() bool { return w.unsettled() == "" }

func (w *World) unsettled() string {
	var left []string
	for _, c := range w.clients {
		if !c.done {
			left = append(left, fmt.Sprintf("client %d is not served (%s %s)", c.id, c.last, c.to))
		}
	}
	left = append(left, w.unsettledMembers()...)
	for _, x := range w.watches {
		if rev := x.owed(int64(len(w.truth.events))); rev != 0 {
			left = append(left, fmt.Sprintf("%s on %s did not see revision %d", x.name, x.where(), rev))
		}
	}
	if n := len(w.truth.spec.Leases()); n > 0 {
		left = append(left, fmt.Sprintf("%d leases live on", n))
	}
	return strings.Join(left, "; ")
}
