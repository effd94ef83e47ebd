package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/vfs"
)

func putBody(t testing.TB, key string) []byte {
	t.Helper()
	b, err := proto.Marshal(&pb.PutRequest{Key: []byte(key), Value: []byte("v")})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encodedMessage(t testing.TB, m *Message) []byte {
	t.Helper()
	b, err := m.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sampleMessages is one message of each kind.
func sampleMessages(t testing.TB) []*Message {
	t.Helper()
	b := NewBatch(64, 0)
	b.Add(&machine.Command{Kind: machine.Put, ID: 9, Member: 2, Body: putBody(t, "k")})
	change, err := (membership.Change{Op: membership.Remove, Member: membership.Member{ID: 3}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	typ, from, to, term := raftpb.MessageType_MsgHeartbeat, uint64(2), uint64(1), uint64(1)
	return []*Message{
		RaftMessage(&raftpb.Message{Type: &typ, From: &from, To: &to, Term: &term}),
		{kind: msgForward, content: &content{seq: 9, batch: b.Data}},
		{kind: msgForwardReply, content: &content{seq: 9, code: refusedBusy}},
		{kind: msgRenew, content: &content{seq: 10, lease: leaseCall{id: -7, peek: true}}},
		{kind: msgRenewReply, content: &content{seq: 10, code: refusedMissing, reply: leaseReply{ttl: 5, remaining: -1}}},
		{kind: msgChange, content: &content{seq: 11, batch: change}},
	}
}

func sameMessage(a, b *Message) bool {
	x, y := *a, *b
	x.Raft, y.Raft = nil, nil
	return proto.Equal(a.Raft, b.Raft) && reflect.DeepEqual(x, y)
}

func FuzzDecodeMessage(f *testing.F) {
	for _, m := range sampleMessages(f) {
		f.Add(encodedMessage(f, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMessage(b)
		if err != nil {
			if !errors.Is(err, errBadMessage) {
				t.Fatalf("got %v, want errBadMessage", err)
			}
			return
		}
		again, err := DecodeMessage(encodedMessage(t, m))
		if err != nil || !sameMessage(m, again) {
			t.Fatalf("%x: read %+v, written and read again %+v, %v", b, m, again, err)
		}
	})
}

func TestRaftMessagesThatNoPeerSendsAreRefused(t *testing.T) {
	for typ, want := range map[raftpb.MessageType]bool{
		raftpb.MessageType_MsgHeartbeat:     true,
		raftpb.MessageType_MsgReadIndexResp: true,
		raftpb.MessageType_MsgProp:          false, // would pass by what adopt refuses; empty, it makes raft panic
		raftpb.MessageType_MsgSnap:          false, // would have raft restore a checkpoint that is not on this disk
		raftpb.MessageType_MsgStorageAppend: false,
		-1:                                  false, // raft looks its kinds up in an array
		99:                                  false,
	} {
		_, err := DecodeMessage(encodedMessage(t, RaftMessage(&raftpb.Message{Type: &typ})))
		if (err == nil) != want || err != nil && !errors.Is(err, errBadMessage) {
			t.Errorf("%v: got %v, taken should be %t", typ, err, want)
		}
	}
}

func TestAJoinerDoesNotBelieveAnImpossibleCluster(t *testing.T) {
	own := membership.Member{ID: 2, PeerURLs: []string{"http://new:1"}}
	with := func(id uint64) membership.Member { m := own; m.ID = id; return m }
	for name, info := range map[string]ClusterInfo{
		"id 0":                   {Version: clusterInfoVersion, Self: 1, Settled: true, Members: []membership.Member{with(0)}},
		"the id of raft's disk":  {Version: clusterInfoVersion, Self: 1, Settled: true, Members: []membership.Member{with(1<<64 - 1)}},
		"an id given twice":      {Version: clusterInfoVersion, Self: 1, Settled: true, Members: []membership.Member{{ID: 2, Name: "x"}, own}},
		"a member and removed":   {Version: clusterInfoVersion, Self: 1, Settled: true, Members: []membership.Member{own}, Removed: []uint64{2}},
		"another's URL as well":  {Version: clusterInfoVersion, Self: 1, Settled: true, Members: []membership.Member{own, with(3)}},
		"of another release":     {Version: 9, Members: []membership.Member{own}},
		"members without URLs":   {Version: clusterInfoVersion, Self: 1, Settled: true, Members: []membership.Member{{ID: 1}}},
		"nobody at all":          {Version: clusterInfoVersion},
		"someone else by my URL": {Version: clusterInfoVersion, Self: 1, Settled: true, Members: []membership.Member{{ID: 2, Name: "else", PeerURLs: own.PeerURLs}}},
	} {
		b, err := json.Marshal(info)
		if err != nil {
			t.Fatal(err)
		}
		disk := vfs.NewMem()
		cfg := joinerConfig(disk, b)
		cfg.RequestTimeout = time.Nanosecond // asked once
		if m, err := OpenMember(t.Context(), cfg, deaf, counting); err == nil {
			t.Errorf("%s: joined as %x", name, m.ID)
			continue
		}
		if names, err := disk.ReadDir("/data/log"); err == nil && len(names) > 0 {
			t.Errorf("%s: left a log behind: %v", name, names)
		}
	}
}

// FuzzPeersNonsense has one member of three say whatever the fuzzer likes,
// besides raft's own messages, which raft has to trust. Nobody may panic, answer
// what was not asked or let a command through that is none of a client's; and
// the cluster serves on.
func FuzzPeersNonsense(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	var all []byte
	for _, m := range sampleMessages(f)[1:] {
		b := encodedMessage(f, m)
		f.Add(append([]byte{byte(len(b))}, b...), uint8(3))
		all = append(append(all, byte(len(b))), b...)
	}
	f.Add(all, uint8(1))
	expiry := NewBatch(64, 0)
	expiry.Add(&machine.Command{Kind: machine.LeaseExpire, ID: 9, Member: 2, Body: machine.EncodeLeaseExpire(2, []int64{1})})
	b := encodedMessage(f, &Message{kind: msgForward, content: &content{seq: 9, batch: expiry.Data}})
	f.Add(append([]byte{byte(len(b))}, b...), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, who uint8) {
		c := newTrio(t)
		to := uint64(who%3) + 1
		from := uint64(who/3%2+1+uint8(to)-1)%3 + 1 // any but to
		asked := map[uint64]int{}                   // by sequence number
		c.sent = func(by uint64, e Envelope) {
			switch e.Msg.kind {
			case msgForwardReply, msgRenewReply:
				if asked[e.Msg.seq]--; by == to && e.To == from && asked[e.Msg.seq] < 0 {
					t.Fatalf("member %d answered %d, which was not asked", by, e.Msg.seq)
				}
			}
		}
		for len(b) > 0 && len(c.wire) < 64 {
			n := min(int(b[0]), len(b)-1)
			m, err := DecodeMessage(b[1 : 1+n])
			b = b[1+n:]
			if err != nil || m.kind == msgRaft {
				continue
			}
			asked[m.seq]++
			c.wire = append(c.wire, frame{from, to, encodedMessage(t, m)})
		}
		c.settle()
		for range 3 {
			c.tick()
		}
		for _, at := range []uint64{to, 6 - to - from} { // from may have spoilt its own numbers
			id := c.put(at, putBody(t, fmt.Sprint("after ", at)))
			c.settle()
			if res, ok := c.results[id]; !ok || res.Err != nil {
				t.Fatalf("a put at member %d: %+v, %v, %+v", at, res, ok, c.done[id])
			}
		}
		for range 12 {
			c.tick()
		}
		if hs := c.hashes(); len(hs) != 1 {
			t.Fatalf("members differ: %x", hs)
		}
	})
}

// joinerConfig is that of a member that joins one other, on an empty disk, and
// is told answer about the cluster.
func joinerConfig(disk vfs.FS, answer []byte) Config {
	return Config{
		FS: disk, Dir: "/data", Name: "new", Join: true,
		InitialCluster: map[string][]string{"new": {"http://new:1"}, "old": {"http://old:1"}},
		SegmentBytes:   1 << 14, RequestTimeout: time.Second,
		Ask: func(context.Context, string) ([]byte, error) { return answer, nil },
	}
}

// deaf makes a Member's hub.
func deaf(*Member) Hub { return deafHub{} }

func counting(first uint64) func() uint64 { return func() uint64 { first++; return first } }

// FuzzClusterInfo: whatever a peer tells a joiner about the cluster, the joiner
// either refuses it and leaves nothing behind, or becomes a member that starts again.
func FuzzClusterInfo(f *testing.F) {
	good := ClusterInfo{Version: clusterInfoVersion, ClusterID: 7, Self: 1, Settled: true, Members: []membership.Member{
		{ID: 1, Name: "old", PeerURLs: []string{"http://old:1"}}, {ID: 2, PeerURLs: []string{"http://new:1"}, IsLearner: true},
	}, Removed: []uint64{3}}
	for _, change := range []func(*ClusterInfo){
		func(*ClusterInfo) {},
		func(c *ClusterInfo) { c.Version = 9 },
		func(c *ClusterInfo) { c.ClusterID = 0 },
		func(c *ClusterInfo) { c.Self = 2 },
		func(c *ClusterInfo) { c.Settled = false },
		func(c *ClusterInfo) { c.Members = c.Members[1:] },
		func(c *ClusterInfo) { c.Members[1].ID = 0 },
		func(c *ClusterInfo) { c.Members[1].ID = 1 },
		func(c *ClusterInfo) { c.Members[1].ID = 1<<64 - 1 },
		func(c *ClusterInfo) { c.Removed = []uint64{2} },
	} {
		info := good
		info.Members = append([]membership.Member(nil), good.Members...)
		change(&info)
		b, err := json.Marshal(info)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		disk := vfs.NewMem()
		cfg := joinerConfig(disk, b)
		info, err := askOne(t.Context(), &cfg, "http://old:1")
		if err != nil {
			return
		}
		if _, _, err := findSelf(&cfg, []ClusterInfo{info}); err != nil {
			return // it would be asked again
		}
		for range 2 {
			m, err := OpenMember(t.Context(), cfg, deaf, counting)
			if err != nil {
				t.Fatalf("joined as %s was told, and cannot start: %v", b, err)
			}
			if err := m.Release(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// snapshotBytes is a snapshot file with something of everything.
func snapshotBytes(t testing.TB) []byte {
	t.Helper()
	m, err := machine.New(machine.Config{}, membership.Member{ID: 1, Name: "a", PeerURLs: []string{"http://a:1"}})
	if err != nil {
		t.Fatal(err)
	}
	apply := func(kind machine.Kind, req proto.Message) {
		body, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		if res := m.Apply(2, 1, (&machine.Command{Kind: kind, ID: 1, Member: 1, Body: body}).AppendTo(nil), false); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	apply(machine.LeaseGrant, &pb.LeaseGrantRequest{ID: 7, TTL: 60})
	for i := range 12 {
		apply(machine.Put, &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i%5), Value: make([]byte, 40*i), Lease: 7 * int64(i%2)})
	}
	apply(machine.DeleteRange, &pb.DeleteRangeRequest{Key: []byte("k1")})
	apply(machine.Compact, &pb.CompactionRequest{Revision: 6})
	m.EndEntry(2, 1)
	var b bytes.Buffer
	if err := WriteSnapshot(&b, m.Publish()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// FuzzSnapshotFile gives status and restore a file that was patched, its digest
// made to fit again if asked for. What restore takes must start as a member at
// the revision it named, and serve.
func FuzzSnapshotFile(f *testing.F) {
	file := snapshotBytes(f)
	content := len(file) - sha256.Size
	f.Add([]byte{}, uint32(0), false)
	f.Add([]byte{1}, uint32(content+3), false)
	f.Add([]byte{0xff, 0xff}, uint32(5*4096+16), true)
	f.Add(file[4*4096:4*4096+512], uint32(6*4096), true)
	for _, key := range []string{"confState", "consistent_index", "settings", "revision", "peerURLs", "3.7.0"} {
		if at := bytes.Index(file, []byte(key)); at >= 0 {
			f.Add([]byte("x"), uint32(at), true)
			f.Add([]byte{0xff, 0xfe, 0, 1, 0xff, 0xff, 0xff, 0xff}, uint32(at+len(key)), true)
		}
	}
	f.Fuzz(func(t *testing.T, patch []byte, at uint32, fit bool) {
		b := bytes.Clone(file)
		copy(b[int(at)%len(b):], patch)
		damaged := !bytes.Equal(b, file)
		if fit {
			sum := sha256.Sum256(b[:content])
			copy(b[content:], sum[:])
		}
		disk := vfs.NewMem()
		writeDisk(t, disk, "/snap.db", b)
		status, err := ReadSnapshotStatus(disk, "/snap.db")
		if err == nil && damaged && !fit {
			t.Fatalf("a damaged file was taken: %+v", status)
		}
		cfg := Config{
			FS: disk, Dir: "/data", Name: "new", InitialCluster: map[string][]string{"new": {"http://new:1"}},
			SegmentBytes: 1 << 14,
		}
		rev, err := RestoreSnapshot(t.Context(), cfg, "/snap.db", RestoreOptions{})
		if err != nil {
			return
		}
		if damaged && !fit {
			t.Fatal("a damaged file was restored")
		}
		m, err := OpenMember(t.Context(), cfg, deaf, counting)
		if err != nil {
			t.Fatalf("restored at revision %d, and cannot start: %v", rev, err)
		}
		if got := m.View().KV.Rev(); got != rev {
			t.Fatalf("starts at revision %d, restored at %d", got, rev)
		}
		if _, err := HashState(m.View()); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(m.Save(t.Context(), m.View(), nil), m.Release()); err != nil {
			t.Fatal(err)
		}
	})
}

func writeDisk(t testing.TB, disk vfs.FS, name string, b []byte) {
	t.Helper()
	file, err := disk.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = file.Write(b)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}
