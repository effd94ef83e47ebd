package rpc

import (
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/node"
)

func TestMembersAreAddedUpdatedPromotedAndRemoved(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	c := pb.NewClusterClient(conn)
	added, err := c.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{" http://127.0.0.1:2390"}, IsLearner: true})
	if err != nil {
		t.Fatal(err)
	}
	id := added.Member.ID
	if len(added.Members) != 2 || !added.Member.IsLearner || added.Member.PeerURLs[0] != "http://127.0.0.1:2390" || added.Header.Revision != 0 || added.Header.MemberId != fakeID {
		t.Errorf("added: %v", added)
	}
	if r, err := c.MemberPromote(t.Context(), &pb.MemberPromoteRequest{ID: id}); err != nil || len(r.Members) != 2 {
		t.Errorf("promoted: %v, %v", r, err)
	}
	if r, err := c.MemberUpdate(t.Context(), &pb.MemberUpdateRequest{ID: id, PeerURLs: []string{"http://127.0.0.1:2391"}}); err != nil || len(r.Members) != 2 {
		t.Errorf("updated: %v, %v", r, err)
	}
	list, err := c.MemberList(t.Context(), &pb.MemberListRequest{Linearizable: true})
	if err != nil || n.barriers.Load() != 1 {
		t.Errorf("linearizable list: %v after %d barriers", err, n.barriers.Load())
	}
	for _, m := range list.Members {
		if m.ID == id && (m.IsLearner || m.PeerURLs[0] != "http://127.0.0.1:2391") {
			t.Errorf("after promotion and update: %v", m)
		}
	}
	if r, err := c.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: id}); err != nil || len(r.Members) != 1 {
		t.Errorf("removed: %v, %v", r, err)
	}
}

func TestMembershipRefusalsAreEtcds(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	c := pb.NewClusterClient(conn)
	add := func(learner bool, urls ...string) error {
		_, err := c.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: urls, IsLearner: learner})
		return err
	}
	if err := add(true, "http://127.0.0.1:2390"); err != nil {
		t.Fatal(err)
	}
	refusing := func(reason error, call func() error) error {
		n.refuse.Store(&reason)
		defer n.refuse.Store(nil)
		return call()
	}
	remove := func() error { _, err := c.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: 1}); return err }
	promote := func() error { _, err := c.MemberPromote(t.Context(), &pb.MemberPromoteRequest{ID: fakeID}); return err }
	for _, row := range []struct {
		what string
		err  error
		want string
	}{
		{"no URL", add(false), "InvalidArgument etcdserver: given member URLs are invalid"},
		{"no port", add(false, "http://127.0.0.1"), "InvalidArgument etcdserver: given member URLs are invalid"},
		{"a path", add(false, "http://127.0.0.1:1/x"), "InvalidArgument etcdserver: given member URLs are invalid"},
		{"a scheme", add(false, "ftp://127.0.0.1:1"), "InvalidArgument etcdserver: given member URLs are invalid"},
		{"port 0", add(false, "http://127.0.0.1:0"), "InvalidArgument etcdserver: given member URLs are invalid"},
		{"no socket", add(false, "unix://"), "InvalidArgument etcdserver: given member URLs are invalid"},
		{"TLS", add(false, "http://127.0.0.1:2396", "https://127.0.0.1:2397"), "InvalidArgument muster: peer URL https://127.0.0.1:2397: TLS is not supported yet: use http"},
		{"TLS on a socket", add(false, "unixs:///run/x"), "InvalidArgument muster: peer URL unixs:///run/x: TLS is not supported yet: use unix"},
		{"URL taken", add(false, "http://127.0.0.1:2395", "http://127.0.0.1:2390"), "FailedPrecondition etcdserver: Peer URLs already exists"},
		{"second learner", add(true, "http://127.0.0.1:2399"), "FailedPrecondition etcdserver: too many learner members in cluster"},
		{"unknown", remove(), "NotFound etcdserver: member not found"},
		{"a voter promoted", promote(), "FailedPrecondition etcdserver: can only promote a learner member"},
		{"unready learner", refusing(node.ErrLearnerNotReady, promote), "FailedPrecondition etcdserver: can only promote a learner member which is in sync with leader"},
		{"unhealthy", refusing(node.ErrUnhealthy, remove), "Unavailable etcdserver: unhealthy cluster"},
		{"unstarted", refusing(node.ErrNotEnoughStarted, remove), "FailedPrecondition etcdserver: re-configuration failed due to not enough started members"},
		{"the last voter", refusing(membership.ErrLastVoter, remove), "FailedPrecondition etcdserver: re-configuration failed due to not enough started members"},
		{"two at once", refusing(node.ErrChangeUnderWay, remove), "Unavailable muster: another change of the members is under way; try again when it is done"},
		{"no leader", refusing(node.ErrNoLeader, remove), "Unavailable etcdserver: no leader"},
	} {
		if s := status.Convert(row.err); s.Code().String()+" "+s.Message() != row.want {
			t.Errorf("%s: %v %q, want %q", row.what, s.Code(), s.Message(), row.want)
		}
	}
}

func TestLeadershipMovesOnlyFromTheLeader(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	m := pb.NewMaintenanceClient(conn)
	move := func() string {
		_, err := m.MoveLeader(t.Context(), &pb.MoveLeaderRequest{TargetID: 5})
		return status.Convert(err).Message()
	}
	if got := move(); got != "" || n.Leader() != 5 {
		t.Errorf("moved to %x: %q", n.Leader(), got)
	}
	if got := move(); got != "etcdserver: not leader" {
		t.Errorf("on a follower: %q", got)
	}
	bad := node.ErrBadTransferee
	n.refuse.Store(&bad)
	if got := move(); got != "etcdserver: bad leader transferee" {
		t.Errorf("to a learner: %q", got)
	}
	late := node.ErrTransferTimeout
	n.refuse.Store(&late)
	if got := move(); got != "etcdserver: request timed out, leader transfer took too long" {
		t.Errorf("too slow: %q", got)
	}
}

func TestSnapshotEndsInTheHashOfWhatCameBefore(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	kv := pb.NewKVClient(conn)
	for _, k := range []string{"a", "b", "c"} {
		if _, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte(k), Value: make([]byte, 40_000)}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := pb.NewMaintenanceClient(conn).Snapshot(t.Context(), &pb.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var all []*pb.SnapshotResponse
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if r.Version != "3.7.0" || len(r.Blob) > snapshotChunk {
			t.Fatalf("message of %d bytes, version %q", len(r.Blob), r.Version)
		}
		all = append(all, r)
	}
	last := all[len(all)-1]
	h, total := sha256.New(), 0
	for _, r := range all[:len(all)-1] {
		h.Write(r.Blob)
		total += len(r.Blob)
	}
	if string(last.Blob) != string(h.Sum(nil)) {
		t.Errorf("the last message holds %x, want the SHA-256 %x", last.Blob, h.Sum(nil))
	}
	if first := all[0]; int(first.RemainingBytes)+len(first.Blob) != total || all[len(all)-2].RemainingBytes != 0 || total%4096 != 0 {
		t.Errorf("%d bytes in all; first says %d remain, last %d", total, first.RemainingBytes, all[len(all)-2].RemainingBytes)
	}
}

func TestHashesAreEqualOnMembersWithTheSameHistory(t *testing.T) {
	var hashes []*pb.HashKVResponse
	var whole []uint32
	for range 2 {
		conn, _ := serve(t, newFakeNode(t, machine.Config{}), nil)
		kv, m := pb.NewKVClient(conn), pb.NewMaintenanceClient(conn)
		for _, v := range []string{"1", "2"} {
			if _, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k"), Value: []byte(v)}); err != nil {
				t.Fatal(err)
			}
		}
		r, err := m.HashKV(t.Context(), &pb.HashKVRequest{Revision: 2})
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, r)
		h, err := m.Hash(t.Context(), &pb.HashRequest{})
		if err != nil {
			t.Fatal(err)
		}
		whole = append(whole, h.Hash)
		if _, err := m.HashKV(t.Context(), &pb.HashKVRequest{Revision: 99}); status.Convert(err).Message() != "etcdserver: mvcc: required revision is a future revision" {
			t.Errorf("future revision: %v", err)
		}
	}
	if a, b := hashes[0], hashes[1]; a.Hash != b.Hash || a.HashRevision != 2 || a.CompactRevision != -1 || a.Header.Revision != 3 {
		t.Errorf("%v and %v", a, b)
	}
	if whole[0] != whole[1] {
		t.Errorf("whole state: %x and %x", whole[0], whole[1])
	}
}
