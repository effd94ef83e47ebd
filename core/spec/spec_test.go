package spec_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/anishathalye/porcupine"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/spec"
)

func put(t *testing.T, s *spec.State, key, value string) {
	t.Helper()
	if _, err := s.Put(&pb.PutRequest{Key: []byte(key), Value: []byte(value)}); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s *spec.State, key string, rev int64) string {
	t.Helper()
	r, err := s.Range(&pb.RangeRequest{Key: []byte(key), Revision: rev})
	if err != nil {
		return err.Error()
	}
	if len(r.Kvs) == 0 {
		return "absent"
	}
	return fmt.Sprintf("%s v%d of %d", r.Kvs[0].Value, r.Kvs[0].Version, r.Kvs[0].CreateRevision)
}

func TestAKeyHasAHistoryUntilItIsCompacted(t *testing.T) {
	s := spec.New()
	put(t, s, "k", "a") // 2
	put(t, s, "k", "b") // 3
	if _, err := s.DeleteRange(&pb.DeleteRangeRequest{Key: []byte("k")}); err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "c") // 5
	want := map[int64]string{0: "c v1 of 5", -9: "c v1 of 5", 1: "absent", 2: "a v1 of 2", 3: "b v2 of 2", 4: "absent", 6: rpctypes.ErrFutureRev.Error()}
	for rev, w := range want {
		if got := get(t, s, "k", rev); got != w {
			t.Errorf("at %d: %s, want %s", rev, got, w)
		}
	}
	if _, err := s.Compact(&pb.CompactionRequest{Revision: 3}); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, "k", 2); got != rpctypes.ErrCompacted.Error() {
		t.Errorf("compacted: %s", got)
	}
	if got := get(t, s, "k", 3); got != "b v2 of 2" {
		t.Errorf("at the compacted revision: %s", got)
	}
	events, err := s.Events(3)
	if err != nil || len(events) != 3 {
		t.Fatalf("%v, %v", events, err)
	}
	// What was before revision 3 is compacted, what was before 4 isn't.
	if events[0].PrevKv != nil || string(events[1].PrevKv.GetValue()) != "b" || events[1].Type != mvccpb.Event_DELETE || events[2].PrevKv != nil {
		t.Errorf("%v", events)
	}
	if _, err := s.Events(2); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("events from a compacted revision: %v", err)
	}
}

func TestCompactingAtZeroWorksOnce(t *testing.T) {
	s := spec.New()
	for i, want := range []error{nil, rpctypes.ErrCompacted} {
		if _, err := s.Compact(&pb.CompactionRequest{Revision: 0}); !errors.Is(err, want) {
			t.Errorf("time %d: %v", i, err)
		}
	}
	if _, err := s.Compact(&pb.CompactionRequest{Revision: 2}); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Errorf("future: %v", err)
	}
}

func TestLeasesExpireInOneRevisionWithTheirKeys(t *testing.T) {
	s := spec.New()
	for _, id := range []int64{1, 2} {
		if _, err := s.LeaseGrant(&pb.LeaseGrantRequest{ID: id, TTL: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for i, key := range []string{"b", "a", "c"} {
		if _, err := s.Put(&pb.PutRequest{Key: []byte(key), Lease: int64(1 + i/2)}); err != nil {
			t.Fatal(err)
		}
	}
	s.Expire(1, 9, 2)
	events, err := s.Events(5)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, e := range events {
		got += fmt.Sprintf("%d%s ", e.Kv.ModRevision, e.Kv.Key)
	}
	if got != "5a 5b 5c " || len(s.Leases()) != 0 || s.Rev() != 5 {
		t.Errorf("events %q, leases %v, revision %d", got, s.Leases(), s.Rev())
	}
}

func TestCloneIsIndependentAndEqualMeansEqual(t *testing.T) {
	a := spec.New()
	put(t, a, "k", "1")
	b := a.Clone()
	if !a.Equal(b) || a.Hash() != b.Hash() {
		t.Fatal("a clone differs")
	}
	put(t, b, "x", "1")
	put(t, a, "y", "1")
	if a.Equal(b) || get(t, a, "x", 0) != "absent" || get(t, b, "y", 0) != "absent" {
		t.Fatal("a clone shares its future")
	}
	// How a state came about doesn't matter once that is compacted.
	c, d := spec.New(), spec.New()
	put(t, c, "k", "1")
	put(t, d, "k", "2")
	for _, s := range []*spec.State{c, d} {
		if _, err := s.DeleteRange(&pb.DeleteRangeRequest{Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
		put(t, s, "z", "1")
		if c.Equal(d) {
			t.Fatal("readable histories differ")
		}
	}
	for _, s := range []*spec.State{c, d} {
		if _, err := s.Compact(&pb.CompactionRequest{Revision: 4}); err != nil {
			t.Fatal(err)
		}
	}
	if !c.Equal(d) || c.Hash() != d.Hash() {
		t.Fatal("unreadable histories tell states apart")
	}
}

// outcome is what a client saw.
type outcome struct {
	resp proto.Message
	err  error
}

// The model for porcupine, as a checker of recorded histories uses it.
func model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return spec.New() },
		Step: func(state, input, output any) (bool, any) {
			next := state.(*spec.State).Clone()
			resp, err := next.Apply(input.(proto.Message))
			seen := output.(outcome)
			if err != nil || seen.err != nil {
				return errors.Is(seen.err, err), next
			}
			return proto.Equal(resp, seen.resp), next
		},
		Equal: func(a, b any) bool { return a.(*spec.State).Equal(b.(*spec.State)) },
	}
}

func TestPorcupineTellsLinearizableFromStale(t *testing.T) {
	write := &pb.PutRequest{Key: []byte("k"), Value: []byte("1")}
	read := &pb.RangeRequest{Key: []byte("k")}
	s := spec.New()
	before, _ := s.Apply(read)
	wrote, _ := s.Apply(write)
	after, _ := s.Apply(read)
	history := func(call int64, saw proto.Message) []porcupine.Operation {
		return []porcupine.Operation{
			{ClientId: 0, Input: write, Call: 0, Output: outcome{resp: wrote}, Return: 10},
			{ClientId: 1, Input: read, Call: call, Output: outcome{resp: saw}, Return: call + 5},
		}
	}
	for _, tt := range []struct {
		name string
		ops  []porcupine.Operation
		want bool
	}{
		{"concurrent read of the old value", history(5, before), true},
		{"concurrent read of the new value", history(5, after), true},
		{"later read of the new value", history(20, after), true},
		{"later read of the old value", history(20, before), false},
	} {
		if got := porcupine.CheckOperations(model(), tt.ops); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
