package node

import (
	"encoding/json"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/simbug"
	"github.com/musterhq/muster/core/transport"
)

// What a member knows of the cluster it belongs to, as its published view has
// it: for the transport, for those about to join, for those who change it.

// Peers are the members this one is to talk to and where, itself included.
func (m *Member) Peers() map[uint64][]string {
	members := m.View().Members
	if len(members) == 0 {
		members = m.joined
	}
	peers := map[uint64][]string{}
	for _, p := range members {
		peers[p.ID] = p.PeerURLs
	}
	return peers
}

// Standing says what this member knows of a sender. One that has state of its
// own knows all members but those added since it was away.
func (m *Member) Standing(id uint64) transport.Standing {
	v := m.View()
	if isMember(v.Members, id) {
		return transport.Belongs
	}
	if _, removed := slices.BinarySearch(v.RemovedMembers, id); removed && !simbug.On(simbug.RemovedStays) {
		return transport.Removed
	}
	return transport.Stranger
}

// Removed reports whether this member has applied its own removal.
func (m *Member) Removed() bool { return m.Standing(m.ID) == transport.Removed }

// MayBeNeeded: of two voters one stays, and may not have heard yet that this one's
// removal is committed. Until it has, it cannot be elected without this one's vote.
func (m *Member) MayBeNeeded() bool { return len(m.View().ConfState.GetVoters()) == 1 }

// Info tells who belongs to the cluster, for one who is about to join.
func (m *Member) Info() ([]byte, error) {
	end := m.end.Load() // before the view: what comes between shows as not settled
	v := m.View()
	return json.Marshal(ClusterInfo{
		Version: clusterInfoVersion, ClusterID: m.ClusterID, Self: m.ID,
		Index: v.Index, Settled: v.Index >= end || simbug.On(simbug.VouchEarly), Members: v.Members, Removed: v.RemovedMembers,
	})
}

// noteEnd keeps in mind where the log ends, now that entries are written to its
// end or over it.
func (m *Member) noteEnd(entries []*raftpb.Entry) {
	if n := len(entries); n > 0 {
		m.end.Store(entries[n-1].GetIndex())
	}
}

// FreshID derives the id of a member to be added as etcd does, from the URLs and
// the time in seconds. A member removed within the same second had that id: then a
// later second is taken.
func (m *Member) FreshID(peerURLs []string, now time.Time) uint64 {
	for at := now.Unix(); ; at++ {
		id := membership.MemberID(peerURLs, "", at)
		if id != 0 && m.Standing(id) == transport.Stranger {
			return id
		}
	}
}

func isMember(members []membership.Member, id uint64) bool {
	for i := range members { // by index: asked of every message, and a Member is large
		if members[i].ID == id {
			return true
		}
	}
	return false
}
