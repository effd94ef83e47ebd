package node

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/simbug"
	"github.com/musterhq/muster/core/transport"
)

// What a member knows of the cluster it belongs to, as its published view has
// it: for the transport, for those about to join, for those who change it.

// Peers are the members this one is to talk to and where, itself included: where the
// list has them, and where their moves will take them that stand in the log. Those may
// be committed, known to be so only by a member that is gone, and the old URLs with it.
func (m *Member) Peers() map[uint64][]string {
	v := m.View()
	members := v.Members
	if len(members) == 0 {
		members = m.joined
	}
	peers := map[uint64][]string{}
	for _, p := range members {
		peers[p.ID] = p.PeerURLs
	}
	if simbug.On(simbug.MoveUnseen) {
		return peers
	}
	for _, to := range m.tail.movesAfter(v.Index) {
		urls, ok := peers[to.id]
		if !ok {
			continue
		}
		urls = slices.Clone(urls) // the view's
		for _, u := range to.urls {
			if !slices.Contains(urls, u) {
				urls = append(urls, u)
			}
		}
		peers[to.id] = urls
	}
	return peers
}

// Moved reports, once, whether the log has been written such that Peers are others now.
// What is applied changes them, too.
func (m *Member) Moved() bool { return m.tail.moved.Load() && m.tail.moved.Swap(false) }

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
	if m.Step.restoring.Load() > 0 {
		return nil, errors.New("a checkpoint of the leader's is yet to be loaded")
	}
	changed := m.tail.changed.Load() // before the view: what comes between shows as not settled
	v := m.View()
	info := ClusterInfo{
		Version: clusterInfoVersion, ClusterID: m.ClusterID, Self: m.ID,
		Index: v.Index, Settled: v.Index >= changed, Members: v.Members, Removed: v.RemovedMembers, Ran: m.tail.namedAfter(v.Index),
	}
	if simbug.On(simbug.VouchEarly) {
		info.Ran = nil
	}
	return json.Marshal(info)
}

// logTail is what the log tells of the members beyond the published view.
type logTail struct {
	changed atomic.Uint64 // no change of the members stands in the log after this index

	moved atomic.Bool // moves is other than when Member.Moved was asked last

	last uint64 // where the last of what is noted below stands; of the goroutine that writes

	mu    sync.Mutex
	named map[uint64]uint64 // where each member told its name last
	moves []move            // in the log's order
}

// move is a change of a member's peer URLs.
type move struct {
	index, id uint64
	urls      []string
}

// note takes entries that are written to the end of the log, or over it.
func (t *logTail) note(entries []*raftpb.Entry) {
	if len(entries) == 0 {
		return
	}
	first := entries[0].GetIndex()
	if first <= t.last {
		t.mu.Lock()
		maps.DeleteFunc(t.named, func(_, at uint64) bool { return at >= first })
		moves := len(t.moves)
		t.moves = slices.DeleteFunc(t.moves, func(m move) bool { return m.index >= first })
		t.moved.Store(t.moved.Load() || len(t.moves) < moves)
		t.mu.Unlock()
		t.last = first - 1
	}
	changed := min(t.changed.Load(), first-1)
	for _, e := range entries {
		if e.GetType() != raftpb.EntryType_EntryNormal {
			changed = e.GetIndex()
			t.changes(e)
			continue
		}
		for c, err := range machine.Commands(e.GetData()) {
			if err == nil && c.Kind == machine.MemberAttributes {
				t.tells(c.Member, e.GetIndex())
			}
		}
	}
	t.changed.Store(changed)
}

func (t *logTail) tells(id, index uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.named == nil {
		t.named = map[uint64]uint64{}
	}
	t.named[id], t.last = index, index
}

// changes notes a change of the members that moves one. Any other entry of its kind
// means nothing here: whether it is sound is found when it is applied.
func (t *logTail) changes(e *raftpb.Entry) {
	cc, err := decodeConfChange(e)
	if err != nil {
		return
	}
	c, err := machine.ParseChangeCommand(cc.GetContext())
	if err != nil || c.Change.Op != membership.UpdatePeer {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moves = append(t.moves, move{index: e.GetIndex(), id: c.Change.Member.ID, urls: c.Change.Member.PeerURLs})
	t.last = e.GetIndex()
	t.moved.Store(true)
}

// movesAfter gives the moves that are not applied, and forgets the others.
func (t *logTail) movesAfter(applied uint64) []move {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moves = slices.DeleteFunc(t.moves, func(m move) bool { return m.index <= applied })
	return slices.Clone(t.moves)
}

func (t *logTail) namedAfter(index uint64) (ids []uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, at := range t.named {
		if at > index {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
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
