package catalog

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/choices"
	"github.com/musterhq/muster/sdk"
)

// TestIncrementalEqualsListing applies random changes one by one, in random groups, and compares with a listing of the
// same content; earlier snapshots must stay as they were.
func TestIncrementalEqualsListing(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			changeAndList(t, rand.New(rand.NewPCG(seed, 1)), 60, nil)
		})
	}
}

// changeAndList makes that many snapshots. value is stored here and there, if it isn't nil.
func changeAndList(t *testing.T, rnd *rand.Rand, snapshots int, value []byte) {
	f := &feed{c: &Catalog{logger: quiet()}, orphans: map[discovery.Ref]orphan{}, logged: map[string]bool{}}
	snap := newBuilder(nil).publish(0, time.Time{})
	content := map[string]sdk.KV{}
	type old struct {
		s    *Snapshot
		text string
	}
	var kept []old
	rev := int64(1)
	for range snapshots {
		b := newBuilder(snap)
		for range 1 + rnd.IntN(8) {
			rev++
			ref := discovery.Ref{NS: pick(rnd, "n1", "n2"), Svc: pick(rnd, "a", "b", "c"), ID: pick(rnd, "x", "y", "z", "w")}
			var key, val string
			switch rnd.IntN(4) {
			case 0:
				key, val = discovery.ServiceKey(ref.NS, ref.Svc), fmt.Sprintf(`{"dns_ttl":%d}`, rev)
			case 1:
				key, val = ref.HealthKey(), fmt.Sprintf(`{"status":%q}`, pick(rnd, "PASSING", "WARNING", "CRITICAL", "NEWER"))
			default:
				key, val = inst(ref.NS, ref.Svc, ref.ID, pick(rnd, "h1", "h2", "h3", ""))
			}
			ev := sdk.Event{KV: sdk.KV{Key: key, ModRevision: rev}}
			if rnd.IntN(3) == 0 {
				ev.Type = sdk.Delete
				delete(content, key)
			} else {
				if rnd.IntN(12) == 0 {
					val = "bad"
				}
				if value != nil && rnd.IntN(3) == 0 {
					val = string(value)
				}
				ev.KV.Value = []byte(val)
				content[key] = ev.KV
			}
			f.apply(b, ev)
		}
		snap = b.publish(rev, time.Time{})
		kept = append(kept, old{snap, dump(snap)})
	}
	lister := newStore()
	lister.kvs, lister.rev = content, rev
	g := &feed{c: &Catalog{logger: quiet(), source: lister, synced: make(chan struct{}), updates: make(chan struct{}, 1)}, logged: map[string]bool{}}
	if err := g.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := dump(snap), dump(g.c.Snapshot()); got != want {
		t.Fatalf("incremental\n%s\nlisting\n%s", got, want)
	}
	for i, o := range kept {
		if dump(o.s) != o.text {
			t.Fatalf("snapshot %d changed afterwards", i)
		}
	}
}

// FuzzChanges lets the fuzzer choose the changes, and a value that is stored under keys of every kind.
func FuzzChanges(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 250, 100}, []byte(`{"node":"h1","state":"DRAINING"}`))
	f.Add([]byte("some more of these choices"), []byte(`{"status":"STARTING","ns":"n1"}`))
	f.Add([]byte{}, []byte("{"))
	f.Fuzz(func(t *testing.T, script, value []byte) {
		src := choices.Of(script, 1000)
		changeAndList(t, rand.New(src), 1+len(script)/40, value)
	})
}

func pick(r *rand.Rand, of ...string) string { return of[r.IntN(len(of))] }

func TestNewSnapshotIsSortedAndServes(t *testing.T) {
	s := NewSnapshot(7,
		discovery.Instance{NS: "default", Svc: "web", ID: "b", Node: "h1"},
		discovery.Instance{NS: "default", Svc: "web", ID: "a", Node: "h1", State: discovery.StateDraining},
	)
	v := s.Service("default", "web")
	if v.Instances[0].Instance.ID != "a" || v.Instances[1].Instance.ID != "b" || v.Serving != 1 || s.Rev() != 7 {
		t.Fatalf("got %+v", v)
	}
	p := s.WithPolicy(discovery.Service{NS: "default", Name: "web", MaxAnswers: 3})
	if p.Service("default", "web").Policy.MaxAnswers != 3 || v.HasPolicy {
		t.Fatal("policy not set, or set in the old snapshot")
	}
	h := p.WithHealth(discovery.Ref{NS: "default", Svc: "web", ID: "b"}, &discovery.Health{Status: discovery.StatusCritical})
	if h.Service("default", "web").Serving != 0 || p.Service("default", "web").Serving != 1 {
		t.Fatal("health not set, or set in the old snapshot")
	}
	if got := len(h.Node("h1")); got != 2 || h.Node("h2") != nil {
		t.Fatalf("%d instances on h1", got)
	}
}

func big(n, perService int) *Snapshot {
	b := newBuilder(nil)
	for i := range n {
		in := bigInstance(i, perService)
		b.putInstance(in.Ref(), in, int64(i))
	}
	return b.publish(int64(n), time.Time{})
}

func bigInstance(i, perService int) discovery.Instance {
	return discovery.Instance{
		NS: "default", Svc: fmt.Sprintf("svc-%d", i/perService), ID: fmt.Sprintf("i-%d", i), Node: fmt.Sprintf("h-%d", i%2000),
		Endpoints: []discovery.Endpoint{{Name: "http", Proto: "tcp", Addr: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), Port: 8080}},
	}
}

func BenchmarkOneChangeAt100k(b *testing.B) {
	for _, per := range []int{1, 50, 5000, 100000} {
		b.Run(fmt.Sprintf("%d_a_service", per), func(b *testing.B) {
			snap := big(100000, per)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				in := bigInstance(i%100000, per)
				bld := newBuilder(snap)
				bld.putInstance(in.Ref(), in, snap.rev+1)
				snap = bld.publish(snap.rev+1, time.Time{})
				i += 7919
			}
		})
	}
}

func BenchmarkColdListing100k(b *testing.B) {
	s := newStore()
	for i := range 100000 {
		in := bigInstance(i, 50)
		in.Normalize()
		in.Tags, in.Meta, in.Owner, in.Epoch = []string{"v2", "blue"}, map[string]string{"team": "x"}, in.Node, 42
		h := discovery.Health{Status: discovery.StatusPassing, Checks: map[string]discovery.Status{"http": discovery.StatusPassing}}
		for k, v := range map[string][]byte{in.Ref().InstanceKey(): in.Encode(), in.Ref().HealthKey(): h.Encode()} {
			s.kvs[k] = sdk.KV{Key: k, Value: v, ModRevision: 1}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		f := &feed{c: &Catalog{logger: quiet(), source: s, synced: make(chan struct{}), updates: make(chan struct{}, 1)}, logged: map[string]bool{}}
		if err := f.list(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100000, "ns/instance")
}

func BenchmarkLookup(b *testing.B) {
	snap := big(100000, 50)
	b.ReportAllocs()
	for b.Loop() {
		if snap.Service("default", "svc-1234") == nil {
			b.Fatal("not found")
		}
	}
}
