package e2e

import (
	"slices"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// exitTime is within what supervisors and harnesses expect a member to be gone
// after SIGTERM.
const exitTime = 1500 * time.Millisecond

func TestNothingIsLostWhileTheLeaderIsKilledTenTimesInARow(t *testing.T) {
	c := startCluster(t, 3)
	l := startLoad(t, c)
	var outages []time.Duration
	for range 10 {
		leader := c.Leader(t, l.client)
		leader.Kill()
		outages = append(outages, l.AwaitWrites())
		leader.Start(t)
	}
	l.Verify()
	report(t, "from SIGKILL of the leader to the next acknowledged writes", outages)
}

func TestASingleMemberKilledTenTimesComesBackByItself(t *testing.T) {
	c := startCluster(t, 1)
	l := startLoad(t, c)
	var starts []time.Duration
	for i := range 10 {
		c.Members[0].Kill()
		began := time.Now()
		c.Members[0].Start(t)
		starts = append(starts, time.Since(began))
		l.AwaitWrites()
		if i == 4 {
			l.AwaitRenewal()
		}
	}
	l.Verify()
	report(t, "from start to ready", starts)
}

func TestAllMembersKilledAtOnceComeBackWithWhatWasAcknowledged(t *testing.T) {
	c := startCluster(t, 3)
	l := startLoad(t, c)
	for range 3 {
		for _, m := range c.Members {
			m.Cmd.Process.Kill()
		}
		for _, m := range c.Members {
			m.Kill()
			m.Launch(t)
		}
		for _, m := range c.Members {
			m.AwaitReady(t)
		}
		l.AwaitWrites()
		l.AwaitRenewal()
	}
	l.Verify()
}

func TestALeaderThatHangsIsReplacedAndRejoins(t *testing.T) {
	c := startCluster(t, 3)
	l := startLoad(t, c)
	leader := c.Leader(t, l.client)
	leader.Pause(t)
	hang := time.NewTimer(3 * time.Second)
	outage := l.AwaitWrites()
	next := c.Leader(t, connectOthers(t, c, leader))
	if next == leader {
		t.Error("a stopped process leads")
	}
	<-hang.C
	leader.Cont(t)
	one := connect(t, leader.Client)
	eventually(t, "the old leader answers linearizable reads", func() bool {
		_, err := one.Get(within(t, time.Second), leasedKey)
		return err == nil
	})
	l.Verify()
	report(t, "from SIGSTOP of the leader to the next acknowledged writes", []time.Duration{outage})
}

func connectOthers(t *testing.T, c *Cluster, but *Member) *clientv3.Client {
	return connect(t, slices.DeleteFunc(c.Endpoints(), func(e string) bool { return e == but.Client })...)
}

func TestALeaderThatIsToldToStopHandsOver(t *testing.T) {
	c := startCluster(t, 3)
	l := startLoad(t, c)
	var exits, outages []time.Duration
	for range 3 {
		leader := c.Leader(t, l.client)
		before := must[*clientv3.StatusResponse](t)(memberStatus(t, l.client, leader)).RaftTerm
		began := time.Now()
		state, took := leader.Stop(t)
		exits = append(exits, took)
		if took > exitTime {
			t.Errorf("%s needed %v to stop, want at most %v:\n%s", leader.Name, took, exitTime, tail(leader.Log()))
		}
		// As etcd, it has died of the signal: 143 to a shell, success to systemd.
		if status, ok := state.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
			t.Errorf("%s ended with %v, want %v", leader.Name, state, syscall.SIGTERM)
		}
		l.AwaitWrites()
		outages = append(outages, time.Since(began)-took)
		next := c.Leader(t, connectOthers(t, c, leader))
		after := must[*clientv3.StatusResponse](t)(memberStatus(t, l.client, next)).RaftTerm
		if after != before+1 {
			t.Errorf("the term went from %d to %d: leadership wasn't handed over", before, after)
		}
		leader.Start(t)
	}
	l.Verify()
	report(t, "from SIGTERM to the end", exits)
	report(t, "from the end to the next acknowledged writes", outages)
}

// report prints measured times.
func report(t *testing.T, what string, d []time.Duration) {
	t.Helper()
	t.Logf("%s: median %v, longest %v", what, median(d).Round(100*time.Microsecond), slices.Max(d).Round(100*time.Microsecond))
}

func median(d []time.Duration) time.Duration { return slices.Sorted(slices.Values(d))[len(d)/2] }
