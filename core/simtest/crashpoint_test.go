package simtest

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/vfs"
)

// small is a cluster whose segments, window and budgets are so small that every
// path through the disk is taken within a second or two.
func small() *shape {
	return &shape{think: 200 * time.Millisecond, segmentBytes: 4 << 10, keepBytes: 1, checkpoints: 0.001, drift: 0, streamBudget: 4 << 10, leaseTTL: 2, learners: 1}
}

// workload cuts segments, takes checkpoints, releases log, has a follower miss
// so much that it is sent a checkpoint, and restarts a member.
func workload(restart int) func(*World) {
	return func(w *World) {
		at := func(t time.Duration, f func()) { w.after(t, f) }
		checkpoint := func() {
			for _, m := range w.members {
				if m.up() {
					m.save(m.n.View())
				}
			}
		}
		at(5*time.Millisecond, func() { w.members[0].step(func(s *node.Stepper) { s.Campaign() }) })
		at(200*time.Millisecond, func() { w.cutOff(len(w.members) - 1) })
		at(300*time.Millisecond, checkpoint)
		at(500*time.Millisecond, checkpoint)
		at(600*time.Millisecond, w.net.repair)
		at(900*time.Millisecond, func() {
			if m := w.members[restart]; m.up() {
				m.crash(killed)
				m.startIn(20 * time.Millisecond)
			}
		})
		at(1000*time.Millisecond, checkpoint)
	}
}

// TestEveryCrashPoint plays the workload once for every I/O of one member that a
// crash could fall on, recovery included, and for every way in which a crash
// treats what was not synced.
func TestEveryCrashPoint(t *testing.T) {
	if *seedFlag != 0 || *soakFlag != 0 {
		return
	}
	for _, c := range []struct {
		name          string
		members, slot int
	}{{"alone", 1, 0}, {"leader", 3, 0}, {"follower sent a checkpoint", 3, 2}} {
		t.Run(c.name, func(t *testing.T) {
			crashEverywhere(t, Options{
				Seed: 11, Members: c.members, Clients: 3, Watchers: 2, Duration: 1300 * time.Millisecond,
				script: workload(c.slot), think: 30 * time.Millisecond, shape: small(),
			}, c.slot, 2, func(w *World) {
				if w.stats.Seen["checkpoint received"] == 0 && c.members > 1 {
					t.Errorf("the workload sends no checkpoint: %v", w.stats.Seen)
				}
			})
		})
	}
}

// crashEverywhere plays a plan without a power cut, which check looks at, and then
// with one before each change of a member's disk and in every way; and with one
// more in the recovery from it. All of them with make sim-crash, one in so many
// otherwise.
func crashEverywhere(t *testing.T, opts Options, slot, stride int, check func(*World)) {
	t.Helper()
	plain, err := crashAt(t, opts, slot, powerCut{})
	if err != nil {
		t.Fatal(err)
	}
	check(plain)
	if testing.Short() {
		stride *= 8
	}
	if *everyFlag {
		stride = 1
	}
	runs, total := 0, plain.members[slot].disk.changes
	play := func(c powerCut) {
		runs++
		w, err := crashAt(t, opts, slot, c)
		if err != nil {
			t.Fatalf("a crash (%v) at I/O %d of %d, once more after %d (0: not): %v", c.mode, c.at, total, c.again, err)
		}
		if w.members[slot].disk.cutAt == c.at {
			t.Fatalf("no crash came at I/O %d of %d", c.at, total)
		}
	}
	for k := 1; k <= total; k++ {
		for mode := crashMode(vfs.CrashDrop); mode <= crashMode(vfs.CrashTorn); mode++ {
			if (3*k+int(mode))%stride != 0 {
				continue
			}
			twice := k/2%2 == 1
			if !twice || *everyFlag {
				play(powerCut{k, 0, mode})
			}
			if twice || *everyFlag {
				play(powerCut{k, 1 + (k/4+int(mode))%recoveryChanges, mode})
			}
		}
	}
	t.Logf("%d runs over %d crash points", runs, total)
}

// recoveryChanges is how many changes a recovery makes to the disk (18 to 31), and some more.
const recoveryChanges = 32

// powerCut is when a member's power goes, and when again: before the at-th change
// to its disk, and after that many more.
type powerCut struct {
	at, again int
	mode      crashMode
}

// crashAt plays a plan with a power cut.
func crashAt(t *testing.T, opts Options, slot int, cut powerCut) (*World, error) {
	t.Helper()
	w := prepare(t, opts)
	script := opts.script
	w.mode = &cut.mode
	w.opts.script = func(w *World) { script(w) }
	w.transfer, w.noBreaks, w.operator.patience = 50*time.Millisecond, true, 500*time.Millisecond
	w.onMember = func(m *member) {
		if m.slot == slot {
			m.disk.cutAt, m.disk.cutAgain = cut.at, cut.again
		}
	}
	return w, w.run()
}

func TestACrashBetweenInstallingACheckpointAndResettingTheLogIsSurvived(t *testing.T) {
	for mode := killed; mode <= crashMode(vfs.CrashTorn); mode++ {
		t.Run(mode.String(), func(t *testing.T) {
			w := prepare(t, Options{
				Seed: 3, Members: 3, Clients: 3, Duration: 1500 * time.Millisecond,
				script: workload(1), think: 30 * time.Millisecond, shape: small(),
			})
			crashes := 0
			w.onInstall = func(m *member) {
				if crashes++; crashes <= 2 {
					m.crash(mode)
					m.startIn(10 * time.Millisecond)
				}
			}
			if err := w.run(); err != nil {
				t.Fatal(err)
			}
			if crashes == 0 {
				t.Fatal("no checkpoint was installed")
			}
		})
	}
}

// A checkpoint takes longer to send than the window takes to move on: the log
// after it is held, so one checkpoint is enough.
func TestOneCheckpointIsEnoughForAFollowerBeyondTheWindow(t *testing.T) {
	shape := small()
	shape.keepBytes = 1 << 10 // some round trips' worth
	w := prepare(t, Options{
		Seed: 5, Members: 3, Clients: 4, Duration: 5 * time.Second, think: 10 * time.Millisecond, shape: shape,
		script: func(w *World) {
			w.after(5*time.Millisecond, func() { w.members[0].step(func(s *node.Stepper) { s.Campaign() }) })
			w.after(200*time.Millisecond, func() { w.cutOff(2) })
			w.after(time.Second, w.net.repair)
			for i := range 600 {
				w.after(150*time.Millisecond+time.Duration(i)*5*time.Millisecond, func() {
					l := w.members[0]
					l.propose(l.drawID(), machine.Put, &pb.PutRequest{Key: fmt.Appendf(nil, "w%d", i), Value: []byte("x")})
				})
			}
		},
	})
	w.transfer = 1500 * time.Millisecond
	w.noBreaks = true
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	if n := w.stats.Seen["checkpoint sent"]; n != 1 {
		t.Fatalf("%d checkpoints were sent, want 1", n)
	}
}

// prepare makes a world for a test that has a plan.
func prepare(t *testing.T, opts Options) *World {
	t.Helper()
	w := newWorld(t, opts)
	w.rng = rand.New(rand.NewPCG(opts.Seed, 1))
	return w
}

func (w *World) run() error {
	w.guard(w.init)
	w.guard(w.play)
	_, err := w.finished()
	return err
}
