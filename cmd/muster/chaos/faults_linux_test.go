package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// fault is a kind of thing that goes wrong.
type fault struct {
	name string
	// lethal ends processes. Such faults are left out of the first part of a
	// storm, in which the members must not grow.
	lethal bool
	// alone isn't combined with others: it needs a cluster that is well.
	alone bool
	// lasting goes on until it is ended; the others are over at once.
	lasting bool
	hold    time.Duration // how long; 0: up to five seconds
	begin   func(s *storm) (what string, end func())
}

func nothing() {}

// faults is every kind.
func faults() []fault {
	return []fault{
		// The wire. Host 0 are the clients, host i is member i.
		{name: "one cut off", lasting: true, begin: func(s *storm) (string, func()) {
			m := s.victim()
			return s.members[m-1].name, s.wire.both(rule{cut: true}, []int{m}, s.hosts())
		}},
		{name: "one cut off for long", lasting: true, hold: 26 * time.Second, begin: func(s *storm) (string, func()) {
			m := s.victim()
			return s.members[m-1].name, s.wire.both(rule{cut: true}, []int{m}, s.hosts())
		}},
		{name: "cut off from peers, not from clients", lasting: true, begin: func(s *storm) (string, func()) {
			m := s.victim()
			return s.members[m-1].name, s.wire.both(rule{cut: true}, []int{m}, s.peers())
		}},
		{name: "cut off from clients, not from peers", lasting: true, begin: func(s *storm) (string, func()) {
			m := s.victim()
			return s.members[m-1].name, s.wire.both(rule{cut: true}, []int{m}, []int{0})
		}},
		{name: "hears no peer", lasting: true, begin: func(s *storm) (string, func()) {
			m := s.victim()
			return s.members[m-1].name, s.wire.set(rule{cut: true}, s.peers(), []int{m})
		}},
		{name: "heard by no peer", lasting: true, begin: func(s *storm) (string, func()) {
			m := s.victim()
			return s.members[m-1].name, s.wire.set(rule{cut: true}, []int{m}, s.peers())
		}},
		{name: "two don't hear each other", lasting: true, begin: func(s *storm) (string, func()) {
			a := s.victim()
			b := 1 + a%len(s.members)
			return s.members[a-1].name + ", " + s.members[b-1].name, s.wire.both(rule{cut: true}, []int{a}, []int{b})
		}},
		{name: "no two hear each other", lasting: true, begin: func(s *storm) (string, func()) {
			return "all", s.wire.set(rule{cut: true}, s.peers(), s.peers())
		}},
		{name: "link down", lasting: true, begin: func(s *storm) (string, func()) {
			m := s.victim()
			s.must(s.wire.ip(m, "link set tun0 down"))
			return s.members[m-1].name, func() { s.must(s.wire.ip(m, "link set tun0 up")) }
		}},
		{name: "loss, delay, reordering, duplication", lasting: true, begin: func(s *storm) (string, func()) {
			r := rule{
				loss: 0.005 + 0.05*s.rng.Float64(), double: 0.02 * s.rng.Float64(),
				delay: s.upTo(20 * time.Millisecond), jitter: s.upTo(20 * time.Millisecond),
			}
			return "everywhere: " + r.String(), s.wire.set(r, s.hosts(), s.hosts())
		}},
		{name: "slow link", lasting: true, begin: func(s *storm) (string, func()) {
			m := s.victim()
			r := rule{rate: 200<<10 + s.rng.IntN(2<<20), delay: s.upTo(50 * time.Millisecond)}
			return s.members[m-1].name + ": " + r.String(), s.wire.both(r, []int{m}, s.hosts())
		}},

		// Processes that go on.
		{name: "one stopped and continued", lasting: true, begin: func(s *storm) (string, func()) {
			m := s.members[s.victim()-1]
			m.signal(syscall.SIGSTOP, false)
			return m.name, func() { m.signal(syscall.SIGCONT, false) }
		}},
		{name: "all stopped and continued", lasting: true, begin: func(s *storm) (string, func()) {
			for _, m := range s.members {
				m.signal(syscall.SIGSTOP, false)
			}
			return "all", func() {
				for _, m := range s.members {
					m.signal(syscall.SIGCONT, false)
				}
			}
		}},
		{name: "leader told to hand over", alone: true, begin: (*storm).transfer},

		// Processes that end.
		{name: "SIGKILL of one", lethal: true, begin: killing(anyOne)},
		{name: "SIGKILL of the leader", lethal: true, begin: killing(theLeader)},
		{name: "SIGKILL of two", lethal: true, begin: killing(anyTwo)},
		{name: "SIGKILL of all", lethal: true, begin: killing(all)},
		{name: "one away for a while", lethal: true, lasting: true, begin: func(s *storm) (string, func()) {
			m := s.members[s.victim()-1]
			s.took(m.down(syscall.SIGKILL))
			return m.name, m.up
		}},
		{name: "rolling restart, each awaited", lethal: true, alone: true, begin: func(s *storm) (string, func()) { return s.roll(true) }},
		{name: "rolling restart, none awaited", lethal: true, alone: true, begin: func(s *storm) (string, func()) { return s.roll(false) }},
		{name: "another monotonic clock", lethal: true, begin: (*storm).skew},
		{name: "member replaced", lethal: true, alone: true, begin: (*storm).replace},
		{name: "disk full", lethal: true, alone: true, begin: (*storm).fillDisk},
	}
}

func killing(v victims) func(s *storm) (string, func()) {
	return func(s *storm) (string, func()) {
		s.hit(s.rng, v, s.killed)
		return v.String(), nothing
	}
}

// victim is a member's number: as often the leader's as anybody's.
func (s *storm) victim() int {
	n := 1 + s.rng.IntN(len(s.members))
	if s.rng.IntN(2) == 0 {
		return n
	}
	leader := s.lookForLeader()
	for i, m := range s.members {
		if m == leader {
			n = i + 1
		}
	}
	return n
}

func (s *storm) upTo(d time.Duration) time.Duration { return time.Duration(s.rng.Int64N(int64(d))) }

// peers are all members' hosts, hosts the clients' too.
func (s *storm) peers() []int { return s.hosts()[1:] }

func (s *storm) hosts() []int {
	all := []int{0}
	for i := range s.members {
		all = append(all, i+1)
	}
	return all
}

func (s *storm) must(err error) {
	s.t.Helper()
	if err != nil {
		s.fail("%v", err)
		s.t.FailNow()
	}
}

func (s *storm) took(_ time.Duration, err error) {
	s.t.Helper()
	s.must(err)
}

// transfer asks the leader to make another member it.
func (s *storm) transfer() (string, func()) {
	leader := s.leader()
	to := s.members[s.rng.IntN(len(s.members))]
	for to == leader {
		to = s.members[s.rng.IntN(len(s.members))]
	}
	st, err := s.status(to)
	if err == nil {
		ctx, cancel := context.WithTimeout(s.cluster.ctx, 5*time.Second)
		defer cancel()
		_, err = s.etcdClient(leader.client).MoveLeader(ctx, st.Header.MemberId)
	}
	what := fmt.Sprintf("%s to %s", leader.name, to.name)
	if err != nil {
		what += fmt.Sprintf(" (%v)", err)
	}
	return what, nothing
}

// roll ends one member after the other with SIGTERM.
func (s *storm) roll(awaited bool) (string, func()) {
	var longest time.Duration
	for _, i := range s.rng.Perm(len(s.members)) {
		m := s.members[i]
		took, err := m.down(syscall.SIGTERM)
		s.must(err)
		longest = max(longest, took)
		m.up()
		if awaited {
			s.awaitReady(m)
		}
	}
	return fmt.Sprintf("SIGTERM obeyed within %v", ms(longest)), nothing
}

// skew starts a member whose monotonic and boot-time clocks are elsewhere.
func (s *storm) skew() (string, func()) {
	m := s.members[s.victim()-1]
	s.took(m.down(syscall.SIGKILL))
	offset := s.offset()
	m.mu.Lock()
	m.mu.offset = offset
	m.mu.Unlock()
	m.up()
	return fmt.Sprintf("%s by %v", m.name, offset), nothing
}

// offset is up to twelve days ahead, or a little behind: no clock may be negative.
func (s *storm) offset() time.Duration {
	return time.Duration(s.rng.IntN(1_000_000)-300) * time.Second
}

// replace removes a member, forgets its data and lets it join anew.
func (s *storm) replace() (string, func()) {
	s.awaitReady(s.members...)
	m := s.members[s.victim()-1]
	st, err := s.status(m)
	s.must(err)
	what := m.name + ", removed while it ran"
	if s.rng.IntN(2) == 0 {
		what = m.name + ", removed when it was dead"
		s.took(m.down(syscall.SIGKILL))
	}
	m.mu.Lock()
	m.mu.refusal = "removed" // it may say so before it is told to end
	m.mu.Unlock()
	s.change("the member is removed", func(ctx context.Context) error {
		_, err := s.admin.MemberRemove(ctx, st.Header.MemberId)
		if err != nil && s.listed(ctx, m) == 0 {
			return nil // the answer was lost
		}
		return err
	})
	s.took(m.down(syscall.SIGKILL))
	s.must(empty(m.dir))
	learner := s.rng.IntN(2) == 0
	s.change("the member is added", func(ctx context.Context) error {
		peer := []string{"http://" + m.peer}
		var err error
		if learner {
			_, err = s.admin.MemberAddAsLearner(ctx, peer)
		} else {
			_, err = s.admin.MemberAdd(ctx, peer)
		}
		if err != nil && s.listed(ctx, m) > 0 {
			return nil
		}
		return err
	})
	m.mu.Lock()
	m.mu.refusal, m.mu.state = "", "existing"
	m.mu.Unlock()
	m.up()
	if learner {
		what += ", a learner first"
		s.change("the learner is promoted", func(ctx context.Context) error {
			_, err := s.admin.MemberPromote(ctx, s.listed(ctx, m))
			return err
		})
	}
	s.awaitReady(m)
	return what, nothing
}

// change asks for a change of the membership until it is granted: the cluster
// refuses what could cost its quorum, and a learner that lags.
func (s *storm) change(what string, do func(context.Context) error) {
	s.t.Helper()
	s.await(what, func() error {
		ctx, cancel := context.WithTimeout(s.cluster.ctx, 5*time.Second)
		defer cancel()
		return do(ctx)
	})
}

// listed is the id under which the cluster knows a member's peer URL.
func (s *storm) listed(ctx context.Context, m *member) uint64 {
	r, err := s.admin.MemberList(ctx)
	if err != nil {
		return 0
	}
	for _, l := range r.Members {
		if len(l.PeerURLs) == 1 && l.PeerURLs[0] == "http://"+m.peer {
			return l.ID
		}
	}
	return 0
}

// empty removes what is in a directory, which may be a mount point.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(dir+"/"+e.Name()))
	}
	return err
}

// fillDisk leaves one member without room: it stops with one line. With room
// again it is started, as a supervisor would, and comes back by itself.
func (s *storm) fillDisk() (string, func()) {
	m := s.small
	s.awaitReady(m)
	m.mu.Lock()
	m.mu.refusal = "no space left on device"
	p := m.mu.proc
	m.mu.Unlock()
	s.must(s.disk.fill())
	began := time.Now()
	for n := 0; !p.Ended(); n++ { // the log has room in its present segment
		ctx, cancel := context.WithTimeout(s.cluster.ctx, callTime)
		_, _ = s.admin.Do(ctx, clientv3.OpPut(fmt.Sprintf("ballast/%d", n%64), fmt.Sprintf("%d filling %s", n, s.filling)))
		cancel()
		if time.Since(began) > patience() {
			s.fail("%s still runs %v after its disk was full", m.name, patience())
			s.t.FailNow()
		}
	}
	took := time.Since(began)
	if line := lastLine(p.Log()); line[:min(8, len(line))] != "muster: " {
		s.fail("%s ended with %q, want one line for its operator", m.name, line)
	}
	return fmt.Sprintf("%s stopped after %v", m.name, ms(took)), func() {
		s.must(s.disk.resize(volumeSize))
		m.mu.Lock()
		m.mu.refusal = ""
		m.mu.Unlock()
		m.up()
		s.awaitReady(m)
	}
}
