package simtest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/node"
)

// operator changes who belongs to the cluster, through members of its choice and
// knowing what they show. Its work stands among the kinds of fault: changes must
// go well beside everything else that happens.
type operator struct {
	w        *World
	requests []*request
	pending  int               // requests without an outcome
	names    map[uint64]string // of the hosts it set up, by the ids they were added under
	replaced *member           // is to be replaced and may be dead
	patience time.Duration     // how long it waits for an answer
}

// request is one change it asked for.
type request struct {
	via     string
	id      commandID
	change  membership.Change
	known   bool  // there was an answer,
	applied bool  // from the log rather than instead of it,
	err     error // and it was this
}

// refused: nothing was proposed, says the answer.
func (q *request) refused() bool {
	return q.known && !q.applied && q.err != nil && !errors.Is(q.err, node.ErrLeaderChanged)
}

// accepted: it was carried out.
func (q *request) accepted() bool { return q.known && q.applied && q.err == nil }

// requestTimeout is core/node's default.
const requestTimeout = 7 * time.Second

func (op *operator) init(w *World) {
	op.w, op.names, op.patience = w, map[uint64]string{}, cmp.Or(op.patience, requestTimeout)
}

// request asks for a change through a member, as Node.changeOnce does.
func (op *operator) request(via *member, c membership.Change, then func(*request)) {
	w := op.w
	q := &request{via: via.name, change: c}
	op.requests = append(op.requests, q)
	op.pending++
	over := false
	end := func(o outcome, known bool) {
		if over {
			return
		}
		over = true
		op.pending--
		q.known, q.applied, q.err = known, o.applied, o.err
		w.log.Info("answer", "at", w.now, "change", fmt.Sprintf("%+v", c), "known", known, "applied", o.applied, "error", o.err)
		if known {
			w.truth.roster.told(w, q)
		}
		if then != nil {
			then(q)
		}
	}
	via.do(via.life, func() {
		id := via.drawID()
		q.id = commandID{via.id, id}
		cc, err := machine.ConfChangeContext(machine.Command{ID: id, Member: via.id}, c)
		if err != nil {
			w.fail("encode %+v: %v", c, err)
			return
		}
		via.waiting[id] = func(o outcome) {
			op.confirm(via, via.life, c, o, func() { w.after(w.between(0, time.Millisecond), func() { end(o, true) }) })
		}
		via.step(func(s *node.Stepper) { s.ChangeMembers(id, via.clock()+op.patience, cc.GetContext()) })
	})
	w.after(op.patience, func() { end(outcome{}, false) })
}

// confirm is what Node.confirm does between a change's outcome and the answer.
func (op *operator) confirm(via *member, life int, c membership.Change, o outcome, then func()) {
	if !node.NeedsConfirmation(c) || !o.applied || o.err != nil || via.life == life && via.n.Removed() {
		then()
		return
	}
	via.do(life, func() {
		id := via.drawID()
		via.waiting[id] = func(confirmed outcome) {
			if confirmed.err == nil {
				then()
				return
			}
			op.w.after(tick, func() { op.confirm(via, life, c, o, then) })
		}
		via.hand(id, machine.Noop, nil)
	})
}

// judge holds what callers were told to the history once more, now that it is complete.
func (op *operator) judge() {
	for _, q := range op.requests {
		op.w.truth.roster.told(op.w, q)
	}
}

// via draws a member that serves, nil if there is none; the operator goes by its list.
func (op *operator) via() *member {
	var up []*member
	for _, m := range op.w.members {
		if m.up() && op.w.now >= m.pause && m.n.View().Index > 0 {
			up = append(up, m)
		}
	}
	if len(up) == 0 {
		return nil
	}
	return up[op.w.rng.IntN(len(up))]
}

// freshURL is one that nobody had before.
func (w *World) freshURL() string {
	w.urls++
	return fmt.Sprintf("http://h%d:2380", w.urls)
}

// most is how many members a cluster may grow to.
func (w *World) most() int { return w.opts.Members + 2 }

// add brings up a host and adds it, in this order or at the same time.
func (op *operator) add(via *member, url, name string, learner bool) bool {
	w := op.w
	v := via.n.View()
	if len(v.Members) >= w.most() || len(w.members) >= maxHosts || !learner && !op.mayAddVoter() {
		return false
	}
	peers := op.peersOf(via, name)
	c := membership.Change{Op: membership.AddVoter}
	if learner {
		c.Op = membership.AddLearner
	}
	urls := []string{url}
	c.Member = membership.Member{ID: via.n.FreshID(urls, via.cfg.Wall()), PeerURLs: urls, IsLearner: learner}
	op.names[c.Member.ID] = name
	host := w.newHost(url, name, peers)
	host.startIn(w.between(0, 3*time.Second))
	op.request(via, c, func(q *request) {
		if q.refused() || q.applied && q.err != nil {
			if host.id == c.Member.ID && c.Member.ID != 0 {
				w.fail("%s joined as %x, which was refused: %v", host.name, host.id, q.err)
			}
			host.retire()
		}
	})
	return true
}

// mayAddVoter: without strict checks nobody but the operator minds that the voter
// added before has not come up. With two such of four, and a change that cannot be
// committed in the logs of the others, nobody could vouch for either.
func (op *operator) mayAddVoter() bool {
	coming := func(p membership.Member) bool { return !p.IsLearner && op.w.memberOf(p.ID) == nil }
	return !op.w.shape.lax || op.pending == 0 && !slices.ContainsFunc(op.w.truth.roster.members, coming)
}

// peersOf is what a host's flags say of the others, by what a member shows.
func (op *operator) peersOf(via *member, name string) map[string][]string {
	peers := map[string][]string{}
	for _, p := range via.n.View().Members {
		if known := op.names[p.ID]; known != "" && known != name {
			peers[known] = p.PeerURLs
		}
	}
	return peers
}

// correct gives a host that finds nobody, or is not let in, the flags of today.
func (op *operator) correct(host *member) {
	if via := op.via(); via != nil {
		own := host.cfg.InitialCluster[host.cfg.Name]
		host.cfg.InitialCluster = op.peersOf(via, host.cfg.Name)
		host.cfg.InitialCluster[host.cfg.Name] = own
	}
}

// maxHosts bounds how many hosts a run uses up.
const maxHosts = 24

// listed draws a member that a list shows and that a condition holds for.
func (op *operator) listed(via *member, fits func(membership.Member) bool) (membership.Member, bool) {
	all := slices.DeleteFunc(slices.Clone(via.n.View().Members), func(m membership.Member) bool { return !fits(m) })
	if len(all) == 0 {
		return membership.Member{}, false
	}
	return all[op.w.rng.IntN(len(all))], true
}

func anyMember(membership.Member) bool { return true }

// notJustLost: what a leader says of a member whose host was lost a moment ago may be
// what was true before, and a vote for it could cost the quorum.
func (op *operator) notJustLost(p membership.Member) bool {
	host := op.w.memberOf(p.ID)
	return host == nil || !host.gone || op.w.now-host.goneSince > 5*time.Second
}

// operations are the kinds of membership change that a run draws from.
func operations() []faultKind {
	kind := func(name string, weight int, do func(op *operator, via *member) bool) faultKind {
		return faultKind{name, weight, func(w *World, _ *member) bool {
			via := w.operator.via()
			return via != nil && do(&w.operator, via)
		}}
	}
	return []faultKind{
		kind("add learner", 7, func(op *operator, via *member) bool {
			url := op.w.freshURL()
			return op.add(via, url, op.w.hostName(), true)
		}),
		kind("add voter", 4, func(op *operator, via *member) bool {
			url := op.w.freshURL()
			return op.add(via, url, op.w.hostName(), false)
		}),
		kind("promote", 9, (*operator).promote),
		kind("remove", 6, (*operator).remove),
		kind("replace", 5, (*operator).replace),
		kind("update peer URLs", 4, (*operator).move),
		kind("bad change", 3, (*operator).nonsense),
		kind("two changes at once", 3, (*operator).both),
		kind("changes while the leader changes", 3, (*operator).meanwhile),
	}
}

// hostName names the next host.
func (w *World) hostName() string { return fmt.Sprintf("m%d", len(w.members)) }

func (op *operator) promote(via *member) bool {
	m, ok := op.listed(via, func(p membership.Member) bool { return p.IsLearner && op.notJustLost(p) })
	if ok {
		op.request(via, membership.Change{Op: membership.Promote, Member: membership.Member{ID: m.ID}}, nil)
	}
	return ok
}

// remove takes a member out; a cluster that has shrunk is rather left to grow, and
// one of which a host is lost needs the others: the leader may not have noticed yet.
func (op *operator) remove(via *member) bool {
	if len(via.n.View().Members) < op.w.opts.Members && op.w.chance(0.8) {
		return false
	}
	lost := func(p membership.Member) bool { host := op.w.memberOf(p.ID); return host != nil && host.gone }
	m, ok := op.listed(via, anyMember)
	if !ok || !lost(m) && slices.ContainsFunc(op.w.truth.roster.members, lost) {
		return false
	}
	op.request(via, membership.Change{Op: membership.Remove, Member: membership.Member{ID: m.ID}}, nil)
	return true
}

// replace takes a member out, which may have lost its disk, and adds another one,
// perhaps on the same machine.
func (op *operator) replace(via *member) bool {
	w := op.w
	if op.replaced != nil || len(w.members) >= maxHosts {
		return false
	}
	m, ok := op.listed(via, anyMember)
	host := w.memberOf(m.ID)
	if !ok || host == nil || host.gone || w.truth.roster.voters() < 3 && !m.IsLearner {
		return false
	}
	op.replaced = host
	if w.chance(0.5) && op.canLose(host) {
		host.retire()
	}
	op.replaceStep(host, m, 5)
	return true
}

// canLose reports whether a host may be gone for good: if no change is under way
// that could count on it, and, should it vote, enough others are there. Without
// strict checks nobody would mind the next change either.
func (op *operator) canLose(host *member) bool {
	w := op.w
	underWay := func(q *request) bool {
		_, committed := w.truth.roster.verdicts[q.id]
		return !committed && !q.refused()
	}
	if w.shape.lax || slices.ContainsFunc(op.requests, underWay) {
		return false
	}
	there := 0
	for _, p := range w.truth.roster.members {
		if m := w.memberOf(p.ID); !p.IsLearner && m != nil && !m.gone && m != host {
			there++
		}
	}
	p := w.truth.roster.lookup(host.id)
	return p == nil || p.IsLearner || there > w.truth.roster.voters()/2
}

func (op *operator) replaceStep(host *member, m membership.Member, tries int) {
	w := op.w
	again := func() {
		if tries == 0 || w.calm {
			op.replaced = nil // what is dead and still listed is put right in the end
			return
		}
		w.after(time.Second, func() { op.replaceStep(host, m, tries-1) })
	}
	via := op.via()
	if via == nil {
		again()
		return
	}
	op.request(via, membership.Change{Op: membership.Remove, Member: membership.Member{ID: m.ID}}, func(q *request) {
		if !q.accepted() && !errors.Is(q.err, membership.ErrIDRemoved) && !errors.Is(q.err, membership.ErrIDNotFound) {
			again()
			return
		}
		op.replaced = nil
		url, name := w.freshURL(), w.hostName()
		if w.chance(0.5) { // the same machine, with an empty disk
			host.retire()
			url, name = m.PeerURLs[0], host.cfg.Name
		}
		if via := op.via(); via != nil && !w.calm && w.net.at[url] == nil {
			op.add(via, url, name, m.IsLearner || w.chance(0.5))
		}
	})
}

// move changes where a member is reached. Its host answers at both places until a
// while after that is agreed on.
func (op *operator) move(via *member) bool {
	w := op.w
	m, ok := op.listed(via, anyMember)
	host := w.memberOf(m.ID)
	if !ok || host == nil || host.gone {
		return false
	}
	url := w.freshURL()
	w.net.listen(url, host)
	op.request(via, membership.Change{Op: membership.UpdatePeer, Member: membership.Member{ID: m.ID, PeerURLs: []string{url}}}, func(q *request) {
		switch {
		case q.accepted():
			w.after(w.between(0, 3*time.Second), func() {
				for _, old := range m.PeerURLs {
					w.net.leave(old, host)
				}
			})
		case q.refused(), q.applied:
			w.net.leave(url, host)
		}
	})
	return true
}

// nonsense asks for what must be refused, by the leader or by every member alike.
func (op *operator) nonsense(via *member) bool {
	w := op.w
	m, ok := op.listed(via, op.notJustLost) // it may be a learner
	if !ok {
		return false
	}
	removed := uint64(42)
	if ids := via.n.View().RemovedMembers; len(ids) > 0 {
		removed = ids[w.rng.IntN(len(ids))]
	}
	fresh := membership.Member{ID: via.n.FreshID(m.PeerURLs, via.cfg.Wall()), PeerURLs: m.PeerURLs}
	changes := []membership.Change{
		{Op: membership.AddVoter, Member: membership.Member{ID: removed, PeerURLs: []string{w.freshURL()}}},
		{Op: membership.AddLearner, Member: fresh}, // no voter: the URL may be free by then
		{Op: membership.Promote, Member: membership.Member{ID: m.ID}},
		{Op: membership.Remove, Member: membership.Member{ID: removed}},
		{Op: membership.UpdatePeer, Member: membership.Member{ID: removed, PeerURLs: []string{w.freshURL()}}},
	}
	if removed == 42 {
		changes = changes[1:]
	}
	op.request(via, changes[w.rng.IntN(len(changes))], nil)
	return true
}

// both asks two members for a change each, at the same moment.
func (op *operator) both(via *member) bool {
	other := op.via()
	kinds := []func(*operator, *member) bool{(*operator).promote, (*operator).remove, (*operator).move, (*operator).nonsense}
	first := kinds[op.w.rng.IntN(len(kinds))](op, via)
	if other == nil || !other.up() {
		return first
	}
	return kinds[op.w.rng.IntN(len(kinds))](op, other) && first
}

// meanwhile has leadership handed over and asks for changes while that goes on:
// a new leader must take none before it has caught up with itself.
func (op *operator) meanwhile(*member) bool {
	w := op.w
	l := w.leader()
	if l == nil || w.now < l.pause {
		return false
	}
	l.step(func(s *node.Stepper) {
		if to := s.BestFollower(); to != 0 {
			s.TransferLeader(to)
		}
	})
	for range 5 {
		w.after(w.between(0, 200*time.Millisecond), func() {
			if via := op.via(); via != nil && !w.calm {
				op.nonsense(via)
			}
		})
	}
	return true
}

// tidy ends what the operator left undone: members that are listed and have no
// host are removed, also what nonsense let in because it was none by then. If that
// cost the quorum, a host is brought up instead. It goes on until the cluster is whole.
func (op *operator) tidy() {
	w := op.w
	w.after(time.Second, op.tidy)
	if op.pending > 0 {
		return
	}
	via := op.via()
	if via == nil {
		return
	}
	for _, p := range w.truth.roster.members { // first: without a leader nobody can be removed
		if w.leader() == nil && w.memberOf(p.ID) == nil && w.net.at[p.PeerURLs[0]] == nil {
			op.names[p.ID] = w.hostName()
			w.newHost(p.PeerURLs[0], op.names[p.ID], op.peersOf(via, op.names[p.ID])).start()
			return
		}
	}
	for _, p := range w.truth.roster.members {
		if host := w.memberOf(p.ID); host == nil && !op.comes(p) || host != nil && host.gone {
			op.request(via, membership.Change{Op: membership.Remove, Member: membership.Member{ID: p.ID}}, nil)
			return
		}
	}
}

// comes reports whether a host is about to join as a member that was added.
func (op *operator) comes(p membership.Member) bool {
	return slices.ContainsFunc(p.PeerURLs, func(u string) bool { m := op.w.net.at[u]; return m != nil && !m.gone && m.id == 0 })
}
