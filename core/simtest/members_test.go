package simtest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/vfs"
)

// campaign has the first member become leader at once.
func campaign(w *World) {
	w.after(5*time.Millisecond, func() { w.members[0].step(func(s *node.Stepper) { s.Campaign() }) })
}

// A frame may come twice: a change that was taken must not be taken again, nor
// must its copy have the asking member told that it was refused.
func TestACopyOfAForwardedChangeIsNeitherTakenNorCalledRefused(t *testing.T) {
	var asked *request
	w := prepare(t, Options{
		Seed: 1, Members: 3, Clients: 1, Duration: 3 * time.Second, shape: small(),
		script: func(w *World) {
			campaign(w)
			for i := range w.net.links {
				for j := range w.net.links[i] {
					w.net.links[i][j].duplicate, w.net.links[i][j].hi = 1, 50*time.Millisecond
				}
			}
			w.after(2*time.Second, func() {
				m := w.members[2]
				c := membership.Change{Op: membership.UpdatePeer, Member: membership.Member{ID: m.id, PeerURLs: []string{"http://elsewhere:2380"}}}
				w.net.listen("http://elsewhere:2380", m)
				w.operator.request(m, c, func(q *request) { asked = q })
			})
		},
	})
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	if asked == nil || !asked.accepted() {
		t.Fatalf("the change came to %+v", asked)
	}
}

// The removed member goes on answering for a moment: what it acknowledged last
// must be seen by reads of the one that is alone now, even if that applies slowly.
func TestALoneMemberReadsWhatTheRemovedOneAcknowledged(t *testing.T) {
	removed, reads := false, 0
	w := prepare(t, Options{
		Seed: 1, Members: 2, Clients: 1, Duration: 3 * time.Second, shape: small(), think: 10 * time.Second,
		script: func(w *World) {
			campaign(w)
			const at = 2 * time.Second
			w.after(at, func() {
				alone, leaves := w.members[0], w.members[1]
				alone.lag = 20 * time.Millisecond
				w.operator.request(leaves, membership.Change{Op: membership.Remove, Member: membership.Member{ID: leaves.id}}, func(q *request) { removed = q.accepted() })
			})
			w.after(at+5*time.Millisecond, func() {
				leaves := w.members[1]
				id := leaves.drawID()
				leaves.waiting[id] = func(o outcome) { w.acked = max(w.acked, o.res.Rev) }
				leaves.propose(id, machine.Put, &pb.PutRequest{Key: []byte("last"), Value: []byte("word")})
			})
			for i := range 60 {
				w.after(at+time.Duration(i)*time.Millisecond, func() {
					alone, floor := w.members[0], w.acked
					id := alone.drawID()
					alone.waiting[id] = func(o outcome) {
						reads++
						w.truth.read(w, alone, o.view, floor, []string{"last"})
					}
					alone.read(id)
				})
			}
		},
	})
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	if !removed || reads != 60 || w.acked < 2 {
		t.Fatalf("removed: %v, %d reads, revision %d acknowledged", removed, reads, w.acked)
	}
}

// raft makes an empty entry of a change that comes before the one before it is
// applied, or before its leader has applied its term's first entry, and tells
// nobody. The truth fails a run with such an entry; and every caller has an answer.
func TestChangesThatRaftWouldRefuseAreRefusedByNameOrWait(t *testing.T) {
	w := prepare(t, Options{
		Seed: 8, Members: 3, Clients: 2, Duration: 6 * time.Second, shape: small(),
		script: func(w *World) {
			campaign(w)
			ask := func(i int) {
				for _, m := range w.members {
					if m.up() {
						urls := []string{fmt.Sprintf("http://%s-%d:2380", m.name, i)}
						w.net.listen(urls[0], m)
						w.operator.request(m, membership.Change{Op: membership.UpdatePeer, Member: membership.Member{ID: m.id, PeerURLs: urls}}, nil)
					}
				}
			}
			w.after(time.Second, func() {
				for _, m := range w.members {
					m.lag = 30 * time.Millisecond
				}
			})
			for i := range 40 { // while the first leads, and while the next one begins
				w.after(1100*time.Millisecond+time.Duration(i)*5*time.Millisecond, func() { ask(i) })
				w.after(2500*time.Millisecond+time.Duration(i)*40*time.Millisecond, func() { ask(100 + i) })
			}
			w.after(2500*time.Millisecond, func() { w.leader().crash(killed) })
		},
	})
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	outcomes := map[string]int{}
	for _, q := range w.operator.requests {
		switch {
		case !q.known:
			outcomes["unknown"]++
		case q.accepted():
			outcomes["accepted"]++
		case errors.Is(q.err, node.ErrChangeUnderWay):
			outcomes["under way"]++
		default:
			outcomes[q.err.Error()]++
		}
	}
	// Three were asked of the leader that died.
	if outcomes["accepted"] < 5 || outcomes["under way"] < 50 || outcomes["unknown"] > 3 {
		t.Fatalf("the changes came to %v", outcomes)
	}
	t.Log(outcomes)
}

// freedURL has a host start on a removed member's URL before it is added, while the
// only peer it reaches lags: to that one the removed member, which has not told its
// name, looks like one that was added and never ran.
func freedURL(o *Options) {
	o.Members, o.Clients, o.Duration, o.shape = 3, 2, 15*time.Second, small()
	o.shape.lax = true // or the removal would be refused while so few have told their names
	o.script = func(w *World) {
		leaves, lags, stays := w.members[0], w.members[1], w.members[2]
		url, name := leaves.urls[0], leaves.cfg.Name
		remove := membership.Change{Op: membership.Remove, Member: membership.Member{ID: leaves.id}}
		add := membership.Change{Op: membership.AddVoter, Member: membership.Member{ID: 7, PeerURLs: []string{url}}}
		w.after(5*time.Millisecond, func() { stays.step(func(s *node.Stepper) { s.Campaign() }) })
		w.after(time.Millisecond, func() { lags.crash(killed) })
		w.after(2*time.Second, func() {
			w.operator.request(stays, remove, nil)
			onceListed(w, stays, func(p membership.Member) bool { return p.ID == leaves.id }, false, func() {
				leaves.retire()
				stays.crash(killed)
				lags.startIn(0)
				w.newHost(url, name, map[string][]string{lags.cfg.Name: lags.urls}).startIn(time.Millisecond)
			})
		})
		w.after(6*time.Second, func() { stays.startIn(0) })
		w.after(12*time.Second, func() { w.operator.request(stays, add, nil) })
	}
}

// played is the world in which a run of this kind has ended well.
func played(t *testing.T, kind func(*Options)) *World {
	t.Helper()
	opts := Options{Seed: 1}
	kind(&opts)
	w := prepare(t, opts)
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	return w
}

// Taking the id, the new host would vote a second time, and entries would be lost.
func TestAHostOnARemovedMembersURLDoesNotTakeItsID(t *testing.T) {
	w := played(t, freedURL)
	if host := w.members[3]; host.id != 7 {
		t.Fatalf("the host is %x after it was added as 7", host.id)
	}
}

// As in seed 1795380361950358950: the one that stays loses its power as soon as its
// list shows that the other is removed, and the other is gone. It could find out from
// nobody that this was committed.
func TestTheMemberThatStaysRemembersThatItIsAlone(t *testing.T) {
	for _, stays := range []int{0, 1} { // the leader, or the one that it hands over to
		w := prepare(t, Options{
			Seed: 1, Members: 2, Clients: 1, Duration: 3 * time.Second, shape: small(), think: 10 * time.Second,
			script: func(w *World) {
				campaign(w)
				w.after(2*time.Second, func() {
					m, leaves := w.members[stays], w.members[1-stays]
					insist(w, membership.Change{Op: membership.Remove, Member: membership.Member{ID: leaves.id}}, func() {})
					onceListed(w, m, func(p membership.Member) bool { return p.ID == leaves.id }, false, func() {
						leaves.retire()
						m.crash(crashMode(vfs.CrashDrop))
						m.startIn(10 * time.Millisecond)
					})
				})
			},
		})
		if err := w.run(); err != nil {
			t.Errorf("member %d stays: %v", stays, err)
		}
	}
}

// overtaken has a member apply the addition of a learner so slowly that a checkpoint
// overtakes it, in which the learner is a voter.
func overtaken(o *Options) {
	o.Members, o.Clients, o.Duration, o.shape = 3, 3, 10*time.Second, small()
	o.think = 20 * time.Millisecond
	o.script = func(w *World) {
		leads, lags := w.members[0], w.members[2]
		campaign(w)
		learner := membership.Member{ID: 7, PeerURLs: []string{"http://h1:2380"}, IsLearner: true}
		w.after(2*time.Second, func() {
			host := w.newHost("http://h1:2380", "m3", map[string][]string{"m0": leads.urls, "m1": w.members[1].urls})
			host.startIn(10 * time.Millisecond)
			lags.lag = 2 * time.Second
			w.operator.request(leads, membership.Change{Op: membership.AddLearner, Member: learner}, nil)
		})
		w.after(2200*time.Millisecond, func() { lags.lag = 0; w.cutOff(lags.slot) })
		var promote func()
		promote = func() {
			w.operator.request(leads, membership.Change{Op: membership.Promote, Member: learner}, func(q *request) {
				if !q.accepted() {
					w.after(50*time.Millisecond, promote)
				}
			})
		}
		w.after(2500*time.Millisecond, promote)
		w.after(3200*time.Millisecond, func() {
			for _, m := range w.members {
				if m.up() && m != lags {
					m.save(m.n.View())
				}
			}
		})
		w.after(3300*time.Millisecond, w.net.repair)
	}
}

// As in seed 1795380361950353418.
func TestAChangeThatACheckpointOvertookIsNotMadeAgain(t *testing.T) {
	w := played(t, overtaken)
	if n := w.stats.Seen["checkpoint installed"]; n < 2 {
		t.Fatalf("%d checkpoints were installed, want one on the new host and one on the member that lags", n)
	}
}

// As in seed 1795385918138070330: a leader that stood still has heard nobody for a
// while. It must not take a member that serves for one that is down.
func TestALeaderThatStoodStillRemovesNobody(t *testing.T) {
	var asked *request
	w := prepare(t, Options{
		Seed: 1, Members: 3, Clients: 1, Duration: 8 * time.Second, shape: small(),
		script: func(w *World) {
			campaign(w)
			w.after(3*time.Second, func() {
				l, other := w.members[0], w.members[1]
				w.cutOff(l.slot)
				l.pause = w.now + 3*time.Second
				life := l.life
				w.operator.request(l, membership.Change{Op: membership.Remove, Member: membership.Member{ID: other.id}}, func(q *request) { asked = q })
				w.after(3*time.Second, func() { l.wake(life) })
				w.after(4*time.Second, w.net.repair)
			})
		},
	})
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	if asked == nil || !errors.Is(asked.err, node.ErrUnhealthy) {
		t.Fatalf("the request came to %+v, want ErrUnhealthy", asked)
	}
}

// As in seed 1795404939319584473: a leader that stood still knows how far a learner
// was, and not that it is gone. With its vote the leader would be alone of two.
func TestALeaderThatStoodStillPromotesNobodyThatIsGone(t *testing.T) {
	var asked *request
	w := prepare(t, Options{
		Seed: 1, Members: 1, Clients: 1, Duration: 8 * time.Second, shape: small(),
		script: func(w *World) {
			l := w.members[0]
			w.after(time.Second, func() {
				admit(w, "http://new:2380", true, func(id uint64) {
					w.after(2*time.Second, func() {
						l.pause = w.now + 3*time.Second
						life := l.life
						w.after(3*time.Second, func() { l.wake(life) })
						w.operator.request(l, membership.Change{Op: membership.Promote, Member: membership.Member{ID: id}}, func(q *request) { asked = q })
						w.after(time.Second, w.memberOf(id).retire) // the leader is yet to read what it sent
					})
				})
			})
		},
	})
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	if asked == nil || !errors.Is(asked.err, node.ErrLearnerNotReady) {
		t.Fatalf("the request came to %+v, want ErrLearnerNotReady", asked)
	}
}

// As in seed 1795386514697609844: the one of two that lags loses its power when the
// checkpoint is on its disk and the leader has not heard so. It comes back where the
// leader stands, and nothing can be committed without it: the same checkpoint is offered again.
func TestAMemberThatIsOfferedWhatItHasSaysWhereItStands(t *testing.T) {
	s := small()
	s.lax = true // the third one is removed while the second is away
	w := prepare(t, Options{
		Seed: 1, Members: 3, Clients: 2, Duration: 8 * time.Second, shape: s,
		script: func(w *World) {
			leads, lags, leaves := w.members[0], w.members[1], w.members[2]
			campaign(w)
			w.noBreaks = true
			w.after(500*time.Millisecond, func() { w.cutOff(lags.slot) })
			w.after(2*time.Second, func() {
				w.operator.request(leads, membership.Change{Op: membership.Remove, Member: membership.Member{ID: leaves.id}}, func(q *request) {
					leaves.retire()
					leads.save(leads.n.View())
					w.net.repair()
				})
			})
			// The process ends between the rename and the sync of the directory.
			lags.failNext(vfs.OpSyncDir, "checkpoints", errEIO)
			var watch func()
			watch = func() {
				if names, _ := lags.mem.ReadDir("data/checkpoints"); len(names) < 2 {
					w.after(time.Millisecond, watch)
					return
				}
				lags.crash(killed)
				lags.disk.fail = nil
				lags.startIn(10 * time.Millisecond)
			}
			w.after(3*time.Second, watch)
		},
	})
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	if w.stats.Seen["checkpoint received"] == 0 {
		t.Fatal("no checkpoint was sent")
	}
}

// onceListed goes on as soon as a member's list has a member like that, or has none any
// more. The answer to a change comes later, if at all.
func onceListed(w *World, m *member, is func(membership.Member) bool, listed bool, then func()) {
	if slices.ContainsFunc(m.n.View().Members, is) != listed {
		w.after(10*time.Microsecond, func() { onceListed(w, m, is, listed, then) })
		return
	}
	then()
}

// moving is a cluster of three that loses its leader, member 0, as soon as its list shows
// that member 1 has moved, which is gone from where it was. (An answer would come later.)
type moving struct {
	lags    int  // the follower that has not heard of it
	restart bool // both lose their power, too, and come back
}

func (c moving) play(o *Options) {
	const url = "http://moved:2380"
	o.Members, o.Clients, o.Duration, o.shape, o.think = 3, 1, 16*time.Second, small(), time.Minute
	o.script = func(w *World) {
		campaign(w)
		leads, moves := w.members[0], w.members[1]
		was, moved := moves.urls[0], false
		fall := func() {
			moved = true
			w.net.leave(was, moves)
			w.net.repair()
			leads.crash(killed)
			for _, m := range w.members[1:] {
				if c.restart {
					m.crash(crashMode(vfs.CrashDrop))
					m.startIn(10 * time.Millisecond)
				}
			}
		}
		w.after(time.Second, func() {
			w.cutOff(c.lags)
			w.net.listen(url, moves)
			change := membership.Change{Op: membership.UpdatePeer, Member: membership.Member{ID: moves.id, PeerURLs: []string{url}}}
			w.operator.request(leads, change, nil)
			onceListed(w, leads, func(p membership.Member) bool { return p.PeerURLs[0] == url }, true, fall)
		})
		mustBeLedWithout(w, leads, 8*time.Second, &moved)
	}
}

// mustBeLedWithout wants something to have been done, and another leader to be there, at a
// time after the one that did it was lost. It comes back then.
func mustBeLedWithout(w *World, lost *member, at time.Duration, done *bool) {
	w.after(at, func() {
		if !*done || w.leader() == nil {
			w.fail("it was done: %v; there is a leader: %v", *done, w.leader() != nil)
		}
		lost.startIn(0)
	})
}

// As in seed 1795412641844833767: of those who are left nobody knows that the move is
// committed. It stands in the log of one of them, who must find the other, or be found.
func TestAMemberWhoseMoveStandsInTheLogIsFound(t *testing.T) {
	for name, c := range map[string]moving{
		"by the one that has it":               {lags: 1},
		"by the one that has it, restarted":    {lags: 1, restart: true},
		"by the one that lags":                 {lags: 2},
		"by the one that lags, both restarted": {lags: 2, restart: true},
	} {
		t.Run(name, func(t *testing.T) { played(t, c.play) })
	}
}

// As in seed 1795391964691929025: a voter was added that no host is, and with it the
// quorum went, while a learner's host is lost as well.
func TestTheOperatorRestoresTheQuorumBeforeItRemovesAnybody(t *testing.T) {
	w := prepare(t, Options{
		Seed: 1, Members: 1, Clients: 1, Duration: 6 * time.Second, shape: small(),
		script: func(w *World) {
			campaign(w)
			w.after(time.Second, func() {
				m := w.members[0]
				host := w.newHost("http://h1:2380", "m1", map[string][]string{m.cfg.Name: m.urls})
				host.startIn(0)
				learner := membership.Member{ID: 5, PeerURLs: []string{"http://h1:2380"}, IsLearner: true}
				w.operator.request(m, membership.Change{Op: membership.AddLearner, Member: learner}, nil)
				w.after(3*time.Second, func() {
					if host.id != learner.ID {
						w.fail("the host is %x after it was added as 5", host.id)
					}
					host.retire()
					voter := membership.Member{ID: 7, PeerURLs: []string{"http://h2:2380"}}
					w.operator.request(m, membership.Change{Op: membership.AddVoter, Member: voter}, nil)
				})
			})
		},
	})
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	if w.memberOf(7) == nil || w.truth.roster.lookup(5) != nil {
		t.Fatalf("the members are %+v", w.truth.roster.members)
	}
}

// A change counts where it is applied, and those who are left know it from their logs
// only: as soon as it is acknowledged, most of them must be sure to apply it, even if
// the leader is lost at that moment, they lose their power, and who was removed is gone.
func TestAnAcknowledgedChangeCountsAfterAPowerCutWithoutTheLeader(t *testing.T) {
	for name, c := range map[string]unled{"promotion": {2, promotesLast}, "removal": {4, removesLast}} {
		t.Run(name, func(t *testing.T) { played(t, c.play) })
	}
}

func promotesLast(w *World) membership.Change {
	return membership.Change{Op: membership.Promote, Member: membership.Member{ID: w.members[len(w.members)-1].id}}
}

func removesLast(w *World) membership.Change {
	return membership.Change{Op: membership.Remove, Member: membership.Member{ID: w.members[len(w.members)-1].id}}
}

// unled is a cluster that loses its leader as soon as that has acknowledged a change.
type unled struct {
	members int // with two, there is a learner
	change  func(w *World) membership.Change
}

func (c unled) play(o *Options) {
	o.Members, o.Clients, o.Duration, o.shape, o.think = c.members, 1, 16*time.Second, small(), time.Minute
	o.shape.lax = true // nobody has been there for long
	o.script = func(w *World) {
		campaign(w)
		a, accepted := w.members[0], false
		if c.members == 2 {
			w.after(time.Second, func() {
				l := w.newHost("http://h1:2380", "m2", map[string][]string{a.cfg.Name: a.urls})
				add := membership.Change{Op: membership.AddLearner, Member: membership.Member{ID: 7, PeerURLs: []string{"http://h1:2380"}, IsLearner: true}}
				w.operator.request(a, add, func(*request) { l.startIn(0) })
			})
		}
		w.after(4*time.Second, func() {
			w.operator.request(a, c.change(w), func(q *request) {
				accepted = q.accepted()
				a.crash(killed)
				for _, m := range w.members[1:] {
					if q.change.Op == membership.Remove && m.id == q.change.Member.ID {
						m.retire()
						continue
					}
					m.crash(crashMode(vfs.CrashDrop))
					m.startIn(10 * time.Millisecond)
				}
			})
		})
		mustBeLedWithout(w, a, 12*time.Second, &accepted)
	}
}

// As in seed 1795414957838888623: the only one that answers a joiner was removed and
// cannot hear of it, and those whom it names have moved.
func TestTheOperatorCorrectsTheFlagsOfAHostThatIsNotLetIn(t *testing.T) {
	w := played(t, func(o *Options) {
		o.Members, o.Clients, o.Duration, o.shape = 3, 1, 12*time.Second, small()
		o.shape.lax = true
		o.script = func(w *World) {
			a, b, c := w.members[0], w.members[1], w.members[2]
			campaign(w)
			w.after(time.Second, func() { w.cutOff(c.slot) })
			w.after(1100*time.Millisecond, func() {
				insist(w, membership.Change{Op: membership.Remove, Member: membership.Member{ID: c.id}}, func() {
					depart(w, a, "http://h10:2380", func() {
						depart(w, b, "http://h11:2380", func() {
							w.net.repair()
							host := w.newHost("http://h12:2380", "m3", map[string][]string{c.cfg.Name: c.urls})
							host.startIn(0)
							learner := membership.Member{ID: 7, PeerURLs: []string{"http://h12:2380"}, IsLearner: true}
							w.operator.request(a, membership.Change{Op: membership.AddLearner, Member: learner}, nil)
						})
					})
				})
			})
		}
	})
	if w.memberOf(7) == nil {
		t.Fatalf("the members are %+v", w.truth.roster.members)
	}
}

// depart moves a member and leaves its URL.
func depart(w *World, m *member, url string, then func()) {
	was := m.urls[0]
	w.net.listen(url, m)
	insist(w, membership.Change{Op: membership.UpdatePeer, Member: membership.Member{ID: m.id, PeerURLs: []string{url}}}, func() {
		w.net.leave(was, m)
		then()
	})
}
