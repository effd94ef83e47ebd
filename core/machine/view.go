package machine

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/mvcc"
)

// View is the whole state at the end of one entry. It never changes and any
// number of goroutines may read it; nothing it refers to may be written to.
type View struct {
	KV     *mvcc.View
	Leases *lease.TableView

	Index, Term    uint64
	ConfState      *raftpb.ConfState
	Members        []membership.Member // by id
	RemovedMembers []uint64            // in order
	Alarms         []RaisedAlarm       // by type, then member
	Settings       Settings
	ClusterVersion string // "" until a leader has set it
	MaxTime        int64  // latest wall clock of any leader, unix nanoseconds
	Used           int64  // bytes as the quota (Settings.Quota) counts them
	Disputed       bool   // the CORRUPT alarm is to end with the next verdict
	Diverged       uint64 // members found to have diverged since this one started; not replicated
	Hash           uint64 // over all effects and what they led to, of version stateVersion

	running runningHash
	full    bool
}

// HasAlarm reports whether any member has raised an alarm of this type.
func (v *View) HasAlarm(t pb.AlarmType) bool { return alarmList(v.Alarms).has(t) }

// Publish freezes the state as it is. It must be at the end of an entry.
func (m *Machine) Publish() *View {
	if m.within {
		panic("machine: Publish inside an entry; call EndEntry first")
	}
	return &View{
		KV:             m.kv.Publish(),
		Leases:         m.leases.Publish(),
		Index:          m.index,
		Term:           m.term,
		ConfState:      m.confState,
		Members:        m.members.Members(),
		RemovedMembers: m.members.Removed(),
		Alarms:         m.alarms,
		Settings:       m.settings,
		ClusterVersion: m.clusterVersion,
		MaxTime:        m.maxTime,
		Used:           m.used(),
		Disputed:       m.disputed,
		Diverged:       m.diverged,
		Hash:           m.stateHash(),
		running:        m.hash,
		full:           m.full,
	}
}
