package mvcc

import (
	"errors"
	"fmt"
	"math"
	"math/rand"
	"slices"
	"testing"
)

// dice makes the choices of a random history: from a seed, or from a fuzzer's bytes.
type dice struct {
	rng  *rand.Rand
	data []byte
}

func (d *dice) n(n int) int {
	if d.rng != nil {
		return d.rng.Intn(n)
	}
	if len(d.data) == 0 {
		return 0
	}
	x := int(d.data[0])
	d.data = d.data[1:]
	if n > 256 && len(d.data) > 0 {
		x, d.data = x<<8|int(d.data[0]), d.data[1:]
	}
	return x % n
}

func (d *dice) over() bool { return d.rng == nil && len(d.data) == 0 }

// key mixes the empty and the ugly, one long common prefix, and enough keys for a tree of several levels.
func (d *dice) key() []byte {
	switch d.n(4) {
	case 0:
		k := make([]byte, 1+d.n(3))
		for i := range k {
			k[i] = "\x00a\xffb"[d.n(4)]
		}
		return k
	case 1:
		return fmt.Appendf(nil, "/registry/pods/default/%04d", d.n(600))
	case 2:
		return fmt.Appendf(nil, "/registry/pods/default/%02d\x00%c", d.n(20), d.n(3))
	default:
		return fmt.Appendf(nil, "%c/registry/a-rather-long-prefix-that-keys-share/%x", 'a'+d.n(3), d.n(40))
	}
}

func (d *dice) end(key []byte) []byte {
	switch d.n(4) {
	case 0:
		return nil
	case 1:
		return []byte{0}
	case 2:
		return d.key()
	default:
		return append(slices.Clone(key), 0xff)
	}
}

func (d *dice) value() []byte {
	if d.n(40) == 0 {
		return slices.Repeat([]byte{'v'}, d.n(3000))
	}
	return fmt.Appendf(nil, "v%d", d.n(1000))
}

func (d *dice) options(rev int64) RangeOptions {
	o := RangeOptions{Key: d.key()}
	o.End = d.end(o.Key)
	if d.n(2) == 0 {
		o.Rev = rev + 1 - int64(d.n(int(rev)+2))
	}
	if d.n(2) == 0 {
		o.Limit = int64(d.n(12))
	}
	o.CountOnly = d.n(8) == 0
	if d.n(3) == 0 {
		o.SortBy, o.Order = SortTarget(d.n(5)), SortOrder(d.n(3))
	}
	for _, f := range []*int64{&o.MinMod, &o.MaxMod, &o.MinCreate, &o.MaxCreate} {
		if d.n(10) == 0 {
			*f = int64(d.n(int(rev) + 1))
		}
	}
	return o
}

func rangeText(res RangeResult, err error) string {
	switch {
	case errors.Is(err, ErrFutureRev):
		return ErrFutureRev.Error()
	case errors.Is(err, ErrCompacted):
		return ErrCompacted.Error()
	case err != nil:
		return err.Error()
	}
	return answer(res.KVs, res.Count, res.More, res.Rev)
}

// checkView asks a view a few random things and everything that can be asked whole.
func checkView(tb testing.TB, d *dice, v *View, m model, whole bool) {
	tb.Helper()
	if v.Rev() != m.rev || v.CompactRev() != m.compactRev {
		tb.Fatalf("view at %d, compacted %d; want %d, %d", v.Rev(), v.CompactRev(), m.rev, m.compactRev)
	}
	for range 4 {
		o := d.options(m.rev)
		got, want := rangeText(v.Range(o)), m.ranged(o, m.rev)
		if got != want {
			tb.Fatalf("range %+v\ngot  %s\nwant %s", o, got, want)
		}
		o.SortBy, o.Order, o.CountOnly = SortKey, OrderNone, false
		var rs []Record
		err := v.RangeEach(o, func(r Record) bool { rs = append(rs, r); return true })
		if full, _ := v.Range(o); err == nil && !slices.EqualFunc(rs, full.KVs, func(a, b Record) bool { return string(a) == string(b) }) {
			tb.Fatalf("range %+v: streamed %d records, want %d", o, len(rs), len(full.KVs))
		}
	}
	key := d.key()
	r, ok := v.Get(key)
	if c, want := m.get(key, m.rev); ok != want || ok && string(r) != string(c.record()) {
		tb.Fatalf("get %q: %x %v, want %v", key, []byte(r), ok, want)
	}
	if !whole {
		return
	}
	if want := int64(len(m.all([]byte{}, []byte{0}, m.rev))); v.Keys() != want {
		tb.Fatalf("%d keys, want %d", v.Keys(), want)
	}
	from := m.rev + 1 - int64(d.n(int(m.rev)+2))
	to := from + int64(d.n(30))
	got := []string{}
	if err := v.Events(from, to, func(e Event) bool {
		got = append(got, eventText(e.Rev, e.Delete, e.KV, e.Prev))
		return true
	}); errors.Is(err, ErrCompacted) {
		got = []string{ErrCompacted.Error()}
	} else if err != nil {
		tb.Fatal(err)
	}
	if want := m.events(from, to); !slices.Equal(got, want) {
		tb.Fatalf("events %d..%d, compacted %d\ngot  %q\nwant %q", from, to, m.compactRev, got, want)
	}
	if got, want := dumpText(v), m.dump(); !slices.Equal(got, want) {
		tb.Fatalf("dump, compacted %d\ngot  %q\nwant %q", m.compactRev, got, want)
	}
	rev := m.rev - int64(d.n(int(m.rev)))
	hash, compactRev, hashRev, err := v.HashKV(rev)
	if rev < m.compactRev {
		if !errors.Is(err, ErrCompacted) {
			tb.Fatalf("hash at %d below %d: %v", rev, m.compactRev, err)
		}
	} else if want := m.hash(rev); err != nil || hash != want || compactRev != m.compactRev || hashRev != rev {
		tb.Fatalf("hash at %d: %08x compacted %d rev %d %v, want %08x", rev, hash, compactRev, hashRev, err, want)
	}
}

func dumpText(v *View) []string {
	out := []string{}
	v.Dump(func(main, sub int64, tomb bool, r Record) bool {
		out = append(out, fmt.Sprintf("%d.%d %v %x", main, sub, tomb, []byte(r)))
		return true
	})
	return out
}

// reload sends a store through its checkpoint form.
func reload(tb testing.TB, s *Store) *Store {
	tb.Helper()
	l := NewLoader()
	l.s.h.size = s.h.size
	s.Publish().Dump(func(main, sub int64, tomb bool, r Record) bool {
		if err := l.Add(main, sub, tomb, r); err != nil {
			tb.Fatal(err)
		}
		return true
	})
	n, err := l.Finish(s.Rev(), s.CompactRev())
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// transact runs one random transaction on store and model.
func transact(tb testing.TB, d *dice, s *Store, m *model) {
	tb.Helper()
	tx := s.Begin()
	before := len(m.log)
	for range 1 + d.n(4) {
		cur := m.rev
		if len(m.log) > before {
			cur++
		}
		if tx.Rev() != cur {
			tb.Fatalf("tx at %d, want %d", tx.Rev(), cur)
		}
		switch key := d.key(); d.n(6) {
		default:
			value, lease := d.value(), int64(d.n(3)-1)
			got := tx.Put(key, value, lease)
			if prev, ok := m.put(key, value, lease); (got != nil) != ok || ok && string(got) != string(prev.record()) {
				tb.Fatalf("put %q replaced %x, want %v", key, []byte(got), ok)
			}
		case 0:
			var got []string
			end := d.end(key)
			n := tx.DeleteRange(key, end, func(r Record) { got = append(got, string(r)) })
			var want []string
			for _, c := range m.del(key, end) {
				want = append(want, string(c.record()))
			}
			if !slices.Equal(got, want) || n != int64(len(want)) {
				tb.Fatalf("delete %q %q: %d %q, want %q", key, end, n, got, want)
			}
		case 1:
			o := d.options(cur)
			if got, want := rangeText(tx.Range(o)), m.ranged(o, cur); got != want {
				tb.Fatalf("tx range %+v\ngot  %s\nwant %s", o, got, want)
			}
		case 2:
			r, ok := tx.Get(key)
			if c, want := m.get(key, cur); ok != want || ok && string(r) != string(c.record()) {
				tb.Fatalf("tx get %q: %v, want %v", key, ok, want)
			}
		}
	}
	rev, events := tx.Commit()
	if len(m.log) > before {
		m.rev++
	}
	if rev != m.rev || s.Rev() != m.rev || len(events) != len(m.log)-before {
		tb.Fatalf("committed %d with %d events, want %d with %d", rev, len(events), m.rev, len(m.log)-before)
	}
	for i, e := range events {
		if got, want := eventText(e.Rev, e.Delete, e.KV, e.Prev), m.event(before+i); got != want {
			tb.Fatalf("event %d of %d: got %s, want %s", i, rev, got, want)
		}
	}
}

type held struct {
	v *View
	m model
}

// play runs a random history against the model, twice at once: the second store compacts on its own schedule and is
// sent through a checkpoint now and then.
func play(tb testing.TB, d *dice, steps int) {
	m := newModel()
	stores := [2]*Store{New(), New()}
	for _, s := range stores {
		s.h.size = 2048
	}
	var views []held
	for step := 0; step < steps && !d.over(); step++ {
		switch d.n(12) {
		default:
			// The same transaction on both: the dice are thrown twice alike.
			twin, mm := *d, m
			if d.rng != nil {
				seed := d.rng.Int63()
				d, twin = &dice{rng: rand.New(rand.NewSource(seed))}, dice{rng: rand.New(rand.NewSource(seed))}
			}
			mm.log = slices.Clip(mm.log)
			transact(tb, &twin, stores[1], &mm)
			transact(tb, d, stores[0], &m)
		case 0:
			rev := m.rev + 1 - int64(d.n(12))
			var want error
			if rev <= m.compactRev {
				want = ErrCompacted
			} else if rev > m.rev {
				want = ErrFutureRev
			}
			for _, s := range stores {
				if err := s.Compact(rev); !errors.Is(err, want) {
					tb.Fatalf("compact %d at %d: %v, want %v", rev, m.rev, err, want)
				}
			}
			if want == nil {
				m.compactRev = rev
			}
		case 1:
			stores[0].CompactStep(1 + d.n(40))
		case 2:
			for stores[1].CompactStep(100) {
			}
			stores[1].verify(tb)
			checkMemory(tb, stores[1])
		case 3:
			if d.n(4) == 0 {
				stores[1] = reload(tb, stores[1])
			}
		case 4:
			views = append(views, held{stores[d.n(2)].Publish(), m})
			if len(views) > 6 {
				i := d.n(6)
				views = slices.Delete(views, i, i+1)
			}
		case 5:
			if len(views) > 0 {
				x := views[d.n(len(views))]
				checkView(tb, d, x.v, x.m, d.n(4) == 0)
			}
		}
		for i, s := range stores {
			if s.Bytes() != m.charge() && step%16 == 0 {
				tb.Fatalf("step %d: store %d charges %d bytes, want %d", step, i, s.Bytes(), m.charge())
			}
		}
	}
	for _, s := range stores {
		s.verify(tb)
		if s.Bytes() != m.charge() {
			tb.Fatalf("store charges %d bytes, want %d", s.Bytes(), m.charge())
		}
		views = append(views, held{s.Publish(), m})
	}
	for _, x := range views {
		checkView(tb, d, x.v, x.m, true)
	}
}

// checkMemory holds a fully compacted store to its bound.
func checkMemory(tb testing.TB, s *Store) {
	tb.Helper()
	size, living := 0, 0
	for _, c := range s.h.sealed {
		size, living = size+cap(c.buf), living+c.living()
	}
	if size > 2*living+2*s.h.size {
		tb.Fatalf("%d bytes in chunks for %d living", size, living)
	}
}

func TestRandomHistoriesAgreeWithTheModel(t *testing.T) {
	seeds := int64(40)
	if testing.Short() { // under the race detector, which one goroutine has little need of
		seeds = 6
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			play(t, &dice{rng: rand.New(rand.NewSource(seed))}, 300)
		})
	}
}

func FuzzHistoryAgreesWithTheModel(f *testing.F) {
	rng := rand.New(rand.NewSource(1))
	for range 4 {
		b := make([]byte, 600)
		rng.Read(b)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { play(t, &dice{data: b}, math.MaxInt) })
}
