package simtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/node"
)

// How a host comes into the cluster and leaves it: what core/node's goroutines
// and the operator's supervisor do around a node.Member.

// newHost adds a host that is to join: url is where it will be reached, name
// what its flags call it, peers whom it is told of.
func (w *World) newHost(url, name string, peers map[string][]string) *member {
	m := newMember(w, len(w.members))
	w.members = append(w.members, m)
	w.net.grow()
	m.cfg.Name, m.cfg.Join, m.cfg.InitialCluster = name, true, peers
	m.cfg.InitialCluster[name] = []string{url}
	w.net.listen(url, m)
	if w.onMember != nil {
		w.onMember(m)
	}
	return m
}

// ask is how a joiner learns about the cluster from the host at a URL.
func (m *member) ask(_ context.Context, url string) ([]byte, error) {
	r := m.w.net.at[url]
	if r == nil || !r.up() || m.w.now < r.pause || !m.w.net.reaches(m, r) {
		return nil, errNobody
	}
	return r.n.Info()
}

var errNobody = errors.New("nobody answers")

// notJoined reports whether a member could not be opened because the cluster
// does not let it in, or not yet.
func (m *member) notJoined(err error) bool {
	w := m.w
	switch {
	case errors.Is(err, node.ErrRemoved):
		if !w.truth.roster.isRemoved(m.id) {
			w.fail("%s takes itself for removed, which it was not: %v", m.name, err)
		}
		w.stats.Seen["start after removal refused"]++
		m.retire()
	case m.id != 0:
		return false
	case errors.Is(err, node.ErrNoPeer), errors.Is(err, node.ErrNotAdded), errors.Is(err, node.ErrTooFewPeers), errors.Is(err, node.ErrLostData):
		// Cut off, or too early: the supervisor tries again.
		w.stats.Seen["join refused"]++
		if errors.Is(err, node.ErrNoPeer) || w.calm { // who answers may have been removed, and not know
			w.operator.correct(m)
		}
		m.mem.Kill()
		m.startIn(w.between(100*time.Millisecond, 2*time.Second))
	default:
		return false
	}
	return true
}

// introduce tells the cluster this member's name; see Node.publishSelf.
func (m *member) introduce(life int) {
	if m.life != life || !m.up() || m.named {
		return
	}
	m.do(life, func() {
		id := m.drawID()
		m.waiting[id] = func(o outcome) {
			if o.err != nil {
				return
			}
			for _, p := range o.view.Members {
				m.named = m.named || p.ID == m.id && p.Name == m.cfg.Name
			}
			if m.named {
				return
			}
			m.w.after(0, func() {
				m.do(life, func() {
					m.hand(m.drawID(), machine.MemberAttributes, machine.EncodeMemberAttributes(m.id, m.cfg.Name, m.cfg.ClientURLs))
				})
			})
		}
		m.read(id)
	})
	m.w.after(time.Second, func() { m.introduce(life) })
}

// leave ends a removed member an election time-out later; see Node.leave.
func (m *member) leave() {
	if m.leaving == m.life {
		return
	}
	m.leaving = m.life
	life, stays := m.life, 0
	var stay func()
	stay = func() {
		if stays++; m.n.MayBeNeeded() && m.outlawed != life && stays < 30 {
			m.w.after(electionTicks*tick, func() { m.do(life, stay) })
			return
		}
		m.left()
	}
	m.w.after(electionTicks*tick, func() { m.do(life, stay) })
}

// left ends a removed member as Node.Close does. Some supervisors start it once
// more, and it must find out.
func (m *member) left() {
	w := m.w
	w.note('x', m.slot, nil)
	w.stats.Seen["removed member stopped"]++
	err := m.n.SaveFinal(context.Background())
	if m.dead {
		m.die(err)
		return
	}
	if err != nil && !m.disk.hurt {
		w.fail("%s cannot write its last checkpoint: %v", m.name, err)
		return
	}
	err = m.n.Release()
	m.stop()
	if err != nil && !m.dead && !m.disk.hurt {
		w.fail("%s: %v", m.name, err)
		return
	}
	if m.dead || m.disk.hurt || w.chance(0.4) && m.departures < 3 {
		m.departures++
		if m.dead {
			m.lose(w.crashMode())
		} else {
			m.mem.Kill()
		}
		m.startIn(w.between(10*time.Millisecond, 3*time.Second))
		return
	}
	m.retire()
}

// retire ends a host for good.
func (m *member) retire() {
	m.crash(killed)
	m.gone, m.goneSince = true, m.w.now
	for len(m.urls) > 0 {
		m.w.net.leave(m.urls[0], m)
	}
}

// hosts are those that are not gone for good.
func (w *World) hosts() []*member {
	var all []*member
	for _, m := range w.members {
		if !m.gone {
			all = append(all, m)
		}
	}
	return all
}

// anyone is a host drawn at random.
func (w *World) anyone() *member {
	all := w.hosts()
	return all[w.rng.IntN(len(all))]
}

// memberOf finds the host that is a member, nil if none ever was.
func (w *World) memberOf(id uint64) *member {
	for _, m := range w.members {
		if m.id == id {
			return m
		}
	}
	return nil
}

// unsettledMembers says what is still missing of a membership that all agree on.
func (w *World) unsettledMembers() (left []string) {
	for _, p := range w.truth.roster.members {
		m := w.memberOf(p.ID)
		switch {
		case m == nil || m.gone:
			left = append(left, fmt.Sprintf("member %x of %v is not there", p.ID, p.PeerURLs))
		case !m.up():
			left = append(left, m.name+" is down")
		case m.n.View().Index < w.truth.applies:
			left = append(left, fmt.Sprintf("%s applied %d of %d", m.name, m.n.View().Index, w.truth.applies))
		case p.Name != m.cfg.Name:
			left = append(left, m.name+" is not known by its name")
		}
	}
	for _, m := range w.hosts() {
		if m.up() && w.truth.roster.lookup(m.id) == nil && m.canHear() {
			left = append(left, m.name+" was removed and runs on")
		}
	}
	return left
}

// canHear reports whether somebody this member knows could tell it of its removal.
func (m *member) canHear() bool {
	for _, p := range m.w.truth.roster.members {
		if r := m.dial(p.ID); r != nil {
			return true
		}
	}
	return false
}
