package chaos

import (
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

// exitTime is within what supervisors and harnesses expect a member to be gone
// after SIGTERM.
const exitTime = 1500 * time.Millisecond

func TestALeaderThatIsToldToStopHandsOver(t *testing.T) {
	t.Parallel()
	c := startCluster(t, loopback(3))
	l := newLoad(c, seed())
	l.startClients(clientsAtWork)
	beat := &strain{begun: l.began}
	l.wg.Go(func() { beat.watch(l.ctx) })
	// A machine that is too busy slows everything down, and makes members elect.
	busy := func(from time.Duration) bool { return beat.since(from) > strained/4 }
	for range 3 {
		leader := c.leader()
		before := c.term(leader)
		p, from := leader.process(), l.now()
		took, err := leader.down(syscall.SIGTERM)
		if err != nil {
			t.Fatal(err)
		}
		if took > exitTime && !busy(from) {
			t.Errorf("%s needed %v to stop, want at most %v:\n%s", leader.name, took, exitTime, program.Tail(p.Log()))
		}
		// As etcd, it has died of the signal: 143 to a shell, success to systemd.
		if status, ok := p.Cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
			t.Errorf("%s ended with %v, want %v", leader.name, p.Cmd.ProcessState, syscall.SIGTERM)
		}
		l.awaitWrites()
		t.Logf("gone after %v, longest time without a write %v", ms(took), ms(l.outage(from)))
		if after := c.term(c.leader()); after != before+1 && !busy(from) {
			t.Errorf("the term went from %d to %d: leadership wasn't handed over", before, after)
		}
		leader.up()
		c.awaitReady(leader)
	}
	l.judge(l.verify())
}
