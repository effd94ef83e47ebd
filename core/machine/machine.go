package machine

import (
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/mvcc"
)

// Config is what a machine needs to know beyond its state. The zero value works.
type Config struct {
	// Settings a state begins with that brings none of its own; zero fields have
	// their defaults. All founding members must be given the same. Afterwards
	// settings change by command.
	Settings Settings
	Logger   *slog.Logger
}

func (c Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

// Machine is the replicated state and the one place where it changes.
type Machine struct {
	log *slog.Logger

	kv       *mvcc.Store
	leases   *lease.Table
	members  *membership.Set
	settings Settings
	alarms   alarmList
	// full says that the NOSPACE alarm was raised because the quota was reached, so
	// that it is to be cleared once there is room again.
	full bool
	// disputed says that the CORRUPT alarm was raised because no majority had one
	// hash, so that it is to be cleared once one has.
	disputed       bool
	clusterVersion string
	maxTime        int64 // the latest of all commands' times
	confState      *raftpb.ConfState

	index, term uint64 // of the last entry that was applied whole
	within      bool   // inside an entry: something was applied since
	hash        runningHash
	content     content
	recent      hashLog
	checks      []Checked // the last few

	// Used again for each command, to spare allocations.
	tx     writeTx
	txn    txnRequest
	txnRun txnRun

	// What was done since the owner last asked.
	events       []mvcc.Event
	leaseEffects []LeaseEffect
	found        []Checked

	diverged uint64 // members that verdicts were about, since the start
	replays  uint64 // see Replays
}

// Replays says up to which index entries are carried out again after a start. That a
// member has diverged was reported when it happened, if not here then by the others,
// and it may have been replaced since: such a verdict is neither logged nor counted.
func (m *Machine) Replays(upTo uint64) { m.replays = upTo }

// LeaseEffect tells the leader's lessor what became of a lease.
type LeaseEffect struct {
	ID      int64
	Granted bool // with TTL
	// Checkpointed: Remaining seconds were recorded, or forgotten if 0. If neither this
	// nor Granted is set, the lease is gone.
	Checkpointed   bool
	TTL, Remaining int64
}

// New returns the state with which every founding member begins: the given
// members and nothing else, at index 0.
func New(cfg Config, members ...membership.Member) (*Machine, error) {
	set, err := membership.NewSet(members, nil)
	if err != nil {
		return nil, fmt.Errorf("founding members: %w", err)
	}
	m := &Machine{
		log:       cfg.logger(),
		kv:        mvcc.New(),
		leases:    lease.NewTable(),
		members:   set,
		settings:  cfg.Settings.withDefaults(),
		confState: new(raftpb.ConfState),
	}
	if err := m.settings.check(); err != nil {
		return nil, err
	}
	set.SetMaxLearners(int(m.settings.MaxLearners))
	for _, member := range set.Members() {
		if member.IsLearner {
			m.confState.Learners = append(m.confState.Learners, member.ID)
		} else {
			m.confState.Voters = append(m.confState.Voters, member.ID)
		}
	}
	return m, nil
}

// Index is the last entry that was applied whole, Term its term.
func (m *Machine) Index() uint64 { return m.index }

// Term is the term of the last entry that was applied whole.
func (m *Machine) Term() uint64 { return m.term }

// EndEntry marks the end of an entry; every entry has one, also an empty one and
// a configuration change. Entries come in order.
func (m *Machine) EndEntry(index, term uint64) {
	if index <= m.index || term < m.term {
		panic(fmt.Sprintf("machine: entry %d of term %d ends after entry %d of term %d", index, term, m.index, m.term))
	}
	m.index, m.term, m.within = index, term, false
	m.recent.add(index, m.stateHash())
}

// Members returns all members in id order. Don't write to it.
func (m *Machine) Members() []membership.Member { return m.members.Members() }

// TakeEvents hands over what happened to keys since the last call, in order of
// revision. Someone has to call it, or they pile up.
func (m *Machine) TakeEvents() []mvcc.Event {
	e := m.events
	m.events = nil
	return e
}

// LeaseEffects hands over what happened to leases since the last call. Someone
// has to call it, or they pile up.
func (m *Machine) LeaseEffects() []LeaseEffect {
	e := m.leaseEffects
	m.leaseEffects = nil
	return e
}

// Background does a slice of the physical work that compaction left, on up to n
// records, and reports whether there is more. It changes no result.
func (m *Machine) Background(n int) (more bool) { return m.kv.CompactStep(n) }
