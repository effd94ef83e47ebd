package simtest

import (
	"fmt"
	"strings"
	"time"

	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/vfs"
)

func (w *World) crashMode() vfs.CrashMode {
	return []vfs.CrashMode{vfs.CrashDrop, vfs.CrashRandom, vfs.CrashTorn, vfs.CrashKeep}[w.rng.IntN(4)]
}

// nextFault does something bad now and schedules the next one.
func (w *World) nextFault() {
	if w.calm || w.failure != nil {
		return
	}
	m := w.members[w.rng.IntN(len(w.members))]
	if l := w.leader(); l != nil && w.chance(0.4) {
		m = l // what happens to the leader is more interesting
	}
	name := w.fault(m)
	w.stats.Faults[name]++
	w.log.Info("fault", "kind", name, "member", m.name, "at", w.now)
	w.after(w.between(200*time.Millisecond, 4*time.Second), w.nextFault)
}

func (w *World) fault(m *member) string {
	switch x := w.rng.IntN(100); {
	case x < 18:
		w.crashFor(m, w.between(10*time.Millisecond, 8*time.Second))
		return "crash"
	case x < 30:
		if m.up() {
			m.cutIn = 1 + w.rng.IntN(30)
		}
		return "power cut between I/Os"
	case x < 33:
		if m.up() {
			m.eio = true
		}
		return "sync error"
	case x < 37:
		for _, m := range w.members {
			w.crashFor(m, w.between(10*time.Millisecond, 3*time.Second))
		}
		return "crash of all"
	case x < 50:
		w.partition()
		w.after(w.between(500*time.Millisecond, 8*time.Second), w.net.repair)
		return "partition"
	case x < 56:
		i, j := w.rng.IntN(len(w.members)), w.rng.IntN(len(w.members))
		w.net.links[i][j].cut = true
		w.after(w.between(500*time.Millisecond, 8*time.Second), w.net.repair)
		return "one-way cut"
	case x < 68:
		for i := range w.net.links {
			for j := range w.net.links[i] {
				l := &w.net.links[i][j]
				l.drop, l.duplicate = w.rng.Float64()*0.3, w.rng.Float64()*0.3
				l.hi = l.lo + w.between(time.Millisecond, 200*time.Millisecond)
			}
		}
		w.after(w.between(time.Second, 6*time.Second), w.net.repair)
		return "bad network"
	case x < 80:
		if !m.up() {
			return "nothing"
		}
		d := w.between(100*time.Millisecond, 6*time.Second)
		m.pause = w.now + d
		life := m.life
		w.after(d, func() { m.wake(life) })
		return "pause"
	case x < 88:
		m.slow = w.between(time.Millisecond, 400*time.Millisecond)
		w.after(w.between(time.Second, 5*time.Second), func() { m.slow = 0 })
		return "slow disk"
	case x < 92:
		m.skew += int64(w.between(-time.Hour, time.Hour))
		return "wall clock jump"
	case x < 96:
		if m.up() && w.now >= m.pause {
			m.checkpoint()
		}
		return "checkpoint at a bad moment"
	default:
		if l := w.leader(); l != nil && w.now >= l.pause {
			l.step(func(s *node.Stepper) {
				if to := s.BestFollower(); to != 0 {
					s.TransferLeader(to)
				}
			})
		}
		return "leader transfer"
	}
}

func (w *World) crashFor(m *member, d time.Duration) {
	if !m.up() {
		return
	}
	m.crash(w.crashMode())
	life := m.life
	w.after(d, func() {
		if m.life == life && !m.up() {
			m.start()
		}
	})
}

// partition splits the members into two sides that do not hear each other.
func (w *World) partition() {
	side := make([]bool, len(w.members))
	for i := range side {
		side[i] = w.chance(0.5)
	}
	for i := range side {
		for j := range side {
			if side[i] != side[j] {
				w.net.links[i][j].cut = true
			}
		}
	}
}

// heal ends all faults.
func (w *World) heal() {
	w.net.repair()
	for _, m := range w.members {
		m.slow, m.cutIn, m.eio = 0, 0, false
		if m.pause > w.now {
			m.pause = w.now
			m.wake(m.life)
		}
		if !m.up() {
			m.start()
		}
	}
}

// settled reports whether the calm cluster has recovered in every respect.
func (w *World) settled() bool { return w.unsettled() == "" }

func (w *World) unsettled() string {
	var left []string
	for _, c := range w.clients {
		if !c.done {
			left = append(left, fmt.Sprintf("client %d is not served (%s)", c.id, c.last))
		}
	}
	for _, m := range w.members {
		if !m.up() {
			left = append(left, m.name+" is down")
			continue
		}
		if v := m.n.View(); v.Index < w.truth.applies {
			left = append(left, fmt.Sprintf("%s applied %d of %d", m.name, v.Index, w.truth.applies))
		}
	}
	for _, x := range w.watches {
		if last := int64(len(w.truth.events)); x.next < last {
			left = append(left, fmt.Sprintf("%s saw %d of %d", x.name, x.next, last))
		}
	}
	for _, f := range w.leases.leases {
		if f.gone == 0 && f.ttl != 0 && f.kept != 0 {
			left = append(left, "a lease lives on")
			break
		}
	}
	if id := w.leases.outlived(w); id != 0 {
		left = append(left, fmt.Sprintf("lease %x outlived its time", id))
	}
	return strings.Join(left, "; ")
}
