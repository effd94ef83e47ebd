package machine_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/mvcc"
)

// withPair is b with one pair put in, in its place, or taken out.
func (b buckets) withPair(name string, key, value []byte, remove bool) buckets {
	out := make(buckets)
	for n, pairs := range b {
		out[n] = slices.Clone(pairs)
	}
	at, found := slices.BinarySearchFunc(out[name], key, func(p [2][]byte, k []byte) int { return bytes.Compare(p[0], k) })
	switch {
	case found && remove:
		out[name] = slices.Delete(out[name], at, at+1)
	case found:
		out[name][at][1] = value
	case !remove:
		out[name] = slices.Insert(out[name], at, [2][]byte{key, value})
	}
	return out
}

// bucketNames are those of a checkpoint, in an order that seeds can rely on.
func bucketNames() []string {
	return []string{"alarm", "auth", "cluster", "key", "lease", "members", "members_removed", "meta", "muster"}
}

func TestACheckpointThatStandsWhereNumbersEndIsRefused(t *testing.T) {
	p := newPair(t)
	p.apply(machine.Put, &pb.PutRequest{Key: []byte("a")})
	base := dump(t, p.m.Publish())
	end := []byte("\x7f\xff\xff\xff\xff\xff\xff\xff")
	for _, c := range []struct {
		bucket, key string
		value       []byte
	}{
		{"muster", "revision", end}, // the next write would begin anew at the smallest number there is
		{"meta", "finishedCompactRev", append(slices.Clone(end), "_\x00\x00\x00\x00\x00\x00\x00\x00"...)},
		{"meta", "consistent_index", bytes.Repeat([]byte{0xff}, 8)}, // the next entry would be the first
	} {
		src := base.withPair(c.bucket, []byte(c.key), c.value, false)
		if _, err := machine.Restore(machine.Config{}, src); !errors.Is(err, machine.ErrBadCheckpoint) {
			t.Errorf("%s %s: got %v, want ErrBadCheckpoint", c.bucket, c.key, err)
		}
		if _, err := machine.Refound(machine.Config{}, src, 1<<40, true, founders()...); !errors.Is(err, machine.ErrBadCheckpoint) {
			t.Errorf("%s %s, for a new cluster: got %v, want ErrBadCheckpoint", c.bucket, c.key, err)
		}
	}
}

// FuzzRestore changes one pair of a checkpoint, in place of what the digest would
// have kept out: an operator's file, another release's. It is refused, or gives a
// state that serves and whose own checkpoint gives the same state again.
func FuzzRestore(f *testing.F) {
	p := newPair(f)
	p.apply(machine.LeaseGrant, &pb.LeaseGrantRequest{ID: 7, TTL: 60})
	for i := range 6 {
		p.apply(machine.Put, &pb.PutRequest{Key: []byte{"abc"[i%3]}, Value: []byte("v"), Lease: 7 * int64(i%2)})
	}
	p.apply(machine.DeleteRange, &pb.DeleteRangeRequest{Key: []byte("a")})
	p.apply(machine.Compact, &pb.CompactionRequest{Revision: 4})
	base := dump(f, p.m.Publish())
	for i, name := range bucketNames() {
		for _, pair := range base[name] {
			f.Add(uint8(i), pair[0], pair[1], false, int64(0))
			f.Add(uint8(i), pair[0], []byte{}, true, int64(1000))
			f.Add(uint8(i), pair[0], append(bytes.Repeat([]byte{0xff}, 8), pair[1][min(8, len(pair[1])):]...), false, int64(0))
		}
	}
	top := append(append([]byte{0x7f}, bytes.Repeat([]byte{0xff}, 7)...), "_\x00\x00\x00\x00\x00\x00\x00\x00"...) // the last revision there is
	kv := marshal(f, &pb.PutRequest{Key: []byte("z")})
	f.Add(uint8(3), top, kv, false, int64(0))
	f.Add(uint8(3), top, kv, false, int64(1))
	f.Add(uint8(8), []byte("revision"), top[:8], false, int64(5))
	f.Add(uint8(7), []byte("finishedCompactRev"), top, false, int64(0))
	f.Fuzz(func(t *testing.T, bucket uint8, key, value []byte, remove bool, bump int64) {
		names := bucketNames()
		src := base.withPair(names[int(bucket)%len(names)], key, value, remove)
		if m, err := machine.Refound(machine.Config{}, src, bump, bump > 0, founders()...); err == nil {
			serve(t, m)
		}
		m, err := machine.Restore(machine.Config{}, src)
		if err != nil {
			return
		}
		once := dump(t, m.Publish())
		again, err := machine.Restore(machine.Config{}, once)
		if err != nil {
			t.Fatalf("its own checkpoint is refused: %v", err)
		}
		twice := dump(t, again.Publish())
		for name, pairs := range once {
			if !slices.EqualFunc(pairs, twice[name], func(a, b [2][]byte) bool { return bytes.Equal(a[0], b[0]) && bytes.Equal(a[1], b[1]) }) {
				t.Fatalf("bucket %q is %q, restored again %q", name, pairs, twice[name])
			}
		}
		serve(t, m)
	})
}

// serve has a machine do something of everything; it may refuse, not panic.
func serve(t testing.TB, m *machine.Machine) {
	t.Helper()
	index := m.Index()
	for kind, req := range map[machine.Kind]proto.Message{
		machine.Put:         &pb.PutRequest{Key: []byte("b"), Value: []byte("new"), PrevKv: true},
		machine.DeleteRange: &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, PrevKv: true},
		machine.LeaseGrant:  &pb.LeaseGrantRequest{ID: 9, TTL: 60},
		machine.LeaseRevoke: &pb.LeaseRevokeRequest{ID: 7},
	} {
		index++
		m.Apply(index, m.Term(), (&machine.Command{Kind: kind, ID: index, Member: 1, Body: marshal(t, req)}).AppendTo(nil), true)
		m.EndEntry(index, m.Term())
	}
	m.TakeEvents()
	v := m.Publish()
	if err := v.KV.RangeEach(mvcc.RangeOptions{Key: []byte{0}, End: []byte{0}}, func(mvcc.Record) bool { return true }); err != nil {
		t.Fatal(err)
	}
	dump(t, v)
}
