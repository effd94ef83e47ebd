package node

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/vfs"
)

// request is a client's command.
type request struct {
	kind machine.Kind
	body []byte
}

// requests are random ones over few keys and leases, so that they meet.
func requests(t *testing.T, rng *rand.Rand, n int) []request {
	t.Helper()
	key := func() []byte { return []byte{"abcdef"[rng.IntN(6)]} }
	put := func() *pb.PutRequest {
		r := &pb.PutRequest{Key: key(), Value: make([]byte, rng.IntN(300)), PrevKv: true, IgnoreLease: rng.IntN(5) == 0}
		if !r.IgnoreLease && rng.IntN(3) == 0 {
			r.Lease = int64(1 + rng.IntN(4))
		}
		return r
	}
	del := func() *pb.DeleteRangeRequest {
		return &pb.DeleteRangeRequest{Key: key(), RangeEnd: [][]byte{nil, {0}, key()}[rng.IntN(3)], PrevKv: true}
	}
	revision := int64(1) // about where the store is
	var all []request
	for range n {
		var kind machine.Kind
		var m proto.Message
		switch k := rng.IntN(20); {
		case k < 8:
			kind, m = machine.Put, put()
		case k < 11:
			kind, m = machine.DeleteRange, del()
		case k < 15:
			kind, m = machine.Txn, &pb.TxnRequest{
				Compare: []*pb.Compare{{Key: key(), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{Version: int64(rng.IntN(3))}}},
				Success: []*pb.RequestOp{
					{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: del()}},
					{Request: &pb.RequestOp_RequestPut{RequestPut: put()}},
				},
				Failure: []*pb.RequestOp{
					{Request: &pb.RequestOp_RequestPut{RequestPut: put()}},
					{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}}}},
				},
			}
		case k < 16:
			kind, m = machine.Compact, &pb.CompactionRequest{Revision: max(0, revision-int64(rng.IntN(40)))}
		case k < 19:
			kind, m = machine.LeaseGrant, &pb.LeaseGrantRequest{ID: int64(1 + rng.IntN(4)), TTL: int64(rng.IntN(100))}
		default:
			kind, m = machine.LeaseRevoke, &pb.LeaseRevokeRequest{ID: int64(1 + rng.IntN(4))}
		}
		body, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, request{kind, body})
		revision++
	}
	return all
}

// lone is a member by itself, stepped by hand over a disk in memory. As a hub it
// notes the events of each revision.
type lone struct {
	t       *testing.T
	cfg     Config
	disk    *vfs.Mem
	n       *Member
	nextID  uint64
	answers map[uint64]string // by command
	events  map[int64]string
}

func newLone(t *testing.T) *lone {
	l := &lone{t: t, disk: vfs.NewMem(), answers: map[uint64]string{}, events: map[int64]string{}}
	l.cfg = Config{
		Name: "m", Dir: "data", InitialCluster: map[string][]string{"m": {"http://m:2380"}}, Token: "t",
		SegmentBytes: 16 << 10, KeepBytes: 4 << 10, Machine: machine.Config{Settings: machine.Settings{Quota: 60_000}},
		Wall: func() time.Time { return time.Unix(1, 0) },
	}
	l.open()
	return l
}

func (l *lone) open() {
	l.t.Helper()
	l.cfg.FS = l.disk
	n, err := OpenMember(l.t.Context(), l.cfg, func(*Member) Hub { return l }, func(first uint64) func() uint64 {
		l.nextID = first
		return l.drawID
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.n = n
	n.Step.SetTime(time.Second, 1)
	n.Step.Campaign()
	l.settle()
}

func (l *lone) drawID() uint64 {
	l.nextID++
	return l.nextID - 1
}

func (l *lone) Reset(int64) { l.t.Error("a member by itself was sent a checkpoint") }

func (l *lone) Notify(_ int64, events []mvcc.Event) {
	seen := map[int64]string{}
	for _, e := range events {
		seen[e.Rev] += fmt.Sprintf("%v %x was %x; ", e.Delete, []byte(e.KV), []byte(e.Prev))
	}
	for rev, text := range seen {
		if before, ok := l.events[rev]; ok && before != text {
			l.t.Errorf("revision %d had %s, and %s after a restart", rev, before, text)
		}
		l.events[rev] = text
	}
}

// settle carries out all there is to do, down to the last answer.
func (l *lone) settle() {
	l.t.Helper()
	for {
		e := l.n.Step.Take()
		if len(e.Append) == 0 && len(e.Apply) == 0 {
			return
		}
		writes, applies := slices.Clone(e.Append), slices.Clone(e.Apply)
		if err := l.n.Write(writes); err != nil {
			l.t.Fatal(err)
		}
		for _, w := range writes {
			l.n.Step.Appended(w)
		}
		for _, a := range applies {
			done, results, err := l.n.Apply(a)
			if err != nil {
				l.t.Fatal(err)
			}
			for _, r := range results {
				l.answers[r.ID] = fmt.Sprintf("revision %d error %v body %x", r.Rev, r.Err, r.Body)
			}
			l.n.Step.ApplyFinished(done)
		}
	}
}

// checkpoint saves the state and lets the log go that it covers.
func (l *lone) checkpoint() {
	l.t.Helper()
	if err := l.n.Save(l.t.Context(), l.n.View(), nil); err != nil {
		l.t.Fatal(err)
	}
	if err := l.n.ReleaseLog(); err != nil {
		l.t.Fatal(err)
	}
}

// restart ends the member in one of the ways in which one may end.
func (l *lone) restart(rng *rand.Rand) {
	l.t.Helper()
	if rng.IntN(3) == 0 {
		if err := l.n.SaveFinal(l.t.Context()); err != nil {
			l.t.Fatal(err)
		}
		if err := l.n.Release(); err != nil {
			l.t.Fatal(err)
		}
	} else {
		l.disk = l.disk.Crash(rng, vfs.CrashMode(rng.IntN(4)))
	}
	l.open()
}

// outcome is what came of a list of requests.
type outcome struct {
	answers []string
	events  map[int64]string
	state   string
}

// execute proposes the requests. Without rng each is an entry of its own and
// nothing else happens; with it they are batched, some batches are under way
// together, and checkpoints, restarts and the work of compaction come between.
func execute(t *testing.T, all []request, rng *rand.Rand) outcome {
	t.Helper()
	l := newLone(t)
	chance := func(n int) bool { return rng != nil && rng.IntN(n) == 0 }
	var out outcome
	for len(all) > 0 {
		var ids []uint64
		for more := true; more && len(all) > 0; more = rng != nil && rng.IntN(3) == 0 {
			size := 1
			if rng != nil {
				size = 1 + rng.IntN(8)
			}
			b := NewBatch(1024, time.Hour)
			for _, r := range all[:min(size, len(all))] {
				c := machine.Command{Kind: r.kind, ID: l.drawID(), Member: l.n.ID, Body: r.body}
				b.Add(&c)
				ids = append(ids, c.ID)
			}
			all = all[min(size, len(all)):]
			l.n.Step.Propose(b)
		}
		l.settle()
		for _, id := range ids {
			out.answers = append(out.answers, l.answers[id])
		}
		if chance(3) {
			l.n.Background(1 + rng.IntN(20))
		}
		if chance(15) {
			l.checkpoint()
		}
		if chance(15) {
			l.restart(rng)
		}
	}
	v := l.n.View()
	hash, compacted, at, err := v.KV.HashKV(0)
	if err != nil {
		t.Fatal(err)
	}
	leases := ""
	for id := range int64(5) {
		if le, ok := v.Leases.Lookup(id); ok {
			leases += fmt.Sprintf("%d for %d s with %q, ", id, le.TTL, v.Leases.Keys(id))
		}
	}
	out.events = l.events
	out.state = fmt.Sprintf("hash %x; keys %x compacted %d at %d; used %d; leases %s", v.Hash, hash, compacted, at, v.Used, leases)
	if err := l.n.Release(); err != nil {
		t.Fatal(err)
	}
	return out
}

// The same commands have the same answers, events and state whatever entries
// they come in, and whatever is saved, forgotten and recovered in between.
func TestBatchesCheckpointsCompactionAndRestartsChangeNoAnswer(t *testing.T) {
	seeds := uint64(12)
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		all := requests(t, rand.New(rand.NewPCG(seed, 1)), 600)
		plain := execute(t, all, nil)
		done := 0
		for _, a := range plain.answers {
			if strings.Contains(a, "error <nil>") {
				done++
			}
		}
		if done < len(all)/3 {
			t.Fatalf("seed %d: %d of %d requests were carried out; the test tests little", seed, done, len(all))
		}
		for variant := range uint64(3) {
			other := execute(t, all, rand.New(rand.NewPCG(seed, 100+variant)))
			for i, want := range plain.answers {
				if got := other.answers[i]; got != want {
					t.Fatalf("seed %d variant %d: request %d\ngot  %s\nwant %s", seed, variant, i, got, want)
				}
			}
			for rev, want := range plain.events {
				if got := other.events[rev]; got != want {
					t.Fatalf("seed %d variant %d: events of revision %d\ngot  %s\nwant %s", seed, variant, rev, got, want)
				}
			}
			if len(other.events) != len(plain.events) || other.state != plain.state {
				t.Fatalf("seed %d variant %d: %d revisions had events, want %d\ngot  %s\nwant %s",
					seed, variant, len(other.events), len(plain.events), other.state, plain.state)
			}
		}
	}
}
