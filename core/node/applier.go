package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/replica"
	"github.com/musterhq/muster/core/simbug"
)

// Hub is told of every published revision; core/watch's Hub is one.
type Hub interface {
	Notify(rev int64, events []mvcc.Event)
	Reset(rev int64)
}

// Applier carries committed entries out: it owns the machine. One goroutine
// (or the simulator) calls Run.
type Applier struct {
	Machine *machine.Machine
	Hub     Hub
	// Self and FirstID tell our own commands of this run of the process:
	// only they have waiters, so only they need their reply built.
	Self, FirstID uint64
	// Publish stores a view for readers, before the hub and any waiter hears
	// of what is in it.
	Publish func(*machine.View)
	// Restore loads the checkpoint at an index.
	Restore func(index uint64) (*machine.Machine, error)

	conf    *raftpb.ConfState // as of the last entry applied
	results []machine.Result
}

// Run applies one task. The results are those of our own commands and valid
// until the next Run. An error means this member must stop: it cannot apply
// what its peers can, or it has diverged from them.
func (a *Applier) Run(t *replica.ApplyTask) (ApplyDone, []machine.Result, error) {
	done := ApplyDone{Task: t}
	a.results = a.results[:0]
	if a.conf == nil {
		a.conf = a.Machine.Publish().ConfState
	}
	if t.Restore != nil {
		return done, nil, a.restore(t.Restore)
	}
	for _, e := range t.Entries {
		index, term := e.GetIndex(), e.GetTerm()
		switch e.GetType() {
		case raftpb.EntryType_EntryNormal:
			txns, err := a.applyCommands(index, term, e.GetData())
			done.Txns += txns
			if err != nil {
				return done, nil, err
			}
		default:
			cc, err := decodeConfChange(e)
			if err != nil {
				return done, nil, fmt.Errorf("entry %d: %w", index, err)
			}
			conf := a.conf
			if a.Machine.CheckConfChange(cc) == nil || simbug.On(simbug.RefusedCounts) {
				conf = a.nextConf(cc)
				done.ConfChanges = append(done.ConfChanges, cc)
			}
			res := a.Machine.ApplyConfChange(index, term, cc, conf)
			if member, id, ok := entryID(e); ok && member == a.Self && id >= a.FirstID {
				a.results = append(a.results, res)
			}
		}
		a.Machine.EndEntry(index, term)
	}
	done.Leases, done.Checked = a.Machine.LeaseEffects(), a.Machine.Checks()
	view := a.Machine.Publish()
	a.Publish(view)
	events := a.Machine.TakeEvents()
	for i := range events {
		if events[i].Delete {
			done.Deletes++
		} else {
			done.Puts++
		}
	}
	a.Hub.Notify(view.KV.Rev(), events)
	return done, a.results, nil
}

// applyCommands returns how many transactions were among them.
func (a *Applier) applyCommands(index, term uint64, data []byte) (txns uint64, _ error) {
	if len(data) == 0 {
		return 0, nil // a new leader's first entry
	}
	for c, err := range machine.Commands(data) {
		if err != nil {
			return txns, fmt.Errorf("entry %d: %w", index, err)
		}
		want := c.Member == a.Self && c.ID >= a.FirstID
		res := a.Machine.Apply(index, term, c.Bytes, want)
		if res.Err != nil && errors.Is(res.Err, machine.ErrDiverged) {
			return txns, a.diverged(res.Err)
		}
		if res.Err != nil && machine.Fatal(res.Err) {
			return txns, fmt.Errorf("entry %d: %w", index, res.Err)
		}
		if c.Kind == machine.Txn {
			txns++
		}
		if want {
			a.results = append(a.results, res)
		}
	}
	return txns, nil
}

// diverged names this member and what its operator is to do, in commands that work as they stand. It can't mend
// itself: its data is wrong, and as a member that has forgotten what it had acknowledged it must not come back.
func (a *Applier) diverged(err error) error {
	var self membership.Member
	var others []string // who can be asked, for this member no longer can
	for _, m := range a.Machine.Members() {
		switch {
		case m.ID == a.Self:
			self = m
		case !m.IsLearner:
			others = append(others, m.ClientURLs...)
		}
	}
	ctl, flags := "muster ctl", " --peer-urls="+strings.Join(self.PeerURLs, ",")
	if len(others) > 0 {
		ctl += " --endpoints=" + strings.Join(others, ",")
	}
	if self.IsLearner {
		flags += " --learner"
	}
	id := formatID(a.Self)
	return fmt.Errorf("member %s (%s): %w; replace it: `%s member remove %s`, then `%s member add %s%s`, "+
		"and start it with an empty --data-dir and --initial-cluster-state=existing", self.Name, id, err, ctl, id, ctl, self.Name, flags)
}

func (a *Applier) restore(s *raftpb.Snapshot) error {
	md := s.GetMetadata()
	m, err := a.Restore(md.GetIndex())
	if err != nil {
		return fmt.Errorf("load the checkpoint received at index %d: %w", md.GetIndex(), err)
	}
	a.Machine = m
	if !simbug.On(simbug.ConfStale) {
		a.conf = nil
	}
	view := m.Publish()
	a.Publish(view)
	a.Hub.Reset(view.KV.Rev())
	return nil
}

func decodeConfChange(e *raftpb.Entry) (*raftpb.ConfChangeV2, error) {
	if e.GetType() == raftpb.EntryType_EntryConfChange {
		cc := new(raftpb.ConfChange)
		if err := proto.Unmarshal(e.GetData(), cc); err != nil {
			return nil, err
		}
		v2 := cc.AsV2()
		return v2, nil
	}
	cc := new(raftpb.ConfChangeV2)
	return cc, proto.Unmarshal(e.GetData(), cc)
}

func (a *Applier) nextConf(cc *raftpb.ConfChangeV2) *raftpb.ConfState {
	a.conf = nextConfState(a.conf, cc)
	return a.conf
}

// nextConfState is what raft will make of a configuration change. The machine
// needs it before the loop has told raft, since a view may be published, and
// written as a checkpoint, in between.
func nextConfState(cs *raftpb.ConfState, cc *raftpb.ConfChangeV2) *raftpb.ConfState {
	next := proto.CloneOf(cs)
	without := func(ids []uint64, id uint64) []uint64 {
		return slices.DeleteFunc(ids, func(v uint64) bool { return v == id })
	}
	for _, c := range cc.GetChanges() {
		id := c.GetNodeId()
		switch c.GetType() {
		case raftpb.ConfChangeType_ConfChangeAddNode:
			next.Learners = without(next.Learners, id)
			next.Voters = append(without(next.Voters, id), id)
		case raftpb.ConfChangeType_ConfChangeAddLearnerNode:
			next.Voters = without(next.Voters, id)
			next.Learners = append(without(next.Learners, id), id)
		case raftpb.ConfChangeType_ConfChangeRemoveNode:
			next.Voters, next.Learners = without(next.Voters, id), without(next.Learners, id)
		}
	}
	slices.Sort(next.Voters)
	slices.Sort(next.Learners)
	return next
}
