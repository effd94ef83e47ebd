package simtest

import (
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/node"
)

// lostExpiry is a script in which the leader is cut off when it has proposed an
// expiry, and renewals of that lease wait: to be confirmed by a quorum that is not
// heard any more, or, if the followers' disks stall before that, for the outcome of
// the expiry, which the next leader inherits.
type lostExpiry struct {
	stall    bool
	granted  bool
	answered int // of renewals
}

const (
	lostLease = 77
	lostTTL   = 2 // seconds
	renewals  = 5
)

func (s *lostExpiry) play(w *World) {
	*s = lostExpiry{stall: s.stall}
	l := w.members[0]
	campaign(w)
	cut, first := 2450*time.Millisecond, 2500*time.Millisecond
	if s.stall {
		cut, first = 3200*time.Millisecond, 2700*time.Millisecond // or they renew the lease
		slow := func(d time.Duration) func() {
			return func() { w.members[1].slow, w.members[2].slow = d, d }
		}
		w.after(2450*time.Millisecond, slow(1500*time.Millisecond))
		w.after(cut, slow(0))
	}
	ask := func(do func(ticket uint64), then func(outcome)) {
		if !l.up() {
			return
		}
		ticket, called := l.drawID(), w.now
		l.waiting[ticket] = func(o outcome) {
			then(o)
			if o.err == nil {
				w.leases.promised(w, lostLease, lostTTL*time.Second, called)
			}
		}
		do(ticket)
	}
	w.after(500*time.Millisecond, func() {
		ask(func(ticket uint64) {
			l.propose(ticket, machine.LeaseGrant, &pb.LeaseGrantRequest{ID: lostLease, TTL: lostTTL})
		}, func(o outcome) { s.granted = o.err == nil })
	})
	w.after(cut, func() { w.cutOff(0) })
	for i := range renewals {
		w.after(first+time.Duration(i)*100*time.Millisecond, func() {
			ask(func(ticket uint64) { l.step(func(st *node.Stepper) { st.Renew(ticket, lostLease) }) }, func(outcome) { s.answered++ })
		})
	}
	w.after(6*time.Second, w.net.repair)
}

func TestALeaderThatLosesLeadershipWithExpiriesProposedKeepsNobodyWaiting(t *testing.T) {
	for _, stall := range []bool{false, true} {
		s := lostExpiry{stall: stall}
		w := prepare(t, Options{Seed: 9, Members: 3, Clients: 2, Duration: 9 * time.Second, shape: small(), script: s.play})
		if err := w.run(); err != nil {
			t.Fatal(err)
		}
		s.check(t, w)
	}
}

func (s *lostExpiry) check(t *testing.T, w *World) {
	t.Helper()
	if !s.granted || s.answered != renewals {
		t.Errorf("granted: %v; %d of %d renewals were answered", s.granted, s.answered, renewals)
	}
	if w.leases.of(lostLease).gone == 0 {
		t.Error("the lease lives on")
	}
}

// fullDisk is a script in which a member has no room for a checkpoint, and later none
// for its log.
type fullDisk struct {
	saved   bool // the checkpoint that had no room
	lived   bool // the member went on without it
	stopped bool // when its log could not grow
}

func (s *fullDisk) play(w *World) {
	*s = fullDisk{}
	m := w.members[0]
	campaign(w)
	w.after(500*time.Millisecond, func() {
		m.fill(100)
		if m.up() {
			life, failed := m.life, w.stats.Seen["checkpoint failed"]
			m.save(m.n.View())
			s.saved, s.lived = w.stats.Seen["checkpoint failed"] == failed, m.life == life
		}
		if m.up() {
			m.release() // before the log needs room
		}
	})
	w.after(600*time.Millisecond, m.release)
	w.after(650*time.Millisecond, func() { checkpoints(w) })
	w.after(700*time.Millisecond, func() { m.fill(10) })
	w.after(2500*time.Millisecond, func() {
		s.stopped = !m.up()
		m.release()
	})
}

// A full disk fails checkpoints, which the member survives, and log writes,
// which it does not; with room again it comes back with all it acknowledged.
func TestAFullDiskFailsCheckpointsAndStopsTheMemberOnlyWhenTheLogCannotGrow(t *testing.T) {
	for _, members := range []int{1, 3} {
		t.Run(fmt.Sprint(members), func(t *testing.T) {
			var s fullDisk
			w := prepare(t, Options{Seed: 4, Members: members, Clients: 3, Duration: 4 * time.Second, think: 20 * time.Millisecond, shape: small(), script: s.play})
			if err := w.run(); err != nil {
				t.Fatal(err)
			}
			s.check(t)
		})
	}
}

func (s *fullDisk) check(t *testing.T) {
	t.Helper()
	if s.saved || !s.lived {
		t.Errorf("without room a checkpoint was written: %v, and the member went on: %v", s.saved, s.lived)
	}
	if !s.stopped {
		t.Error("the member went on although its log could not grow")
	}
}

// TestEveryCrashPointOfNamedScripts plays what has gone wrong elsewhere, with a power
// cut at every I/O of a member concerned. (Others of these are among the workloads of
// TestEveryCrashPoint and the membership changes.)
func TestEveryCrashPointOfNamedScripts(t *testing.T) {
	if *seedFlag != 0 || *soakFlag != 0 {
		return
	}
	for i := range 4 {
		slot, stall := i%2, i >= 2
		t.Run(fmt.Sprintf("expiries proposed by a leader that loses leadership, m%d, disks stall: %v", slot, stall), func(t *testing.T) {
			s := lostExpiry{stall: stall}
			crashEverywhere(t, Options{Seed: 9, Members: 3, Clients: 2, Duration: 9 * time.Second, shape: small(), script: s.play}, slot, 15, func(w *World) { s.check(t, w) })
		})
	}
	for _, members := range []int{1, 3} {
		t.Run(fmt.Sprintf("full disk during a checkpoint, one of %d", members), func(t *testing.T) {
			var s fullDisk
			crashEverywhere(t, Options{Seed: 4, Members: members, Clients: 3, Duration: 4 * time.Second, think: 20 * time.Millisecond, shape: small(), script: s.play}, 0, 15, func(*World) { s.check(t) })
		})
	}
}
