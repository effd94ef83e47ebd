package membership_test

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/musterhq/muster/core/membership"
)

func member(id uint64, urls ...string) membership.Member {
	return membership.Member{ID: id, PeerURLs: urls}
}

func newSet(t *testing.T, members []membership.Member, removed ...uint64) *membership.Set {
	t.Helper()
	s, err := membership.NewSet(members, removed)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestChangesAreRefusedByTheSameRulesAsEtcd(t *testing.T) {
	learner := member(3, "http://c")
	learner.IsLearner = true
	base := []membership.Member{member(1, "http://a"), member(2, "http://b"), learner}
	tests := []struct {
		name   string
		change membership.Change
		want   error
	}{
		{"add a voter", membership.Change{Op: membership.AddVoter, Member: member(4, "http://d")}, nil},
		{"add a removed id", membership.Change{Op: membership.AddVoter, Member: member(9, "http://d")}, membership.ErrIDRemoved},
		{"remove a removed id", membership.Change{Op: membership.Remove, Member: member(9)}, membership.ErrIDRemoved},
		{"add a known id", membership.Change{Op: membership.AddVoter, Member: member(2, "http://d")}, membership.ErrIDExists},
		{"add a used url", membership.Change{Op: membership.AddVoter, Member: member(4, "http://b")}, membership.ErrPeerURLExists},
		{"add id 0", membership.Change{Op: membership.AddVoter, Member: member(0, "http://d")}, membership.ErrBadChange},
		{"add the id of raft's disk", membership.Change{Op: membership.AddVoter, Member: member(1<<64-1, "http://d")}, membership.ErrBadChange},
		{"add a second learner", membership.Change{Op: membership.AddLearner, Member: member(4, "http://d")}, membership.ErrTooManyLearners},
		{"promote the learner", membership.Change{Op: membership.Promote, Member: member(3)}, nil},
		{"promote a voter", membership.Change{Op: membership.Promote, Member: member(2)}, membership.ErrNotLearner},
		{"promote a stranger", membership.Change{Op: membership.Promote, Member: member(7)}, membership.ErrIDNotFound},
		{"remove a stranger", membership.Change{Op: membership.Remove, Member: member(7)}, membership.ErrIDNotFound},
		{"update own url to itself", membership.Change{Op: membership.UpdatePeer, Member: member(2, "http://b")}, nil},
		{"update to another's url", membership.Change{Op: membership.UpdatePeer, Member: member(2, "http://a")}, membership.ErrPeerURLExists},
		{"unknown operation", membership.Change{Op: "explode", Member: member(1)}, membership.ErrBadChange},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSet(t, base, 9)
			before := s.Members()
			err := s.Apply(tt.change)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err != nil && !slices.EqualFunc(before, s.Members(), func(a, b membership.Member) bool { return a.ID == b.ID }) {
				t.Fatal("a refused change changed the members")
			}
		})
	}
}

func TestRemovedIDNeverComesBack(t *testing.T) {
	s := newSet(t, []membership.Member{member(1, "http://a"), member(2, "http://b")})
	if err := s.Apply(membership.Change{Op: membership.Remove, Member: member(2)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(membership.Change{Op: membership.AddVoter, Member: member(2, "http://b")}); !errors.Is(err, membership.ErrIDRemoved) {
		t.Fatalf("got %v, want ErrIDRemoved", err)
	}
	if !slices.Equal(s.Removed(), []uint64{2}) {
		t.Fatalf("removed = %v", s.Removed())
	}
}

func TestHandedOutMembersNeverChange(t *testing.T) {
	s := newSet(t, []membership.Member{member(1, "http://a"), member(2, "http://b")})
	before := s.Members()
	s.SetAttributes(1, "one", []string{"http://c"})
	if err := s.Apply(membership.Change{Op: membership.Remove, Member: member(2)}); err != nil {
		t.Fatal(err)
	}
	if before[0].Name != "" || len(before) != 2 {
		t.Fatalf("an earlier list changed: %+v", before)
	}
	if m, _ := s.Lookup(1); m.Name != "one" {
		t.Fatalf("attributes not recorded: %+v", m)
	}
}

func TestAttributesOfARemovedMemberAreIgnored(t *testing.T) {
	s := newSet(t, []membership.Member{member(1, "http://a")}, 2)
	if s.SetAttributes(2, "ghost", nil) {
		t.Fatal("recorded attributes of a removed member")
	}
}

func TestNewSetRefusesContradictions(t *testing.T) {
	for name, tt := range map[string]struct {
		members []membership.Member
		removed []uint64
		want    error
	}{
		"same id":       {[]membership.Member{member(1, "a"), member(1, "b")}, nil, membership.ErrIDExists},
		"same url":      {[]membership.Member{member(1, "a"), member(2, "a")}, nil, membership.ErrPeerURLExists},
		"removed alive": {[]membership.Member{member(1, "a")}, []uint64{1}, membership.ErrIDRemoved},
		"id 0":          {[]membership.Member{member(0, "a")}, nil, membership.ErrBadChange},
		"raft's own id": {[]membership.Member{member(1<<64-1, "a")}, nil, membership.ErrBadChange},
	} {
		if _, err := membership.NewSet(tt.members, tt.removed); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}

// The ids were computed by etcd 3.7.3 for --initial-cluster
// default=http://localhost:2380 and token etcd-cluster (its defaults).
func TestIDsAreThoseOfEtcd(t *testing.T) {
	id := membership.MemberID([]string{"http://localhost:2380"}, "etcd-cluster", 0)
	if got := membership.FormatID(id); got != "8e9e05c52164694d" {
		t.Errorf("member id %s", got)
	}
	if got := membership.FormatID(membership.ClusterID([]uint64{id})); got != "cdf818194e3a8c32" {
		t.Errorf("cluster id %s", got)
	}
	a := membership.MemberID([]string{"http://b", "http://a"}, "t", 7)
	if a != membership.MemberID([]string{"http://a", "http://b"}, "t", 7) {
		t.Error("the order of URLs matters")
	}
	if a == membership.MemberID([]string{"http://a", "http://b"}, "t", 8) {
		t.Error("the time does not matter")
	}
	if back, err := membership.ParseID("8e9e05c52164694d"); err != nil || back != id {
		t.Errorf("ParseID: %x, %v", back, err)
	}
}

func TestMemberJSONIsEtcdsForm(t *testing.T) {
	m := membership.Member{ID: 10, Name: "n", PeerURLs: []string{"http://p"}, ClientURLs: []string{"http://c"}, IsLearner: true}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":10,"peerURLs":["http://p"],"isLearner":true,"name":"n","clientURLs":["http://c"]}`
	if string(b) != want {
		t.Fatalf("got  %s\nwant %s", b, want)
	}
	var back membership.Member
	if err := json.Unmarshal(b, &back); err != nil || back.Name != "n" || back.ID != 10 || !back.IsLearner {
		t.Fatalf("%+v, %v", back, err)
	}
}

func TestChangeRoundTripsAndMatchesItsRaftChange(t *testing.T) {
	for _, op := range []membership.Op{membership.AddVoter, membership.AddLearner, membership.Promote, membership.Remove, membership.UpdatePeer} {
		c := membership.Change{Op: op, Member: member(1<<63+5, "http://a")}
		b, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		back, err := membership.UnmarshalChange(b)
		if err != nil || back.Op != op || back.Member.ID != c.Member.ID {
			t.Fatalf("%s: %+v, %v", op, back, err)
		}
		cc, err := c.ConfChange(b)
		if err != nil || !c.Matches(cc) {
			t.Fatalf("%s: does not match its own raft change (%v)", op, err)
		}
		other := membership.Change{Op: op, Member: member(2)}
		if other.Matches(cc) {
			t.Fatalf("%s: matches another member's change", op)
		}
	}
	if _, err := membership.UnmarshalChange([]byte(`{"op":"x"}`)); !errors.Is(err, membership.ErrBadChange) {
		t.Fatalf("got %v", err)
	}
}

func TestQuorumOfStartedMembersGuardsReconfiguration(t *testing.T) {
	started := func(id uint64) membership.Member {
		m := member(id, membership.FormatID(id))
		m.Name = "n"
		return m
	}
	for _, tt := range []struct {
		name                 string
		members              []membership.Member
		add, remove, promote bool
	}{
		{"one", []membership.Member{started(1)}, true, false, true},
		{"one and one not started", []membership.Member{member(1, "a"), started(2)}, false, true, true},
		{"three", []membership.Member{started(1), started(2), started(3)}, true, true, true},
		{"three, one down", []membership.Member{member(1, "a"), started(2), started(3)}, false, true, true},
	} {
		s := newSet(t, tt.members)
		if got := s.ReadyToAdd(); got != tt.add {
			t.Errorf("%s: ReadyToAdd %v", tt.name, got)
		}
		if got := s.ReadyToRemove(1); got != tt.remove {
			t.Errorf("%s: ReadyToRemove %v", tt.name, got)
		}
		if got := s.ReadyToPromote(); got != tt.promote {
			t.Errorf("%s: ReadyToPromote %v", tt.name, got)
		}
	}
}
