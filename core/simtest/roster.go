package simtest

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
)

// roster is who belongs to the cluster by the committed history, by rules of its
// own (etcd's). Every member's list is held to it.
type roster struct {
	members     []membership.Member // by id; replaced, never modified
	removed     []uint64            // in order; likewise
	maxLearners int

	past     []rosterAt          // each state, and from which index on it stood
	verdicts map[commandID]error // what became of each change that was committed
	added    map[uint64]bool     // ids ever added: none comes twice
}

type rosterAt struct {
	index   uint64
	members []membership.Member
	removed []uint64
}

// found begins with the initial cluster, which stands at index 1.
func (r *roster) found(members []membership.Member, maxLearners int) {
	r.members, r.maxLearners = members, maxLearners
	r.verdicts, r.added = map[commandID]error{}, map[uint64]bool{}
	for _, m := range members {
		r.added[m.ID] = true
	}
	r.keep(1)
}

func (r *roster) keep(index uint64) { r.past = append(r.past, rosterAt{index, r.members, r.removed}) }

// at is who belonged to the cluster after an index.
func (r *roster) at(index uint64) rosterAt {
	i := sort.Search(len(r.past), func(i int) bool { return r.past[i].index > index })
	return r.past[i-1]
}

func (r *roster) isRemoved(id uint64) bool { return slices.Contains(r.removed, id) }

func (r *roster) lookup(id uint64) *membership.Member {
	for i := range r.members {
		if r.members[i].ID == id {
			return &r.members[i]
		}
	}
	return nil
}

func (r *roster) voters() int {
	n := 0
	for _, m := range r.members {
		if !m.IsLearner {
			n++
		}
	}
	return n
}

// change carries out a committed configuration change and returns the refusal, if any.
func (r *roster) change(index uint64, c membership.Change) error {
	err := r.judge(c)
	if err != nil {
		return err
	}
	members := slices.Clone(r.members)
	i := slices.IndexFunc(members, func(m membership.Member) bool { return m.ID == c.Member.ID })
	switch c.Op {
	case membership.AddVoter, membership.AddLearner:
		m := c.Member
		m.IsLearner = c.Op == membership.AddLearner
		members = append(members, m)
		slices.SortFunc(members, func(a, b membership.Member) int {
			if a.ID < b.ID {
				return -1
			}
			return 1
		})
		r.added[m.ID] = true
	case membership.Promote:
		members[i].IsLearner = false
	case membership.UpdatePeer:
		members[i].PeerURLs = c.Member.PeerURLs
	case membership.Remove:
		members = slices.Delete(members, i, i+1)
		r.removed = slices.Sorted(slices.Values(append(slices.Clone(r.removed), c.Member.ID)))
	}
	r.members = members
	r.keep(index)
	return nil
}

func (r *roster) judge(c membership.Change) error {
	id, m := c.Member.ID, r.lookup(c.Member.ID)
	adds := c.Op == membership.AddVoter || c.Op == membership.AddLearner
	taken := slices.ContainsFunc(r.members, func(o membership.Member) bool {
		return o.ID != id && slices.ContainsFunc(o.PeerURLs, func(u string) bool { return slices.Contains(c.Member.PeerURLs, u) })
	})
	switch {
	case r.isRemoved(id):
		return membership.ErrIDRemoved
	case adds && m != nil:
		return membership.ErrIDExists
	case !adds && m == nil:
		return membership.ErrIDNotFound
	case taken:
		return membership.ErrPeerURLExists
	case c.Op == membership.AddLearner && len(r.members)-r.voters() >= r.maxLearners:
		return membership.ErrTooManyLearners
	case c.Op == membership.Promote && !m.IsLearner:
		return membership.ErrNotLearner
	case c.Op == membership.Remove && !m.IsLearner && r.voters() == 1:
		return membership.ErrLastVoter
	}
	return nil
}

// introduced notes that a member told its name.
func (r *roster) introduced(index uint64, body []byte) error {
	var req membershippb.ClusterMemberAttrSetRequest
	if err := proto.Unmarshal(body, &req); err != nil {
		return err
	}
	i := slices.IndexFunc(r.members, func(m membership.Member) bool { return m.ID == req.GetMember_ID() })
	if i < 0 {
		return nil // it was removed meanwhile
	}
	r.members = slices.Clone(r.members)
	r.members[i].Name, r.members[i].ClientURLs = req.GetMemberAttributes().GetName(), req.GetMemberAttributes().GetClientUrls()
	r.keep(index)
	return nil
}

// reconfigure carries out a configuration change that nobody applied before.
func (t *truth) reconfigure(w *World, m *member, e *raftpb.Entry) {
	cc := new(raftpb.ConfChangeV2)
	var c machine.ChangeCommand
	err := proto.Unmarshal(e.GetData(), cc)
	if err == nil {
		c, err = machine.ParseChangeCommand(cc.GetContext())
	}
	if err != nil {
		w.fail("%s: entry %d is not a configuration change: %v", m.name, e.GetIndex(), err)
		return
	}
	id := commandID{c.Member, c.ID}
	if _, again := t.roster.verdicts[id]; again {
		w.fail("%s: the change %v of member %x stands in the log twice, again at %d", m.name, c.Change, c.Member, e.GetIndex())
	}
	wasThere := t.roster.added[c.Change.Member.ID]
	verdict := t.roster.change(e.GetIndex(), c.Change)
	t.roster.verdicts[id] = verdict
	w.log.Info("change", "at", w.now, "index", e.GetIndex(), "change", fmt.Sprintf("%+v", c.Change), "verdict", verdict)
	if verdict != nil {
		w.stats.Seen["change refused by all"]++
		return
	}
	w.stats.Seen["members changed"]++
	adds := c.Change.Op == membership.AddVoter || c.Change.Op == membership.AddLearner
	if adds && wasThere {
		w.fail("%s: id %x came back at index %d", m.name, c.Change.Member.ID, e.GetIndex())
	}
	if host := w.memberOf(c.Change.Member.ID); c.Change.Op == membership.Promote && (host == nil || host.written == 0) {
		w.fail("%s: a learner that has nothing of the log was promoted at index %d", m.name, e.GetIndex())
	}
}

// listed holds a member's list, and what raft makes of it, to the committed one.
func (t *truth) listed(w *World, m *member) {
	v := m.n.View()
	if v.Index == 0 {
		return // it is yet to be brought up
	}
	seen := listing{v.ConfState, len(v.RemovedMembers), nil}
	if len(v.Members) > 0 {
		seen.first = &v.Members[0]
	}
	if seen == m.seen {
		return
	}
	m.seen = seen
	want := t.roster.at(v.Index)
	if !slices.EqualFunc(v.Members, want.members, sameMember) || !slices.Equal(v.RemovedMembers, want.removed) {
		w.fail("%s has members %+v and %x removed after index %d, by the history they are %+v and %x",
			m.name, v.Members, v.RemovedMembers, v.Index, want.members, want.removed)
		return
	}
	var voters, learners []uint64
	for _, p := range want.members {
		if p.IsLearner {
			learners = append(learners, p.ID)
		} else {
			voters = append(voters, p.ID)
		}
	}
	if cs := v.ConfState; !slices.Equal(cs.GetVoters(), voters) || !slices.Equal(cs.GetLearners(), learners) || len(cs.GetVotersOutgoing()) > 0 {
		w.fail("%s has raft's voters at %x and learners %x after index %d, by the history they are %x and %x",
			m.name, cs.GetVoters(), cs.GetLearners(), v.Index, voters, learners)
	}
}

// checkVoters holds the votes that raft counts to the member's list, if nothing is
// under way between the two.
func (m *member) checkVoters() {
	if !m.up() || m.writing || m.applying || len(m.writes)+len(m.applies) > 0 {
		return
	}
	if list := m.n.View().ConfState.GetVoters(); !slices.Equal(m.n.Step.Voters(), list) {
		m.w.fail("%s: raft counts the votes of %x, but the voters are %x", m.name, m.n.Step.Voters(), list)
	}
}

// checkRole: a learner never stands for election. By raft it is what the newest
// checkpoint on its disk says, loaded or not.
func (m *member) checkRole() {
	if m.n.Step.Role() == raft.StateFollower {
		return
	}
	members := m.n.View().Members
	for _, t := range m.applies {
		if t.Restore != nil {
			members = m.w.truth.roster.at(t.Restore.GetMetadata().GetIndex()).members
		}
	}
	for _, p := range members {
		if p.ID == m.id && p.IsLearner {
			m.w.fail("%s is a learner and %v", m.name, m.n.Step.Role())
		}
	}
}

// listing tells whether a member's list is the one that was compared last:
// views share what did not change.
type listing struct {
	conf    *raftpb.ConfState
	removed int
	first   *membership.Member
}

func sameMember(a, b membership.Member) bool {
	return a.ID == b.ID && a.Name == b.Name && a.IsLearner == b.IsLearner &&
		slices.Equal(a.PeerURLs, b.PeerURLs) && slices.Equal(a.ClientURLs, b.ClientURLs)
}

// told holds what a caller heard of a change to what became of it.
func (r *roster) told(w *World, q *request) {
	verdict, committed := r.verdicts[q.id]
	switch {
	case !q.known:
	case q.applied && !committed:
		w.fail("%s answers the change %+v, which was never committed, with %v", q.via, q.change, q.err)
	case q.applied && (verdict == nil) != (q.err == nil), q.applied && verdict != nil && !errors.Is(q.err, verdict):
		w.fail("%s answers the change %+v with %v, by the history it is %v", q.via, q.change, q.err, verdict)
	case !q.applied && q.err == nil:
		w.fail("%s acknowledged the change %+v before it was applied", q.via, q.change)
	case !q.applied && q.refused() && committed:
		w.fail("%s refused the change %+v with %v, but it was carried out", q.via, q.change, q.err)
	}
}
