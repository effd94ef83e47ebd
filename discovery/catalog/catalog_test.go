package catalog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is a small in-memory store with history, a scripted Source.
type store struct {
	mu       sync.Mutex
	rev      int64
	kvs      map[string]sdk.KV
	history  []sdk.WatchBatch // one a revision
	wake     chan struct{}
	down     error // what List and Revision answer
	cut      int64 // watches end with sdk.ErrCompacted when asked from below
	lists    int
	watchers int
}

func newStore() *store {
	return &store{rev: 1, kvs: map[string]sdk.KV{}, wake: make(chan struct{})}
}

func (s *store) txn(puts map[string]string, deletes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rev++
	b := sdk.WatchBatch{Header: sdk.Header{Revision: s.rev}}
	keys := make([]string, 0, len(puts))
	for k := range puts {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		kv := sdk.KV{Key: k, Value: []byte(puts[k]), ModRevision: s.rev}
		s.kvs[k] = kv
		b.Events = append(b.Events, sdk.Event{Type: sdk.Put, KV: kv})
	}
	for _, k := range deletes {
		if _, ok := s.kvs[k]; ok {
			delete(s.kvs, k)
			b.Events = append(b.Events, sdk.Event{Type: sdk.Delete, KV: sdk.KV{Key: k, ModRevision: s.rev}})
		}
	}
	s.history = append(s.history, b)
	close(s.wake)
	s.wake = make(chan struct{})
}

func (s *store) List(_ context.Context, fn func(sdk.KV)) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	if s.down != nil {
		return 0, s.down
	}
	keys := make([]string, 0, len(s.kvs))
	for k := range s.kvs {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		fn(s.kvs[k])
	}
	return s.rev, nil
}

func (s *store) Watch(ctx context.Context, rev int64) iter.Seq2[sdk.WatchBatch, error] {
	return func(yield func(sdk.WatchBatch, error) bool) {
		s.mu.Lock()
		s.watchers++
		s.mu.Unlock()
		for {
			s.mu.Lock()
			wake, err := s.wake, s.down
			if rev <= s.cut {
				err = sdk.ErrCompacted
			}
			var todo []sdk.WatchBatch
			if err == nil {
				for _, b := range s.history {
					if b.Header.Revision >= rev {
						todo = append(todo, b)
						rev = b.Header.Revision + 1
					}
				}
			}
			s.mu.Unlock()
			if err != nil && (errors.Is(err, sdk.ErrCompacted) || errors.Is(err, sdk.ErrPermissionDenied)) {
				yield(sdk.WatchBatch{}, err)
				return
			}
			for _, b := range todo {
				if !yield(b, nil) {
					return
				}
			}
			select {
			case <-ctx.Done():
				yield(sdk.WatchBatch{}, ctx.Err())
				return
			case <-wake:
			}
		}
	}
}

func (s *store) Revision(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev, s.down
}

func (s *store) set(fn func(s *store)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(s)
	close(s.wake)
	s.wake = make(chan struct{})
}

func inst(ns, svc, id, node string) (string, string) {
	r := discovery.Ref{NS: ns, Svc: svc, ID: id}
	i := discovery.Instance{ID: id, NS: ns, Svc: svc, Node: node, Endpoints: []discovery.Endpoint{{Name: "http", Addr: "10.0.0.1", Port: 80}}}
	return r.InstanceKey(), string(i.Encode())
}

func health(ns, svc, id string, st discovery.Status) (string, string) {
	h := discovery.Health{Status: st}
	return discovery.Ref{NS: ns, Svc: svc, ID: id}.HealthKey(), string(h.Encode())
}

func pairs(kv ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

func join(parts ...func() (string, string)) map[string]string {
	m := map[string]string{}
	for _, p := range parts {
		k, v := p()
		m[k] = v
	}
	return m
}

// dump renders a snapshot, so that two can be compared.
func dump(s *Snapshot) string {
	var b strings.Builder
	for v := range s.Services("") {
		fmt.Fprintf(&b, "%s/%s policy=%v ttl=%d serving=%d:", v.NS, v.Name, v.HasPolicy, v.Policy.DNSTTL, v.Serving)
		for _, i := range v.Instances {
			fmt.Fprintf(&b, " %s=%v", i.Instance.ID, i.Status)
		}
		b.WriteString("\n")
	}
	for _, n := range s.Nodes() {
		fmt.Fprintf(&b, "node %s:", n)
		for _, i := range s.Node(n) {
			fmt.Fprintf(&b, " %s=%v", i.Instance.Ref(), i.Status)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "namespaces %v instances %d", s.Namespaces(), s.instances)
	return b.String()
}

// open starts a catalog in a bubble.
func open(t *testing.T, s *store, changes *[]Change) *Catalog {
	t.Helper()
	c, err := Open(t.Context(), Config{Source: s, OnChange: func(ch Change) {
		if changes != nil {
			*changes = append(*changes, ch)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	synctest.Wait()
	return c
}

func TestChangesArriveAsSnapshotsThatNeverChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.txn(join(func() (string, string) { return inst("default", "web", "a", "h1") }))
		var changes []Change
		c := open(t, s, &changes)
		first := c.Snapshot()
		if got, want := dump(first), "default/web policy=false ttl=0 serving=1: a=PASSING\nnode h1: default/web/a=PASSING\nnamespaces [default] instances 1"; got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		before := dump(first)
		s.txn(join(
			func() (string, string) { return inst("default", "web", "b", "h1") },
			func() (string, string) { return health("default", "web", "b", discovery.StatusCritical) },
			func() (string, string) { return inst("prod", "db", "x", "h2") },
		))
		synctest.Wait()
		second := c.Snapshot()
		want := "default/web policy=false ttl=0 serving=1: a=PASSING b=CRITICAL\nprod/db policy=false ttl=0 serving=1: x=PASSING\n" +
			"node h1: default/web/a=PASSING default/web/b=CRITICAL\nnode h2: prod/db/x=PASSING\nnamespaces [default prod] instances 3"
		if got := dump(second); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		if dump(first) != before {
			t.Fatalf("the first snapshot changed to\n%s", dump(first))
		}
		if second.Rev() != 3 || first.Rev() != 2 {
			t.Fatalf("revisions %d and %d", first.Rev(), second.Rev())
		}
		a := discovery.Ref{NS: "default", Svc: "web", ID: "a"}
		b := discovery.Ref{NS: "default", Svc: "web", ID: "b"}
		x := discovery.Ref{NS: "prod", Svc: "db", ID: "x"}
		s.txn(nil, a.InstanceKey(), b.InstanceKey(), b.HealthKey(), x.InstanceKey())
		synctest.Wait()
		if got := dump(c.Snapshot()); got != "namespaces [] instances 0" {
			t.Fatalf("something is left: %s", got)
		}
		if len(changes) != 3 || !changes[0].Resync || changes[1].Resync || changes[1].Old != first || len(changes[1].Services) != 2 {
			t.Fatalf("changes: %+v", changes)
		}
		if st := c.Stats(); st.Events != 7 || st.Undecodable != 0 || st.Resyncs != 1 {
			t.Fatalf("stats: %+v", st)
		}
	})
}

func TestAPolicyAloneMakesAServiceExist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.txn(pairs(discovery.ServiceKey("default", "web"), `{"dns_ttl":7}`))
		c := open(t, s, nil)
		v := c.Snapshot().Service("default", "web")
		if v == nil || !v.HasPolicy || v.Policy.DNSTTL != 7 || v.Policy.Name != "web" || len(v.Instances) != 0 {
			t.Fatalf("got %+v", v)
		}
		s.txn(nil, discovery.ServiceKey("default", "web"))
		synctest.Wait()
		if v := c.Snapshot().Service("default", "web"); v != nil || c.Snapshot().HasNamespace("default") {
			t.Fatalf("still there: %+v", v)
		}
	})
}

func TestHealthWithoutInstanceWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.txn(join(func() (string, string) { return health("default", "web", "a", discovery.StatusWarning) }))
		c := open(t, s, nil)
		if n, _ := c.Snapshot().Len(); n != 0 {
			t.Fatal("health alone made a service")
		}
		s.txn(join(func() (string, string) { return inst("default", "web", "a", "h1") }))
		synctest.Wait()
		a := discovery.Ref{NS: "default", Svc: "web", ID: "a"}
		if v := c.Snapshot().Instance("default", "web", "a"); v.Status != discovery.StatusWarning || !v.Serving {
			t.Fatalf("got %+v", v)
		}
		// The instance goes and comes back while its health stays.
		s.txn(nil, a.InstanceKey())
		s.txn(join(func() (string, string) { return inst("default", "web", "a", "h1") }))
		synctest.Wait()
		if v := c.Snapshot().Instance("default", "web", "a"); v.Status != discovery.StatusWarning {
			t.Fatalf("got %+v", v)
		}
		s.txn(nil, a.HealthKey())
		synctest.Wait()
		if v := c.Snapshot().Instance("default", "web", "a"); v.Status != discovery.StatusPassing || v.Health != nil {
			t.Fatalf("got %+v", v)
		}
	})
}

func TestUndecodableValuesAreLeftOutAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		k, v := inst("default", "web", "a", "h1")
		s.txn(pairs(k, v,
			discovery.Prefix+"inst/default/web/b", "not json",
			discovery.Prefix+"inst/default/web/c", "\x00binary",
			discovery.Prefix+"inst/default/UPPER/d", "{}",
			discovery.Prefix+"inst/default/short", "{}",
			discovery.Prefix+"inst/default/web/e", `{"id":"other"}`,
			discovery.Prefix+"svc/default/web", `{"dns_ttl":-1}`,
			discovery.Prefix+"health/default/web/a", `[]`,
			discovery.Prefix+"ovr/default/web/a", `whatever`,
			discovery.Prefix+"newer/thing", `whatever`,
		))
		c := open(t, s, nil)
		want := "default/web policy=false ttl=0 serving=0: a=UNKNOWN\nnode h1: default/web/a=UNKNOWN\nnamespaces [default] instances 1"
		if got := dump(c.Snapshot()); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		if st := c.Stats(); st.Undecodable != 7 {
			t.Fatalf("counted %d, want 7", st.Undecodable)
		}
		// A value that turns bad takes the instance out; one that turns good brings it back.
		s.txn(pairs(k, "{"))
		synctest.Wait()
		if c.Snapshot().Service("default", "web") != nil {
			t.Fatal("an instance of unreadable content stayed")
		}
		hk, hv := health("default", "web", "a", discovery.StatusPassing)
		s.txn(pairs(k, v, hk, hv))
		synctest.Wait()
		if v := c.Snapshot().Instance("default", "web", "a"); v == nil || !v.Serving {
			t.Fatalf("got %+v", v)
		}
	})
}

func TestCompactionListsAnewAndKeepsWhatIsTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.txn(join(func() (string, string) { return inst("default", "same", "a", "h1") },
			func() (string, string) { return health("default", "same", "a", discovery.StatusPassing) }))
		s.txn(join(func() (string, string) { return inst("default", "gone", "b", "h1") }))
		s.txn(join(func() (string, string) { return inst("default", "more", "c", "h1") }))
		var changes []Change
		c := open(t, s, &changes)
		old := c.Snapshot()
		s.set(func(s *store) {
			s.cut = s.rev + 3
			s.history = nil
			delete(s.kvs, discovery.Ref{NS: "default", Svc: "gone", ID: "b"}.InstanceKey())
			k, v := inst("default", "more", "d", "h2")
			s.rev += 3
			s.kvs[k] = sdk.KV{Key: k, Value: []byte(v), ModRevision: s.rev}
		})
		time.Sleep(time.Minute) // in the bubble
		synctest.Wait()
		now := c.Snapshot()
		if now.Service("default", "gone") != nil || len(now.Service("default", "more").Instances) != 2 {
			t.Fatalf("got\n%s", dump(now))
		}
		if now.Service("default", "same") != old.Service("default", "same") {
			t.Fatal("an unchanged service got a new view")
		}
		last := changes[len(changes)-1]
		slices.SortFunc(last.Services, func(a, b ServiceName) int { return strings.Compare(a.Name, b.Name) })
		if !last.Resync || fmt.Sprint(last.Services) != "[default/gone default/more]" {
			t.Fatalf("changed: %v", last.Services)
		}
		if rev := now.Service("default", "more").Rev; rev != now.Rev() {
			t.Fatalf("service revision %d, want %d", rev, now.Rev())
		}
		if c.Staleness() != 0 {
			t.Fatalf("stale by %v after a resync", c.Staleness())
		}
	})
}

func TestABrokenStoreKeepsTheLastSnapshotAndStalenessGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.txn(join(func() (string, string) { return inst("default", "web", "a", "h1") }))
		c := open(t, s, nil)
		time.Sleep(time.Minute)
		if c.Staleness() != 0 {
			t.Fatalf("stale by %v while idle", c.Staleness())
		}
		s.set(func(s *store) { s.down = sdk.ErrUnavailable })
		time.Sleep(10 * time.Minute)
		if got := c.Staleness(); got < 10*time.Minute || got > 10*time.Minute+2*DefaultPingInterval {
			t.Fatalf("staleness %v, want about 10m", got)
		}
		if c.Snapshot().Instance("default", "web", "a") == nil {
			t.Fatal("the last snapshot is gone")
		}
		s.set(func(s *store) { s.down = nil })
		s.txn(join(func() (string, string) { return inst("default", "web", "b", "h1") }))
		time.Sleep(DefaultPingInterval)
		synctest.Wait()
		if c.Staleness() != 0 || c.Snapshot().Instance("default", "web", "b") == nil {
			t.Fatalf("stale by %v after the store came back", c.Staleness())
		}
	})
}

func TestAStoreThatIsDownAtStartIsTriedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.down = sdk.ErrUnavailable
		c := open(t, s, nil)
		time.Sleep(time.Hour)
		if c.Snapshot() != nil {
			t.Fatal("a snapshot of nothing")
		}
		if c.Staleness() == 0 {
			t.Fatal("not stale without a store")
		}
		s.mu.Lock()
		lists := s.lists
		s.mu.Unlock()
		if lists < 300 || lists > 900 {
			t.Fatalf("%d attempts in an hour", lists)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := c.WaitSynced(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		cancel()
		s.set(func(s *store) { s.down = nil })
		if _, err := c.WaitSynced(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestADeniedWatchIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		c := open(t, s, nil)
		s.set(func(s *store) { s.down = sdk.ErrPermissionDenied })
		time.Sleep(time.Minute)
		if c.Staleness() < 50*time.Second {
			t.Fatalf("stale by only %v", c.Staleness())
		}
		s.set(func(s *store) { s.down = nil })
		s.txn(join(func() (string, string) { return inst("default", "web", "a", "h1") }))
		time.Sleep(time.Minute)
		if c.Snapshot().Instance("default", "web", "a") == nil || c.Staleness() != 0 {
			t.Fatal("didn't come back")
		}
	})
}

func TestAStoreRestoredToThePastIsListedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		for i := range 20 {
			s.txn(join(func() (string, string) { return inst("default", "web", fmt.Sprintf("i%d", i), "h1") }))
		}
		c := open(t, s, nil)
		s.set(func(s *store) {
			k, v := inst("default", "web", "i0", "h1")
			s.rev, s.history, s.kvs = 2, nil, map[string]sdk.KV{k: {Key: k, Value: []byte(v), ModRevision: 2}}
		})
		time.Sleep(2 * DefaultPingInterval)
		synctest.Wait()
		if n := len(c.Snapshot().Service("default", "web").Instances); n != 1 || c.Snapshot().Rev() != 2 {
			t.Fatalf("%d instances at revision %d", n, c.Snapshot().Rev())
		}
		s.txn(join(func() (string, string) { return inst("default", "web", "i1", "h1") }))
		synctest.Wait()
		if n := len(c.Snapshot().Service("default", "web").Instances); n != 2 {
			t.Fatalf("%d instances after the next change", n)
		}
	})
}

func TestOpenNeedsAStore(t *testing.T) {
	if _, err := Open(t.Context(), Config{}); !errors.Is(err, ErrNoSource) {
		t.Fatalf("got %v", err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
