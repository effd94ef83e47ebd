package simtest

import (
	"testing"
	"time"

	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/vfs"
)

// loseDisk has a host come back with its old flags and an empty disk, for a while.
// Taking its id, it would vote a second time.
func (m *member) loseDisk(after time.Duration) {
	id := m.id
	m.crash(killed)
	m.mem, m.id = vfs.NewMem(), 0
	m.startIn(after)
	m.w.after(after+3*time.Second, func() {
		if m.id == id {
			m.w.fail("%s took its id again after it lost its disk", m.name)
		}
		m.retire()
		m.id = id // the operator knows whom to remove
	})
}

// restartAll has two members killed and started in a network that is whole, of which
// b stands for election, and beside them a third one that has lost its disk.
func restartAll(w *World, a, b, loser *member) {
	a.crash(killed)
	b.crash(killed)
	w.net.repair()
	a.startIn(10 * time.Millisecond)
	b.startIn(10 * time.Millisecond)
	loser.loseDisk(10*time.Millisecond + time.Microsecond)
	w.after(60*time.Millisecond, func() { b.step(func(s *node.Stepper) { s.Campaign() }) })
}

// yetToReplay has all members of a cluster killed, and one of them loses its disk. It
// asks the others in the moment in which they have loaded their checkpoints, from
// before it told its name, and not replayed their logs.
func yetToReplay(o *Options) {
	o.Members, o.Clients, o.Duration, o.shape, o.think = 2, 3, 12*time.Second, small(), 20*time.Millisecond
	o.shape.lax, o.shape.checkpoints = true, 0
	o.script = func(w *World) {
		a, b := w.members[0], w.members[1]
		campaign(w)
		w.after(2*time.Second, func() {
			add := membership.Change{Op: membership.AddVoter, Member: membership.Member{ID: 7, PeerURLs: []string{"http://h1:2380"}}}
			w.operator.request(a, add, nil)
		})
		w.after(2100*time.Millisecond, func() { a.save(a.n.View()); b.save(b.n.View()) })
		w.after(2600*time.Millisecond, func() {
			j := w.newHost("http://h1:2380", "m2", map[string][]string{a.cfg.Name: a.urls, b.cfg.Name: b.urls})
			j.startIn(0)
			w.after(2400*time.Millisecond, func() { w.cutOff(b.slot) }) // so that only two have what comes next
			w.after(3400*time.Millisecond, func() {
				if !j.named {
					w.fail("%s runs under no name", j.name)
				}
				restartAll(w, a, b, j)
			})
		})
	}
}

func TestAMemberThatHasYetToReplayItsLogVouchesForNobody(t *testing.T) { played(t, yetToReplay) }

// Founders have no checkpoint but the first, which holds no names.
func TestAFounderThatLostItsDiskDoesNotFoundTheClusterAgain(t *testing.T) {
	played(t, func(o *Options) {
		o.Members, o.Clients, o.Duration, o.shape, o.think = 3, 3, 12*time.Second, small(), 20*time.Millisecond
		o.shape.checkpoints = 0
		o.script = func(w *World) {
			a, b, c := w.members[0], w.members[1], w.members[2]
			campaign(w)
			w.after(3*time.Second, func() { w.cutOff(b.slot) })
			w.after(4*time.Second, func() {
				restartAll(w, a, b, c)
			})
		}
	})
}

// The list is of four voters. The change that two of them have in their logs and do
// not know to be committed makes them three, and two of those went on without them.
func TestOfFourVotersThoseThatLagDoNotCount(t *testing.T) {
	played(t, func(o *Options) {
		o.Seed = 2
		o.Members, o.Clients, o.Duration, o.shape, o.think = 3, 9, 14*time.Second, small(), 20*time.Millisecond
		o.script = func(w *World) {
			a, b, c := w.members[0], w.members[1], w.members[2]
			campaign(w)
			w.noBreaks, w.transfer = true, 5*time.Millisecond
			w.after(2*time.Second, func() {
				add := membership.Change{Op: membership.AddVoter, Member: membership.Member{ID: 7, PeerURLs: []string{"http://h1:2380"}}}
				w.operator.request(a, add, nil)
			})
			w.after(2500*time.Millisecond, func() {
				j := w.newHost("http://h1:2380", "m3", map[string][]string{a.cfg.Name: a.urls, b.cfg.Name: b.urls, c.cfg.Name: c.urls})
				for _, m := range []*member{b, c} {
					l := &w.net.links[a.slot][m.slot]
					l.lo, l.hi = 300*time.Millisecond, 301*time.Millisecond
				}
				j.startIn(400 * time.Millisecond)
				w.after(400*time.Millisecond, func() { soonAsItTellsItsName(w, a, b, c, j) })
			})
		}
	})
}

func soonAsItTellsItsName(w *World, a, b, c, j *member) {
	if len(j.waiting) == 0 || !j.up() || j.n.View().Index == 0 || j.named {
		w.after(time.Millisecond, func() { soonAsItTellsItsName(w, a, b, c, j) })
		return
	}
	cut := func() {
		for _, m := range []*member{b, c} {
			for _, o := range []*member{a, j} {
				w.net.links[m.slot][o.slot].cut, w.net.links[o.slot][m.slot].cut = true, true
			}
		}
	}
	w.operator.request(a, membership.Change{Op: membership.Remove, Member: membership.Member{ID: c.id}}, func(*request) { cut() })
	w.after(500*time.Millisecond, cut)
	w.after(900*time.Millisecond, func() {
		a.crash(killed)
		w.net.repair()
		j.loseDisk(10 * time.Millisecond)
	})
	w.after(6*time.Second, func() { a.startIn(0) })
}
