package node

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
)

func changeEntry(t *testing.T, index uint64, c membership.Change) *raftpb.Entry {
	t.Helper()
	cc, err := machine.ConfChangeContext(machine.Command{ID: index, Member: 1}, c)
	if err != nil {
		t.Fatal(err)
	}
	data, err := proto.Marshal(cc)
	if err != nil {
		t.Fatal(err)
	}
	return &raftpb.Entry{Type: raftpb.EntryType_EntryConfChangeV2.Enum(), Index: &index, Term: proto.Uint64(1), Data: data}
}

// A member is looked for where its list has it first, then where the log takes it.
func TestMovesInTheLogCountUntilTheyAreAppliedOrReplaced(t *testing.T) {
	t.Parallel()
	stopped := newClusterOn(t, 1, nil)[0]
	stopped.shutdown(ErrStopped)
	stopped.wg.Wait()
	m, list := stopped.Node.Member, stopped.View()
	was, index := list.Members[0].PeerURLs[0], list.Index
	want := func(what string, urls ...string) {
		t.Helper()
		if got := m.Peers(); len(got) != 1 || !slices.Equal(got[m.ID], urls) {
			t.Fatalf("%s: the peers are %v, want %v of %x", what, got, urls, m.ID)
		}
	}
	tail := &m.tail
	tail.moved.Store(false)
	move := func(at, id uint64, urls ...string) *raftpb.Entry {
		return changeEntry(t, at, membership.Change{Op: membership.UpdatePeer, Member: membership.Member{ID: id, PeerURLs: urls}})
	}
	tail.note([]*raftpb.Entry{move(index, m.ID, "http://applied:1"), move(index+1, m.ID, was, "http://b:1"), move(index+2, m.ID, "http://c:1"), move(index+3, 99, "http://nobody:1")})
	if !m.Moved() || m.Moved() {
		t.Fatal("a move that was written is reported once")
	}
	want("two moves", was, "http://b:1", "http://c:1")
	if !slices.Equal(m.View().Members[0].PeerURLs, []string{was}) {
		t.Fatalf("the list has %v now", m.View().Members[0].PeerURLs)
	}
	tail.note([]*raftpb.Entry{changeEntry(t, index+2, membership.Change{Op: membership.Promote, Member: membership.Member{ID: 99}})})
	if !m.Moved() {
		t.Fatal("a move that was replaced is not reported")
	}
	want("the second one replaced", was, "http://b:1")
	broken := move(index+1, m.ID, "http://d:1")
	broken.Data = broken.Data[:len(broken.Data)-1]
	tail.note([]*raftpb.Entry{broken})
	want("the first one replaced by what cannot be read", was)
}
