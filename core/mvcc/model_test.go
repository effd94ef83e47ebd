package mvcc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"sort"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// model is the store as anyone would write it first: a list of all that happened, looked through from the start for
// every question. A copy of it is a snapshot, because the list only grows.
type model struct {
	log        []change
	rev        int64
	compactRev int64
}

type change struct {
	main, sub int64
	tomb      bool
	kv        KV
}

func newModel() model { return model{rev: 1, compactRev: -1} }

func (c change) record() Record {
	b, err := proto.Marshal(&mvccpb.KeyValue{
		Key: c.kv.Key, Value: c.kv.Value, CreateRevision: c.kv.CreateRevision,
		ModRevision: c.kv.ModRevision, Version: c.kv.Version, Lease: c.kv.Lease,
	})
	if err != nil {
		panic(err)
	}
	return b
}

// newest is the index of key's last change at or before rev, among the first n.
func (m *model) newest(key []byte, rev int64, n int) int {
	for i := n - 1; i >= 0; i-- {
		if m.log[i].main <= rev && bytes.Equal(m.log[i].kv.Key, key) {
			return i
		}
	}
	return -1
}

func (m *model) get(key []byte, rev int64) (change, bool) {
	i := m.newest(key, rev, len(m.log))
	if i < 0 || m.log[i].tomb {
		return change{}, false
	}
	return m.log[i], true
}

func (m *model) subs(main int64) int64 {
	if n := len(m.log); n > 0 && m.log[n-1].main == main {
		return m.log[n-1].sub + 1
	}
	return 0
}

// put and del write at revision m.rev+1; the caller ends the transaction by raising m.rev.
func (m *model) put(key, value []byte, lease int64) (prev change, ok bool) {
	main := m.rev + 1
	kv := KV{Key: slices.Clone(key), Value: slices.Clone(value), CreateRevision: main, ModRevision: main, Version: 1, Lease: lease}
	if prev, ok = m.get(key, main); ok {
		kv.CreateRevision, kv.Version = prev.kv.CreateRevision, prev.kv.Version+1
	}
	m.log = append(m.log, change{main: main, sub: m.subs(main), kv: kv})
	return prev, ok
}

func within(key, begin, end []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(key, begin)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(key, begin) >= 0
	}
	return bytes.Compare(key, begin) >= 0 && bytes.Compare(key, end) < 0
}

// all lists the keys of a range that exist at rev.
func (m *model) all(begin, end []byte, rev int64) []change {
	last := map[string]change{}
	for _, c := range m.log {
		if c.main <= rev && within(c.kv.Key, begin, end) {
			last[string(c.kv.Key)] = c
		}
	}
	var out []change
	for _, c := range last {
		if !c.tomb {
			out = append(out, c)
		}
	}
	sort.Slice(out, func(i, j int) bool { return bytes.Compare(out[i].kv.Key, out[j].kv.Key) < 0 })
	return out
}

func (m *model) del(begin, end []byte) []change {
	main := m.rev + 1
	gone := m.all(begin, end, main)
	for _, c := range gone {
		m.log = append(m.log, change{main: main, sub: m.subs(main), tomb: true, kv: KV{Key: c.kv.Key, ModRevision: main}})
	}
	return gone
}

// answer is a RangeResult in comparable form.
func answer(kvs []Record, count int64, more bool, rev int64) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "rev %d count %d more %v", rev, count, more)
	for _, r := range kvs {
		fmt.Fprintf(&b, "\n%x", []byte(r))
	}
	return b.String()
}

// ranged answers at the current revision cur, which inside a transaction is one ahead of m.rev.
func (m *model) ranged(o RangeOptions, cur int64) string {
	rev := o.Rev
	if rev > cur {
		return ErrFutureRev.Error()
	}
	if rev <= 0 {
		rev = cur
	}
	if rev < m.compactRev {
		return ErrCompacted.Error()
	}
	found := m.all(o.Key, o.End, rev)
	count := int64(len(found))
	if o.CountOnly {
		return answer(nil, count, false, cur)
	}
	var kept []change
	for _, c := range found {
		if (o.MinMod == 0 || c.kv.ModRevision >= o.MinMod) && (o.MaxMod == 0 || c.kv.ModRevision <= o.MaxMod) &&
			(o.MinCreate == 0 || c.kv.CreateRevision >= o.MinCreate) && (o.MaxCreate == 0 || c.kv.CreateRevision <= o.MaxCreate) {
			kept = append(kept, c)
		}
	}
	sort.SliceStable(kept, func(i, j int) bool {
		a, b := kept[i].kv, kept[j].kv
		if o.Order == OrderDescend {
			a, b = b, a
		}
		switch o.SortBy {
		case SortVersion:
			return a.Version < b.Version
		case SortCreate:
			return a.CreateRevision < b.CreateRevision
		case SortMod:
			return a.ModRevision < b.ModRevision
		case SortValue:
			return bytes.Compare(a.Value, b.Value) < 0
		default:
			return bytes.Compare(a.Key, b.Key) < 0
		}
	})
	more := o.Limit > 0 && int64(len(kept)) > o.Limit
	if more {
		kept = kept[:o.Limit]
	}
	var rs []Record
	for _, c := range kept {
		rs = append(rs, c.record())
	}
	return answer(rs, count, more, cur)
}

// alive lists what compaction must not take, as indices.
func (m *model) alive() []int {
	var out []int
	for i, c := range m.log {
		if c.main > m.compactRev || m.newest(c.kv.Key, m.compactRev, len(m.log)) == i && (!c.tomb || c.main == m.compactRev) {
			out = append(out, i)
		}
	}
	return out
}

func eventText(rev int64, del bool, kv, prev Record) string {
	return fmt.Sprintf("%d %v %x prev %x", rev, del, []byte(kv), []byte(prev))
}

func (m *model) event(i int) string {
	c := m.log[i]
	var prev Record
	if c.main > m.compactRev && c.kv.CreateRevision != c.main { // what creates a key replaces nothing, whatever was there before
		if p := m.newest(c.kv.Key, c.main-1, i); p >= 0 && !m.log[p].tomb {
			prev = m.log[p].record()
		}
	}
	return eventText(c.main, c.tomb, c.record(), prev)
}

func (m *model) events(from, to int64) []string {
	if from < m.compactRev {
		return []string{ErrCompacted.Error()}
	}
	out := []string{}
	for _, i := range m.alive() {
		if c := m.log[i]; c.main >= from && c.main <= to {
			out = append(out, m.event(i))
		}
	}
	return out
}

// charge is what the quota should say.
func (m *model) charge() int64 {
	var sum int64
	for _, i := range m.alive() {
		c := m.log[i]
		if c.tomb && c.main <= m.compactRev {
			continue // given back at its own revision
		}
		sum += int64(len(c.record())) + recordOverhead
	}
	return sum
}

func (m *model) dump() []string {
	out := []string{}
	for _, i := range m.alive() {
		c := m.log[i]
		out = append(out, fmt.Sprintf("%d.%d %v %x", c.main, c.sub, c.tomb, []byte(c.record())))
	}
	return out
}

// hash follows etcd's kvHasher on a store whose compaction has finished.
func (m *model) hash(rev int64) uint32 {
	keep := map[int]bool{}
	for i, c := range m.log {
		if !c.tomb && m.newest(c.kv.Key, rev, len(m.log)) == i {
			keep[i] = true
		}
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	h := crc32.New(table)
	h.Write([]byte("key"))
	for _, i := range m.alive() {
		c := m.log[i]
		if c.main > rev || c.main <= m.compactRev && len(keep) > 0 && !keep[i] || c.main == m.compactRev && c.tomb {
			continue
		}
		k := binary.BigEndian.AppendUint64(nil, uint64(c.main))
		k = append(k, '_')
		k = binary.BigEndian.AppendUint64(k, uint64(c.sub))
		r := c.record()
		if c.tomb {
			k = append(k, 't')
			r, _ = proto.Marshal(&mvccpb.KeyValue{Key: c.kv.Key})
		}
		h.Write(k)
		h.Write(r)
	}
	return h.Sum32()
}

// verify checks every structural invariant of a store.
func (s *Store) verify(tb testing.TB) {
	tb.Helper()
	var last uint64
	var lastMain, lastSub int64 = 0, -1
	s.h.each(place{}, func(p place, seq uint64, e entry) bool {
		main, sub := e.main(), e.sub()
		if seq <= last || main < lastMain || main == lastMain && sub <= lastSub {
			tb.Fatalf("entry %d (%d.%d) after %d (%d.%d)", seq, main, sub, last, lastMain, lastSub)
		}
		last, lastMain, lastSub = seq, main, sub
		if got, ok := s.h.locate(seq); !ok || got != p {
			tb.Fatalf("entry %d is at %v, found at %v %v", seq, p, got, ok)
		}
		return true
	})
	for i, c := range s.h.sealed {
		if s.h.firsts[i] != c.first || c.seq(0) != c.first || c.len() == 0 {
			tb.Fatalf("chunk %d: first %d, directory says %d", i, c.first, s.h.firsts[i])
		}
		n, size := 0, 0
		for k := range c.len() {
			if c.dead.has(k) {
				n, size = n+1, size+len(c.entry(k))
			}
		}
		if n != c.dead.count || size != c.dead.bytes {
			tb.Fatalf("chunk %d: %d dead of %d bytes, says %d of %d", i, n, size, c.dead.count, c.dead.bytes)
		}
	}
	var lastKey []byte
	first := true
	var walk func(nd *node, lo string, hi *string) uint64
	walk = func(nd *node, lo string, hi *string) uint64 {
		if nd.kids == nil {
			var live uint64
			for i, ref := range nd.refs[:nd.n] {
				key := s.h.newest(ref).key()
				if !first && bytes.Compare(key, lastKey) <= 0 {
					tb.Fatalf("key %q after %q", key, lastKey)
				}
				first, lastKey = false, key
				if string(key) < lo || hi != nil && string(key) >= *hi {
					tb.Fatalf("key %q outside its separators", key)
				}
				if len(key) < int(nd.skip) || commonPrefix(key, s.h.newest(nd.refs[0]).key()) < int(nd.skip) || nd.parts[i] != keyPart(key, int(nd.skip)) {
					tb.Fatalf("key %q: skip %d, part %x", key, nd.skip, nd.parts[i])
				}
				tomb := ref&tombItem != 0
				if tomb != s.h.newest(ref).tombstone() {
					tb.Fatalf("key %q: item says tombstone %v", key, tomb)
				}
				if !tomb {
					live++
				}
			}
			return live
		}
		var sum uint64
		if nd.n == 0 || len(nd.seps) != int(nd.n) {
			tb.Fatalf("inner node of %d kids, %d separators", nd.n, len(nd.seps))
		}
		for i := range int(nd.n) {
			l, h := lo, hi
			if i > 0 {
				l = nd.seps[i]
				if nd.parts[i] != keyPart(l, int(nd.skip)) {
					tb.Fatalf("separator %q: part %x, skip %d", l, nd.parts[i], nd.skip)
				}
			}
			if i+1 < int(nd.n) {
				h = &nd.seps[i+1]
			}
			live := walk(nd.kids[i], l, h)
			if live != nd.refs[i] {
				tb.Fatalf("%d live keys below a child, says %d", live, nd.refs[i])
			}
			sum += live
		}
		return sum
	}
	if live := walk(s.index.root, "", nil); int64(live) != s.live {
		tb.Fatalf("%d live keys, store says %d", live, s.live)
	}
}
