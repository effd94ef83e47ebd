package watch

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/musterhq/muster/internal/choices"
)

// fact is one event as it happened, kept by the test's own simple means.
type fact struct {
	rev         int64
	key         string
	del         bool
	value, prev string
	hadPrev     bool
}

// history is the naive model: everything that ever happened, in order.
type history struct {
	facts      []fact
	live       map[string]string
	compacted  map[int64]bool
	compactRev int64
}

// wanted is what a watcher must be sent from revision rev on.
func (h *history) wanted(r Request, rev int64) []fact {
	i, _ := slices.BinarySearchFunc(h.facts, rev, func(f fact, rev int64) int { return cmp.Compare(f.rev, rev) })
	var out []fact
	for _, f := range h.facts[i:] {
		in := f.key == string(r.Key)
		if len(r.End) > 0 {
			in = f.key >= string(r.Key) && (string(r.End) == "\x00" || f.key < string(r.End))
		}
		if in && !(f.del && r.NoDelete) && !(!f.del && r.NoPut) {
			out = append(out, f)
		}
	}
	return out
}

// client is one watcher as its client sees it.
type client struct {
	req      Request
	from     int64 // every event at or after it is owed
	got      []fact
	bookmark int64 // newest progress revision
}

func (c *client) next() int64 {
	if len(c.got) == 0 {
		return c.from
	}
	return c.got[len(c.got)-1].rev + 1
}

// world is a store, its model and some streams.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	store   *store
	model   history
	streams []*connection
	done    []*client // canceled by compaction or by us
}

type connection struct {
	*Stream
	clients   map[int64]*client
	pending   []*client      // asked for, not answered yet, in order
	compacted map[int64]bool // ids canceled by compaction
}

func newWorld(t *testing.T, rng *rand.Rand, budget int) *world {
	w := &world{t: t, rng: rng, store: newStore(t, Config{StreamBudget: budget})}
	w.model = history{live: map[string]string{}, compacted: map[int64]bool{}, compactRev: -1}
	for range 4 {
		w.streams = append(w.streams, &connection{Stream: w.store.hub.NewStream(), clients: map[int64]*client{}, compacted: map[int64]bool{}})
	}
	return w
}

func (w *world) key() string { return string(rune('a' + w.rng.IntN(6))) }

// commit makes a random revision in store and model.
func (w *world) commit() {
	var ops []op
	touched := map[string]bool{}
	for range 1 + w.rng.IntN(1+w.rng.IntN(4)) {
		k := w.key()
		if touched[k] {
			continue // a transaction changes a key once
		}
		touched[k] = true
		if w.rng.IntN(4) == 0 {
			ops = append(ops, op{key: k, del: true})
		} else {
			size := 1 << w.rng.IntN(11)
			ops = append(ops, op{key: k, value: fmt.Sprintf("%d-%s", w.rng.IntN(1e6), strings.Repeat("v", w.rng.IntN(size)))})
		}
	}
	if w.rng.IntN(12) == 0 && len(touched) == 1 {
		ops = []op{{key: "a", end: "\x00", del: true}}
	}
	rev := w.store.kv.Rev() + 1
	before := len(w.model.facts)
	for _, o := range ops {
		w.apply(rev, o)
	}
	if got, want := len(w.store.commit(ops...)), len(w.model.facts)-before; got != want {
		w.t.Fatalf("store made %d events of %v, the model %d", got, ops, want)
	}
}

func (w *world) apply(rev int64, o op) {
	m := &w.model
	if !o.del {
		prev, had := m.live[o.key]
		m.live[o.key] = o.value
		m.facts = append(m.facts, fact{rev: rev, key: o.key, value: o.value, prev: prev, hadPrev: had})
		return
	}
	var keys []string
	for k := range m.live {
		if k == o.key || o.end == "\x00" && k >= o.key {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		m.facts = append(m.facts, fact{rev: rev, key: k, del: true, prev: m.live[k], hadPrev: true})
		delete(m.live, k)
	}
}

func (w *world) compact() {
	hi := w.store.hub.Rev()
	lo := max(w.model.compactRev, 0)
	if hi <= lo {
		return
	}
	rev := lo + 1 + w.rng.Int64N(hi-lo)
	w.store.compact(w.t, rev)
	for w.rng.IntN(2) == 0 && w.store.kv.CompactStep(1+w.rng.IntN(50)) {
	}
	w.store.view.Store(w.store.kv.Publish())
	w.model.compactRev = rev
	w.model.compacted[rev] = true
}

func (w *world) watch(c *connection) {
	rev := w.store.hub.Rev()
	r := Request{
		Key: []byte(w.key()), PrevKV: w.rng.IntN(2) == 0, Progress: w.rng.IntN(2) == 0,
		NoPut: w.rng.IntN(8) == 0, NoDelete: w.rng.IntN(8) == 0,
	}
	switch w.rng.IntN(4) {
	case 0:
		r.End = []byte{0}
	case 1:
		r.End = []byte(w.key())
	}
	switch w.rng.IntN(4) {
	case 0:
		r.StartRev = 1 + w.rng.Int64N(rev+1)
	case 1:
		r.StartRev = rev + w.rng.Int64N(20)
	}
	if w.rng.IntN(3) == 0 {
		r.ID = 1 + w.rng.Int64N(8)
	}
	c.Watch(r)
	cl := &client{req: r, from: r.StartRev}
	if r.StartRev == 0 {
		cl.from = rev + 1
	}
	c.pending = append(c.pending, cl)
}

// poll takes one response off a stream and checks it against the model.
func (w *world) poll(c *connection) bool {
	r, ok, err := c.Poll(w.t.Context())
	if err != nil {
		w.t.Fatalf("poll: %v", err)
	}
	if !ok {
		return false
	}
	if r.Created {
		cl := c.pending[0]
		c.pending = c.pending[1:]
		if r.Canceled {
			empty := len(cl.req.End) > 0 && string(cl.req.End) != "\x00" && string(cl.req.Key) >= string(cl.req.End)
			if r.WatchID != InvalidID || !empty && !errors.Is(r.Err, ErrDuplicateID) {
				w.t.Fatalf("request %+v was refused: %s", cl.req, show(w.t, r))
			}
			return true
		}
		if old := c.clients[r.WatchID]; old != nil {
			w.t.Fatalf("id %d was given twice", r.WatchID)
		}
		c.clients[r.WatchID] = cl
		return true
	}
	if r.WatchID == InvalidID {
		for _, cl := range c.clients {
			w.progress(cl, r.Rev)
		}
		return true
	}
	cl := c.clients[r.WatchID]
	if cl == nil && r.Canceled && c.compacted[r.WatchID] {
		delete(c.compacted, r.WatchID) // it had gone by itself when we canceled it
		return true
	}
	if cl == nil {
		w.t.Fatalf("a response for a watcher that isn't: %s", show(w.t, r))
	}
	switch {
	case r.Canceled:
		if r.CompactRev != 0 && (r.CompactRev > w.model.compactRev || cl.next() >= r.CompactRev && cl.from >= r.CompactRev) {
			w.t.Fatalf("watcher owed from %d canceled: %s; compacted at %d", cl.from, show(w.t, r), w.model.compactRev)
		}
		if r.CompactRev != 0 {
			c.compacted[r.WatchID] = true
		}
		w.done = append(w.done, cl)
		delete(c.clients, r.WatchID)
	case len(r.Events) == 0:
		w.progress(cl, r.Rev)
	default:
		w.events(cl, r)
	}
	return true
}

// progress checks that all that happened up to rev was delivered, and that the
// watcher's start has been reached.
func (w *world) progress(cl *client, rev int64) {
	if rev < cl.req.StartRev {
		w.t.Fatalf("progress %d before start %d", rev, cl.req.StartRev)
	}
	if rev < cl.bookmark {
		w.t.Fatalf("progress %d after progress %d", rev, cl.bookmark)
	}
	cl.bookmark = rev
	if owed := w.model.wanted(cl.req, max(cl.next(), cl.from)); len(owed) > 0 && owed[0].rev <= rev {
		w.t.Fatalf("progress %d but %+v was not delivered", rev, owed[0])
	}
	if cl.next() > rev+1 && len(cl.got) > 0 {
		w.t.Fatalf("progress %d after event %d", rev, cl.next()-1)
	}
}

// events checks that a response continues where the last one ended, with whole
// revisions, each event right.
func (w *world) events(cl *client, r Response) {
	owed := w.model.wanted(cl.req, cl.next())
	for i, e := range r.Events {
		ev := decode(w.t, e)
		if i >= len(owed) {
			w.t.Fatalf("event never happened or not for %+v: %v", cl.req, ev)
		}
		f := owed[i]
		got := fact{rev: ev.Kv.ModRevision, key: string(ev.Kv.Key), del: ev.Type == mvccpb.Event_DELETE, value: string(ev.Kv.Value)}
		got.hadPrev = ev.PrevKv != nil
		got.prev = string(ev.PrevKv.GetValue())
		if want := f; !cl.req.PrevKV || !got.hadPrev && w.model.compacted[f.rev] {
			want.prev, want.hadPrev = "", false
			f = want
		}
		if got != f {
			w.t.Fatalf("watcher %+v got %+v, want %+v", cl.req, got, f)
		}
		if got.rev <= cl.bookmark {
			w.t.Fatalf("event %d after progress %d", got.rev, cl.bookmark)
		}
	}
	n := len(r.Events)
	if n < len(owed) && owed[n].rev == owed[n-1].rev {
		w.t.Fatalf("revision %d was torn between responses", owed[n].rev)
	}
	if r.Rev < owed[n-1].rev || n < len(owed) && owed[n].rev <= r.Rev {
		w.t.Fatalf("response with events up to %d claims revision %d, next is %+v", owed[n-1].rev, r.Rev, owed[n:])
	}
	cl.got = append(cl.got, owed[:n]...)
}

func (w *world) step() {
	c := w.streams[w.rng.IntN(len(w.streams))]
	switch w.rng.IntN(16) {
	case 0, 1, 2, 3:
		for range 1 + w.rng.IntN(8) {
			w.commit()
		}
		w.store.notify()
	case 4:
		w.commit() // published, not notified yet
	case 5:
		hook := func() {
			w.commit()
			if w.rng.IntN(2) == 0 {
				w.store.notify()
			}
		}
		if w.rng.IntN(2) == 0 {
			w.store.beforeView = hook
		} else {
			w.store.afterView = hook
		}
	case 6:
		if w.rng.IntN(4) == 0 {
			w.compact()
		}
	case 7:
		if w.rng.IntN(4) == 0 {
			for range w.rng.IntN(30) {
				w.commit()
			}
			w.store.reset()
		}
	case 8, 9:
		w.watch(c)
	case 10:
		for _, id := range slices.Sorted(maps.Keys(c.clients)) {
			if w.rng.IntN(3) == 0 {
				c.Cancel(id)
				break
			}
		}
	case 11:
		c.RequestProgress()
	case 12:
		c.Tick()
	default:
		slow := slices.Index(w.streams, c) == 0
		for range 1 + w.rng.IntN(10) {
			if slow && w.rng.IntN(20) != 0 || !w.poll(c) {
				break
			}
		}
	}
}

// TestWatchersAgreeWithANaiveModelWhateverTheInterleaving runs slow, fast and
// cancelling watchers against a list of everything that happened.
func TestWatchersAgreeWithANaiveModelWhateverTheInterleaving(t *testing.T) {
	seeds, steps := 60, 1200
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w := newWorld(t, rand.New(rand.NewPCG(uint64(seed), 1)), 4096<<(seed%4))
			for range steps {
				w.step()
			}
			w.finish()
		})
	}
}

// FuzzWatchers lets the fuzzer choose requests, writes, compactions and who
// reads when, and holds every response against the naive model.
func FuzzWatchers(f *testing.F) {
	rng := rand.New(rand.NewPCG(8, 8))
	for range 4 {
		b := make([]byte, 300)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		f.Add(b, uint8(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, budget uint8) {
		src := choices.Of(b, 3000)
		w := newWorld(t, rand.New(src), 4096<<(budget%4))
		for src.Left() {
			w.step()
		}
		w.finish()
	})
}

// finish drains all streams and checks that nothing is missing, and that each
// watcher's sequence can be resumed from any of its points.
func (w *world) finish() {
	w.store.beforeView, w.store.afterView = nil, nil
	w.store.notify()
	for _, c := range w.streams {
		for w.poll(c) {
		}
		if len(c.pending) > 0 {
			w.t.Fatalf("%d requests were never answered", len(c.pending))
		}
		for id, cl := range c.clients {
			if owed := w.model.wanted(cl.req, cl.next()); len(owed) > 0 {
				w.t.Fatalf("watcher %d, %+v, never got %+v", id, cl.req, owed[0])
			}
		}
		c.RequestProgress()
		reached := len(c.clients) > 0
		for _, cl := range c.clients {
			reached = reached && cl.req.StartRev <= w.store.hub.Rev()
		}
		if w.poll(c) != reached {
			w.t.Fatalf("drained stream: progress answered %t, want %t", !reached, reached)
		}
		for _, cl := range c.clients {
			w.resume(cl)
		}
	}
	for i := range w.streams {
		w.streams[i].Close()
	}
	if s := w.store.hub.Stats(); s.Streams != 0 || s.Watchers != 0 || s.Behind != 0 || s.PendingEvents != 0 {
		w.t.Fatalf("after all streams closed: %+v", s)
	}
}

func (w *world) resume(cl *client) {
	if len(cl.got) == 0 {
		return
	}
	again := *cl
	again.req.StartRev = cl.got[w.rng.IntN(len(cl.got))].rev
	again.req.ID = 0
	if again.req.StartRev < w.model.compactRev {
		return
	}
	again.from, again.got, again.bookmark = again.req.StartRev, nil, 0
	c := &connection{Stream: w.store.hub.NewStream(), clients: map[int64]*client{}, compacted: map[int64]bool{}, pending: []*client{&again}}
	defer c.Close()
	c.Watch(again.req)
	for w.poll(c) {
	}
	if want := w.model.wanted(again.req, again.from); !slices.Equal(again.got, want) {
		w.t.Fatalf("resumed at %d: got %d events, want %d", again.from, len(again.got), len(want))
	}
}
