package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/vfs"
)

// soon is a context for one call.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

var errNotYet = errors.New("not yet")

// eventually calls f until it succeeds or fails otherwise than with one of
// these errors.
func eventually(t *testing.T, f func() error, passing ...error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if !slices.ContainsFunc(passing, func(p error) bool { return errors.Is(err, p) }) || time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// newJoiner prepares a member that is to join those given; it is not open yet.
func newJoiner(t *testing.T, name string, ms ...*member) *member {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	m := &member{addr: l.Addr().String(), cfg: ms[0].cfg}
	m.cfg.Name, m.cfg.Dir, m.cfg.Join = name, t.TempDir(), true
	m.cfg.PeerListeners = []net.Listener{l}
	m.cfg.InitialCluster = map[string][]string{name: {m.url()}}
	for _, o := range ms {
		m.cfg.InitialCluster[o.cfg.Name] = []string{o.url()}
	}
	return m
}

func (m *member) url() string { return "http://" + m.addr }

func leaderOf(t *testing.T, ms ...*member) *member {
	t.Helper()
	var leader *member
	eventually(t, func() error {
		for _, m := range ms {
			if m.Node != nil && m.Leader() == m.ID() {
				leader = m
				return nil
			}
		}
		return ErrNoLeader
	}, ErrNoLeader)
	return leader
}

func others(ms []*member, not *member) []*member {
	return slices.DeleteFunc(slices.Clone(ms), func(m *member) bool { return m == not })
}

// join adds a member through via, starts it and waits until it serves.
func join(t *testing.T, name string, via *member, ms ...*member) *member {
	t.Helper()
	m := newJoiner(t, name, ms...)
	eventually(t, func() error {
		_, _, err := via.AddMember(soon(t), []string{m.url()}, false)
		return err
	}, ErrUnhealthy, ErrNoLeader)
	m.open(t)
	m.ready(t)
	return m
}

func (m *member) endsRemoved(t *testing.T) {
	t.Helper()
	select {
	case <-m.Done():
	case <-time.After(10 * time.Second):
		t.Fatalf("%s does not notice that it was removed", m.cfg.Name)
	}
	if !errors.Is(m.Err(), ErrRemoved) {
		t.Fatalf("%s stopped with %v, want ErrRemoved", m.cfg.Name, m.Err())
	}
}

func TestLearnerIsBroughtUpThenPromotedThenNeeded(t *testing.T) {
	t.Parallel()
	ms := newCluster(t, 1)
	if err := ms[0].put(t, "before", "1"); err != nil {
		t.Fatal(err)
	}
	l := newJoiner(t, "learner", ms...)
	added, all, err := ms[0].AddMember(soon(t), []string{l.url()}, true)
	if err != nil || len(all) != 2 || !added.IsLearner {
		t.Fatalf("added %+v, all %+v, %v", added, all, err)
	}
	if _, err := ms[0].PromoteMember(soon(t), added.ID); !errors.Is(err, ErrLearnerNotReady) {
		t.Fatalf("promoting a learner that was never started: %v, want ErrLearnerNotReady", err)
	}
	if _, _, err := ms[0].AddMember(soon(t), []string{"http://127.0.0.1:1"}, true); !errors.Is(err, membership.ErrTooManyLearners) {
		t.Fatalf("a second learner: %v, want ErrTooManyLearners", err)
	}
	l.open(t)
	l.ready(t)
	if l.ID() != added.ID || !l.IsLearner() || l.get(t, "before") != "1" {
		t.Fatalf("joined as %x (learner: %v) with %q", l.ID(), l.IsLearner(), l.get(t, "before"))
	}
	eventually(t, func() error { _, err := l.PromoteMember(soon(t), added.ID); return err }, ErrLearnerNotReady)
	if l.IsLearner() {
		t.Fatal("still a learner after its promotion was acknowledged")
	}
	if _, err := ms[0].PromoteMember(soon(t), added.ID); !errors.Is(err, membership.ErrNotLearner) {
		t.Fatalf("promoting a voter: %v, want ErrNotLearner", err)
	}
	if err := l.put(t, "after", "2"); err != nil {
		t.Fatal(err)
	}
	if err := ms[0].TransferLeader(soon(t), l.ID()); err != nil {
		t.Fatal(err)
	}
	if got := ms[0].get(t, "after"); got != "2" {
		t.Fatalf("got %q from the member that was first, want 2", got)
	}
	l.stop(t)
	l.restart(t)
	l.ready(t)
	if l.get(t, "after") != "2" {
		t.Fatal("lost a write over a restart")
	}
}

func TestRemovedLeaderHandsOverFirstAndStopsByItself(t *testing.T) {
	t.Parallel()
	ms := newCluster(t, 3)
	leader := leaderOf(t, ms...)
	id := leader.ID()
	rest := others(ms, leader)
	var left []membership.Member
	eventually(t, func() (err error) { // members without a processor are out of contact
		left, err = leader.RemoveMember(soon(t), id)
		return err
	}, ErrUnhealthy)
	if len(left) != 2 {
		t.Fatalf("left %+v", left)
	}
	if now := rest[0].Leader(); now == id {
		t.Error("the removed member still leads")
	}
	for _, m := range rest {
		// Members without a processor may elect once more.
		eventually(t, func() error { return m.put(t, m.cfg.Name, "x") }, ErrLeaderChanged, ErrNoLeader)
	}
	leader.endsRemoved(t)
	leader.stop(t)
	l, err := net.Listen("tcp", leader.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	leader.cfg.PeerListeners = []net.Listener{l}
	// One that had its removal from the log refuses to start at once. One that
	// the others told of it before that, hears it from them again.
	n, err := Open(t.Context(), leader.cfg)
	if err == nil {
		leader.Node = n
		leader.endsRemoved(t)
		select {
		case <-n.ready:
			t.Error("a removed member served again before it stopped")
		default:
		}
	} else if !errors.Is(err, ErrRemoved) {
		t.Fatalf("starting a removed member: %v, want ErrRemoved", err)
	}
}

func TestMemberThatWasAwayHearsOfItsRemovalFromTheOthers(t *testing.T) {
	t.Parallel()
	ms := newCluster(t, 3)
	gone := others(ms, leaderOf(t, ms...))[0]
	rest := others(ms, gone)
	id := gone.ID()
	gone.stop(t)
	eventually(t, func() error { _, err := rest[0].RemoveMember(soon(t), id); return err }, ErrUnhealthy)
	gone.restart(t)
	gone.endsRemoved(t)
}

func TestMemberIsReplacedThroughAnyMember(t *testing.T) {
	t.Parallel()
	ms := newCluster(t, 3)
	for i := range 50 {
		if err := ms[0].put(t, fmt.Sprint("k", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	gone := others(ms, leaderOf(t, ms...))[0]
	rest := others(ms, gone)
	id := gone.ID()
	gone.stop(t)
	follower := others(rest, leaderOf(t, rest...))[0]
	eventually(t, func() error { _, err := follower.RemoveMember(soon(t), id); return err }, ErrUnhealthy)

	// The same machine, with an empty directory and a new id.
	again := newJoiner(t, gone.cfg.Name, rest...)
	_, _, err := follower.AddMember(soon(t), []string{again.url()}, false)
	if err != nil {
		t.Fatal(err)
	}
	again.open(t)
	again.ready(t)
	if again.ID() == id {
		t.Fatal("a removed id came back")
	}
	for i := range 50 {
		if again.get(t, fmt.Sprint("k", i)) != "v" {
			t.Fatalf("the replacement misses k%d", i)
		}
	}
	if err := again.put(t, "new", "w"); err != nil {
		t.Fatal(err)
	}
	if follower.get(t, "new") != "w" {
		t.Fatal("the others miss what the replacement wrote")
	}
}

func TestSecondChangeIsRefusedByNameWhileOneIsUnderWay(t *testing.T) {
	t.Parallel()
	ms := newCluster(t, 3)
	leader := leaderOf(t, ms...)
	leader.inbox.post(event{call: func(s *Stepper) { s.cfg.NoStrictReconfig = true }})
	for _, m := range others(ms, leader) {
		m.stop(t) // then no change can be committed
	}
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	add := func(port int) error {
		_, _, err := leader.AddMember(ctx, []string{fmt.Sprintf("http://127.0.0.1:%d", port)}, false)
		return err
	}
	first := make(chan error, 1)
	go func() { first <- add(1) }()
	eventually(t, func() error {
		underWay := make(chan bool)
		leader.inbox.post(event{call: func(s *Stepper) { underWay <- s.changes.underWay }})
		if !<-underWay {
			return ErrNoLeader
		}
		return nil
	}, ErrNoLeader)
	second := add(2)
	if !errors.Is(second, ErrChangeUnderWay) {
		t.Errorf("second change: %v, want ErrChangeUnderWay", second)
	}
	cancel()
	if err := <-first; err == nil {
		t.Error("the first change was acknowledged without a quorum")
	}
}

// The followers alone can commit a change, and apply it before their leader,
// whose disk is slow, has it on its own.
func TestChangeIsTakenWhileTheLeadersDiskStillHasTheOneBefore(t *testing.T) {
	t.Parallel()
	var gates []*sync.RWMutex
	ms := newClusterOn(t, 3, func(c *Config) {
		gate := &sync.RWMutex{}
		gates = append(gates, gate)
		c.FS = vfs.NewFault(vfs.OS(), func(op vfs.Op) error {
			if op.Kind == vfs.OpSync {
				gate.RLock()
				defer gate.RUnlock()
			}
			return nil
		})
	})
	leader := leaderOf(t, ms...)
	via := others(ms, leader)[0]
	gate := gates[slices.Index(ms, leader)]
	gate.Lock()
	if _, err := via.UpdateMember(soon(t), via.ID(), []string{via.url(), "http://127.0.0.1:1"}); err != nil {
		gate.Unlock()
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		_, err := via.UpdateMember(soon(t), via.ID(), []string{via.url()})
		second <- err
	}()
	eventually(t, func() error { // the leader has it
		waits := make(chan bool, 1)
		leader.inbox.post(event{call: func(s *Stepper) { waits <- s.changes.waiting != nil }})
		select {
		case err := <-second:
			gate.Unlock()
			t.Fatalf("the second change: %v before the first was applied by the leader", err)
			return nil
		case w := <-waits:
			if !w {
				return errNotYet
			}
			return nil
		}
	}, errNotYet)
	gate.Unlock()
	if err := <-second; err != nil {
		t.Fatalf("the second change: %v", err)
	}
}

func TestStrictRulesRefuseWhatCouldCostTheQuorum(t *testing.T) {
	t.Parallel()
	one := newCluster(t, 1)[0]
	if _, err := one.RemoveMember(soon(t), one.ID()); !errors.Is(err, ErrNotEnoughStarted) {
		t.Errorf("removing the only member: %v, want ErrNotEnoughStarted", err)
	}
	one.inbox.post(event{call: func(s *Stepper) { s.cfg.NoStrictReconfig = true }})
	if _, err := one.RemoveMember(soon(t), one.ID()); !errors.Is(err, membership.ErrLastVoter) {
		t.Errorf("removing the only member without strict rules: %v, want ErrLastVoter", err)
	}

	ms := newClusterOn(t, 3, func(c *Config) { c.Tick = 100 * time.Millisecond })
	via := others(ms, leaderOf(t, ms...))[0] // refusals travel, too
	for _, c := range []struct {
		what string
		do   func() error
		want error
	}{
		{"removing nobody", func() error { _, err := via.RemoveMember(soon(t), 42); return err }, membership.ErrIDNotFound},
		{"promoting nobody", func() error { _, err := via.PromoteMember(soon(t), 42); return err }, membership.ErrIDNotFound},
		{"promoting a voter", func() error { _, err := via.PromoteMember(soon(t), via.ID()); return err }, membership.ErrNotLearner},
		{"a URL twice", func() error { _, _, err := via.AddMember(soon(t), []string{via.url()}, false); return err }, membership.ErrPeerURLExists},
		{"another's URL", func() error {
			_, err := via.UpdateMember(soon(t), via.ID(), []string{others(ms, via)[0].url()})
			return err
		}, membership.ErrPeerURLExists},
		{"a fourth", func() error { _, _, err := via.AddMember(soon(t), []string{"http://127.0.0.1:4"}, false); return err }, nil},
		{"a fifth", func() error { _, _, err := via.AddMember(soon(t), []string{"http://127.0.0.1:5"}, false); return err }, nil},
		{"a sixth", func() error { _, _, err := via.AddMember(soon(t), []string{"http://127.0.0.1:6"}, false); return err }, ErrNotEnoughStarted},
		{"removing one that is up", func() error { _, err := via.RemoveMember(soon(t), via.ID()); return err }, ErrNotEnoughStarted},
	} {
		if err := c.do(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
}

func TestMissingMemberMakesChangesUnhealthyButMayBeRemoved(t *testing.T) {
	t.Parallel()
	// A busy machine must not keep a member silent for an election time-out: it would count as down.
	ms := newClusterOn(t, 3, func(c *Config) { c.Tick = 100 * time.Millisecond })
	leader := leaderOf(t, ms...)
	down := others(ms, leader)[0]
	id := down.ID()
	down.stop(t)
	eventually(t, func() error { // down is who was not heard for an election time-out
		inContact := make(chan bool)
		leader.inbox.post(event{call: func(s *Stepper) { inContact <- s.inContact(id) }})
		if <-inContact {
			return ErrUnhealthy
		}
		return nil
	}, ErrUnhealthy)
	if _, _, err := leader.AddMember(soon(t), []string{"http://127.0.0.1:4"}, true); !errors.Is(err, ErrUnhealthy) {
		t.Errorf("adding while one of three is down: %v, want ErrUnhealthy", err)
	}
	up := others(others(ms, leader), down)[0]
	if _, err := leader.RemoveMember(soon(t), up.ID()); !errors.Is(err, ErrUnhealthy) {
		t.Errorf("removing one of the two that are up: %v, want ErrUnhealthy", err)
	}
	eventually(t, func() error { _, err := leader.RemoveMember(soon(t), id); return err }, ErrUnhealthy)
}

// removeLeading asks for the removal of a member that may be the leader. One that
// asks from far behind hears of the next leader first, and not what became of it.
func removeLeading(t *testing.T, via *member, id uint64) {
	t.Helper()
	asked := false
	eventually(t, func() error {
		_, err := via.RemoveMember(soon(t), id)
		if asked && (errors.Is(err, membership.ErrIDRemoved) || errors.Is(err, membership.ErrIDNotFound)) {
			return nil
		}
		asked = asked || errors.Is(err, ErrLeaderChanged)
		return err
	}, ErrLeaderChanged, ErrNoLeader)
}

func TestMemberThatWasAwayWhileOthersWereReplacedIsReachedByALeaderItDoesNotKnow(t *testing.T) {
	t.Parallel()
	ms := newCluster(t, 3)
	for _, m := range ms {
		m.inbox.post(event{call: func(s *Stepper) { s.cfg.NoStrictReconfig = true }})
	}
	away := others(ms, leaderOf(t, ms...))[0]
	old := others(ms, away)
	away.stop(t)
	now := slices.Clone(old)
	for i, o := range old {
		m := join(t, fmt.Sprint("new", i), now[len(now)-1], now...)
		m.inbox.post(event{call: func(s *Stepper) { s.cfg.NoStrictReconfig = true }})
		now = append(others(now, o), m)
		removeLeading(t, m, o.ID())
		o.endsRemoved(t)
		o.stop(t)
	}
	eventually(t, func() error { return now[0].put(t, "k", "v") }, ErrLeaderChanged, ErrNoLeader)
	away.restart(t)
	away.ready(t)
	if away.get(t, "k") != "v" {
		t.Fatal("it does not have what was written while it was away")
	}
}

func TestResultsGoOnlyToTheMemberThatAsked(t *testing.T) {
	t.Parallel()
	// Ids of two members that were started equally often are equal.
	ms := newCluster(t, 3)
	leader := leaderOf(t, ms...)
	follower := others(ms, leader)[0]
	w := &waiter{ch: make(chan struct{}, 1), deadline: follower.now() + time.Minute}
	follower.inbox.mu.Lock()
	next := follower.inbox.nextID
	for id := next - 50; id < next+50; id++ { // wherever the leader's counter stands
		follower.inbox.waiters[id] = w
	}
	follower.inbox.mu.Unlock()
	if _, _, err := leader.AddMember(soon(t), []string{"http://127.0.0.1:4"}, true); err != nil {
		t.Fatal(err)
	}
	if err := follower.ReadBarrier(soon(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.ch:
		t.Fatalf("a waiter of another member got the result %+v", w.result)
	default:
	}
	follower.inbox.mu.Lock()
	clear(follower.inbox.waiters)
	follower.inbox.mu.Unlock()
}
