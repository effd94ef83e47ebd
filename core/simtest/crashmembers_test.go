package simtest

import (
	"errors"
	"testing"
	"time"

	"github.com/musterhq/muster/core/membership"
)

// insist has the operator ask for a change until it is carried out, or refused for
// having been.
func insist(w *World, c membership.Change, then func()) {
	again := func() { w.after(100*time.Millisecond, func() { insist(w, c, then) }) }
	via := w.operator.via()
	if via == nil {
		again()
		return
	}
	w.operator.request(via, c, func(q *request) {
		done := []error{membership.ErrIDExists, membership.ErrIDRemoved, membership.ErrNotLearner}
		for _, err := range done {
			if errors.Is(q.err, err) {
				then()
				return
			}
		}
		if !q.accepted() {
			again()
			return
		}
		then()
	})
}

// admit adds a host on a URL and starts it beside that.
func admit(w *World, url string, learner bool, then func(id uint64)) {
	via := w.operator.via()
	if via == nil {
		w.after(50*time.Millisecond, func() { admit(w, url, learner, then) })
		return
	}
	peers := map[string][]string{}
	for _, m := range w.hosts() {
		peers[m.cfg.Name] = m.urls
	}
	host := w.newHost(url, w.hostName(), peers)
	c := membership.Change{Op: membership.AddVoter}
	if learner {
		c.Op = membership.AddLearner
	}
	c.Member = membership.Member{ID: via.n.FreshID([]string{url}, via.cfg.Wall()), PeerURLs: []string{url}, IsLearner: learner}
	w.operator.names[c.Member.ID] = host.cfg.Name
	host.startIn(10 * time.Millisecond)
	insist(w, c, func() { then(c.Member.ID) })
}

// founder is a member of the initial cluster; its host may be down before it knows its id.
func founder(w *World, slot int) membership.Member {
	m := w.members[slot]
	return membership.Member{ID: membership.MemberID(m.cfg.InitialCluster[m.cfg.Name], m.cfg.Token, 0)}
}

// checkpoints has every member take one.
func checkpoints(w *World) {
	for _, m := range w.members {
		if m.up() {
			m.save(m.n.View())
		}
	}
}

// TestEveryCrashPointOfMembershipChanges plays joining, promotion, removal,
// replacement and refusals once for every I/O of one of the members concerned.
func TestEveryCrashPointOfMembershipChanges(t *testing.T) {
	if *seedFlag != 0 || *soakFlag != 0 {
		return
	}
	nothing := func(uint64) {}
	joining := func(w *World) {
		admit(w, "http://new:2380", true, func(id uint64) {
			w.after(100*time.Millisecond, func() { checkpoints(w) })
			insist(w, membership.Change{Op: membership.Promote, Member: membership.Member{ID: id}}, func() { checkpoints(w) })
		})
	}
	removal := func(slot int) func(*World) {
		return func(w *World) {
			insist(w, membership.Change{Op: membership.Remove, Member: founder(w, slot)}, func() { checkpoints(w) })
		}
	}
	replacement := func(w *World) {
		old := w.members[2]
		old.retire()
		insist(w, membership.Change{Op: membership.Remove, Member: founder(w, 2)}, func() {
			admit(w, "http://m2:2380", false, nothing)
			w.after(500*time.Millisecond, func() { checkpoints(w) })
		})
	}
	moving := func(w *World) {
		m := w.members[1]
		w.net.listen("http://moved:2380", m)
		c := membership.Change{Op: membership.UpdatePeer, Member: founder(w, 1)}
		c.Member.PeerURLs = []string{"http://moved:2380"}
		insist(w, c, func() { w.net.leave("http://m1:2380", m) })
	}
	// All members refuse what the leader lets pass, and a second change comes
	// while the first is under way.
	refused := func(w *World) {
		c := membership.Change{Op: membership.AddVoter, Member: membership.Member{ID: 99, PeerURLs: []string{"http://m1:2380"}}}
		for i := range 20 {
			w.after(time.Duration(i)*50*time.Millisecond, func() {
				for _, m := range w.members {
					if m.up() {
						w.operator.request(m, c, nil)
					}
				}
			})
		}
	}
	for _, c := range []struct {
		name          string
		members, slot int
		script        func(*World)
		must          string // what must have come about
	}{
		{"joiner", 3, 3, joining, "members changed"},
		{"leader of a joiner", 1, 0, joining, "members changed"},
		{"follower that is removed", 3, 2, removal(2), "removed member stopped"},
		{"leader that is removed", 3, 0, removal(0), "removed member stopped"},
		{"follower beside a removal", 3, 1, removal(2), "removed member stopped"},
		{"replacement", 3, 3, replacement, "checkpoint installed"},
		{"leader of a replacement", 3, 0, replacement, "checkpoint installed"},
		{"member that moves", 3, 1, moving, "members changed"},
		{"leader of refused changes", 3, 0, refused, "change refused by all"},
	} {
		t.Run(c.name, func(t *testing.T) {
			crashEverywhere(t, Options{
				Seed: 11, Members: c.members, Clients: 2, Watchers: 1, Duration: 2500 * time.Millisecond, think: 50 * time.Millisecond, shape: small(),
				script: func(w *World) {
					campaign(w)
					w.after(700*time.Millisecond, func() { c.script(w) })
				},
			}, c.slot, 15, func(w *World) {
				if w.stats.Seen[c.must] == 0 {
					t.Errorf("it came to no %q: %v", c.must, w.stats.Seen)
				}
			})
		})
	}
}
