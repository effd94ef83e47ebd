package simtest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/replica"
	"github.com/musterhq/muster/core/spec"
)

// truth is the committed history as the first member to apply it saw it, held
// to the specification. Every other member, every reader and every watcher is
// held to it.
type truth struct {
	events  [][]change // by revision
	applies uint64     // highest index applied anywhere
	term    uint64     // of the entry there
	compact int64      // highest compacted revision
	keys    map[string][]change
	written map[string]int64 // revision by written value: each is written once

	told []change // scratch of notified
	got  []change // scratch of compareState
	body []byte   // scratch of answered

	wires [][]seenWire // by revision

	spec    *spec.State
	roster  roster
	entries []entry              // by index
	asked   map[commandID]asked  // what clients want
	answers map[commandID]answer // what the specification answers to that
}

// answer is a response or a refusal.
type answer struct {
	resp proto.Message
	err  error
}

// entry is what is known of a log index.
type entry struct {
	applied bool   // by somebody
	data    []byte // what stands there then
	hashed  bool
	hash    uint64 // the running hash of whoever was the first to publish it
}

// entry is the one at an index.
func (t *truth) entry(index uint64) *entry {
	if n := int(index) + 1; n > len(t.entries) {
		t.entries = slices.Grow(t.entries, n-len(t.entries))[:n]
	}
	return &t.entries[index]
}

// commandID: ids are unique to a member.
type commandID struct{ member, id uint64 }

// change is one event, reduced to what a watcher is told.
type change struct {
	rev        int64
	key, value []byte
	deleted    bool
	lease      int64
	prev       []byte // value before, nil if there was none or it is not known
	created    int64
	version    int64
}

func (c change) String() string {
	if c.deleted {
		return fmt.Sprintf("delete %s", c.key)
	}
	return fmt.Sprintf("put %s=%s", c.key, c.value)
}

func (c change) equal(o change) bool {
	return bytes.Equal(c.key, o.key) && bytes.Equal(c.value, o.value) && c.deleted == o.deleted &&
		c.lease == o.lease && c.created == o.created && c.version == o.version
}

func (t *truth) init() {
	t.keys, t.written = map[string][]change{}, map[string]int64{}
	t.asked, t.answers = map[commandID]asked{}, map[commandID]answer{}
	t.spec = spec.New()
}

// notified takes what a member is about to tell its watchers.
func (t *truth) notified(w *World, m *member, rev int64, events []mvcc.Event) {
	for len(events) > 0 {
		rev := events[0].Rev
		cs := t.told[:0]
		for len(events) > 0 && events[0].Rev == rev {
			cs = append(cs, changeOfEvent(&events[0]))
			events = events[1:]
		}
		t.told = cs
		for int64(len(t.events)) <= rev {
			t.events = append(t.events, nil)
		}
		if t.events[rev] == nil {
			cs = cloneChanges(cs)
			t.events[rev] = cs
			t.first(w, m, cs)
			continue
		}
		if !equalChanges(t.events[rev], cs) {
			w.fail("%s has %v at revision %d, another member had %v", m.name, cs, rev, t.events[rev])
			return
		}
	}
	if last := int64(len(t.events)) - 1; m.n.View().Index == t.applies && last > rev {
		w.fail("%s is at revision %d, but index %d had led to %d", m.name, rev, t.applies, last)
	}
}

// first takes a revision that nobody has seen before into the keys' histories.
func (t *truth) first(w *World, m *member, cs []change) {
	for i, c := range cs {
		key := string(c.key)
		was := t.at(key, c.rev-1)
		switch {
		case (was == nil) != (c.prev == nil), was != nil && !bytes.Equal(was.value, c.prev):
			w.fail("%s: revision %d says that %s was %q before, it was %v", m.name, c.rev, key, c.prev, was)
		case c.deleted && was == nil && !slices.ContainsFunc(cs[:i], func(o change) bool { return string(o.key) == key }):
			w.fail("%s: revision %d deletes %s, which is not there", m.name, c.rev, key)
		}
		if !c.deleted {
			id := key + "=" + string(c.value)
			if at := t.written[id]; at != 0 {
				w.fail("%s: %s is written at revision %d and again at %d", m.name, id, at, c.rev)
			}
			t.written[id] = c.rev
		}
		t.keys[key] = append(t.keys[key], c)
	}
}

// at is what a key was at a revision, nil if it was not there.
func (t *truth) at(key string, rev int64) *change {
	h := t.keys[key]
	i := sort.Search(len(h), func(i int) bool { return h[i].rev > rev })
	if i == 0 || h[i-1].deleted {
		return nil
	}
	return &h[i-1]
}

func equalChanges(a, b []change) bool { return slices.EqualFunc(a, b, change.equal) }

// applying sees a task before a member carries it out: the entries must be those
// of all others, and the first to come is carried out by the specification.
func (t *truth) applying(w *World, m *member, task *replica.ApplyTask) {
	for _, e := range task.Entries {
		index := e.GetIndex()
		at := t.entry(index)
		if at.applied {
			if !bytes.Equal(at.data, e.GetData()) {
				w.fail("%s applies another entry at index %d than a member before it", m.name, index)
			}
			continue
		}
		if index <= t.applies {
			w.fail("%s applies index %d, which nobody had, after %d", m.name, index, t.applies)
		}
		if e.GetType() == raftpb.EntryType_EntryNormal && len(e.GetData()) == 0 && e.GetTerm() == t.term {
			w.fail("%s: index %d is empty and not the first of term %d: raft made nothing of a change", m.name, index, t.term)
		}
		at.applied, at.data = true, bytes.Clone(e.GetData())
		t.applies, t.term = index, e.GetTerm()
		if e.GetType() == raftpb.EntryType_EntryNormal {
			t.replay(w, m, e)
		} else {
			t.reconfigure(w, m, e)
		}
	}
}

// replay has the specification carry out an entry.
func (t *truth) replay(w *World, m *member, e *raftpb.Entry) {
	w.stats.Replayed++
	for c, err := range machine.Commands(e.GetData()) {
		if err != nil {
			w.fail("%s: entry %d: %v", m.name, e.GetIndex(), err)
			return
		}
		if c.Kind == machine.MemberAttributes {
			if err := t.roster.introduced(e.GetIndex(), c.Decode().Body); err != nil {
				w.fail("%s: entry %d: %v", m.name, e.GetIndex(), err)
			}
		}
		t.carryOut(w, e.GetTerm(), &c)
	}
}

// asked is a request that was handed to a member.
type asked struct {
	req  proto.Message
	body []byte // as it is encoded
}

// ask encodes a request that a member is about to be handed.
func (t *truth) ask(id commandID, req proto.Message) []byte {
	body, err := proto.Marshal(req)
	if err != nil {
		panic(err)
	}
	t.asked[id] = asked{req, body}
	return body
}

// carryOut has the specification do what a command says, and keeps its answer.
func (t *truth) carryOut(w *World, term uint64, c *machine.Encoded) {
	body := c.Decode().Body
	if c.Kind == machine.LeaseExpire {
		t.expire(body, term)
		return
	}
	id := commandID{c.Member, c.ID}
	a, ok := t.asked[id]
	if !ok {
		return // what members tell each other
	}
	if !bytes.Equal(a.body, body) {
		w.fail("the log has %x for command %d of member %x, which was %v", body, c.ID, c.Member, a.req)
		return
	}
	resp, err := t.spec.Apply(a.req)
	t.answers[id] = answer{resp, err}
	if r, ok := a.req.(*pb.CompactionRequest); ok && err == nil {
		t.compact = max(t.compact, r.Revision)
	}
}

// expire carries out an expiry if it was proposed in the term of its entry.
func (t *truth) expire(body []byte, term uint64) {
	var of uint64
	var ids []int64
	for len(body) > 0 {
		num, typ, n := protowire.ConsumeTag(body)
		if n < 0 || typ != protowire.VarintType {
			return
		}
		v, m := protowire.ConsumeVarint(body[n:])
		if m < 0 {
			return
		}
		body = body[n+m:]
		if num == 1 {
			of = v
		} else {
			ids = append(ids, int64(v))
		}
	}
	if of != term {
		return
	}
	ids = slices.DeleteFunc(ids, func(id int64) bool { _, ok := t.spec.Lease(id); return !ok })
	if len(ids) > 0 {
		t.spec.Expire(ids...)
	}
}

// applied compares a member with what others had at that index, and with the
// specification where that stands there too.
func (t *truth) applied(w *World, m *member) {
	v := m.n.View()
	at := t.entry(v.Index)
	if at.hashed && at.hash != v.Hash {
		w.fail("%s has hash %016x at index %d, another member had %016x", m.name, v.Hash, v.Index, at.hash)
	}
	at.hashed, at.hash = true, v.Hash
	if v.Index != t.applies {
		return
	}
	if rev := v.KV.Rev(); rev != t.spec.Rev() || v.KV.CompactRev() != t.spec.CompactRev() {
		w.fail("%s is at revision %d (compacted %d) after index %d, by the specification it is %d (%d)",
			m.name, rev, v.KV.CompactRev(), v.Index, t.spec.Rev(), t.spec.CompactRev())
		return
	}
	if v.Index%16 == 0 {
		t.compareState(w, m)
	}
}

// compareState holds a member that stands where the specification stands to it, key by key.
func (t *truth) compareState(w *World, m *member) {
	w.stats.States++
	got := t.got[:0]
	err := m.n.View().KV.RangeEach(mvcc.RangeOptions{Key: []byte{0}, End: []byte{0}}, func(r mvcc.Record) bool {
		got = append(got, changeOf(r))
		return true
	})
	t.got = got
	same := err == nil && len(got) == t.spec.Len()
	for i := 0; same && i < len(got); i++ {
		kv := t.spec.Get(got[i].key)
		same = kv != nil && got[i].rev == kv.GetModRevision() && got[i].equal(changeOfKV(kv, false)) &&
			(i == 0 || bytes.Compare(got[i-1].key, got[i].key) < 0)
	}
	if !same {
		w.fail("%s holds %v after index %d, by the specification %v", m.name, got, m.n.View().Index, t.spec.Keys())
	}
	leases := m.n.View().Leases
	same = leases.Len() == len(t.spec.Leases())
	for l := range leases.Each {
		ttl, ok := t.spec.Lease(l.ID)
		same = same && ok && ttl == l.TTL && slices.EqualFunc(leases.Keys(l.ID), t.spec.LeaseKeys(l.ID), bytes.Equal)
	}
	if !same {
		w.fail("%s holds other leases after index %d than the specification: %v", m.name, m.n.View().Index, t.spec.Leases())
	}
}

// answered holds the result of a command to the specification's.
func (t *truth) answered(w *World, m *member, res *machine.Result) {
	id := commandID{m.id, res.ID}
	want, ok := t.answers[id]
	if !ok {
		return
	}
	delete(t.answers, id)
	if !sameRefusal(res.Err, want.err) {
		w.fail("%s answers a command with (%x, %v), the specification with (%v, %v)", m.name, res.Body, res.Err, want.resp, want.err)
		return
	}
	if want.err != nil {
		return
	}
	withoutHeader(want.resp)
	var err error
	if t.body, err = (proto.MarshalOptions{}).MarshalAppend(t.body[:0], want.resp); err == nil && bytes.Equal(t.body, res.Body) {
		return // nearly always; but an encoding is not the only one
	}
	got := want.resp.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(res.Body, got); err != nil {
		w.fail("%s: malformed answer: %v", m.name, err)
		return
	}
	if !proto.Equal(got, want.resp) {
		w.fail("%s answers %v, the specification %v", m.name, got, want.resp)
	}
}

// sameRefusal holds a member's error to the one that etcd has for it.
func sameRefusal(got, want error) bool {
	for _, pair := range [...]struct{ ours, etcds error }{
		{nil, nil},
		{lease.ErrNotFound, rpctypes.ErrLeaseNotFound},
		{lease.ErrExists, rpctypes.ErrLeaseExist},
		{mvcc.ErrCompacted, rpctypes.ErrCompacted},
		{mvcc.ErrFutureRev, rpctypes.ErrFutureRev},
	} {
		if errors.Is(want, pair.etcds) {
			return errors.Is(got, pair.ours)
		}
	}
	return false
}

func withoutHeader(resp proto.Message) {
	switch r := resp.(type) {
	case *pb.PutResponse:
		r.Header = nil
	case *pb.TxnResponse:
		r.Header = nil
	default:
		m := r.ProtoReflect()
		m.Clear(m.Descriptor().Fields().ByNumber(1))
	}
}

// read holds what a view shows of some keys to the committed history.
func (t *truth) read(w *World, m *member, view *machine.View, floor int64, keys []string) {
	w.stats.Reads++
	rev := view.KV.Rev()
	if rev < floor {
		w.fail("%s: a linearizable read shows revision %d, but %d had been acknowledged or shown before it began", m.name, rev, floor)
		return
	}
	w.shown = max(w.shown, rev)
	for _, key := range keys {
		got, ok := view.KV.Get([]byte(key))
		want := t.at(key, rev)
		if ok != (want != nil) || ok && !want.equal(changeOf(got)) {
			w.fail("%s: a read at revision %d shows %q=%q, it was %v", m.name, rev, key, got, want)
			return
		}
	}
}

// changeOfEvent shares the event's memory.
func changeOfEvent(e *mvcc.Event) change {
	c := changeOf(e.KV)
	c.rev, c.deleted = e.Rev, e.Delete
	if e.Prev != nil {
		c.prev = e.Prev.Value()
	}
	return c
}

// cloneChanges has memory of its own, one piece of it for all they say.
func cloneChanges(cs []change) []change {
	size := 0
	for i := range cs {
		size += len(cs[i].key) + len(cs[i].value) + len(cs[i].prev)
	}
	memory := make([]byte, 0, size)
	own := func(b []byte) []byte {
		if b == nil {
			return nil
		}
		at := len(memory)
		memory = append(memory, b...)
		return memory[at:len(memory):len(memory)]
	}
	cs = slices.Clone(cs)
	for i := range cs {
		c := &cs[i]
		c.key, c.value, c.prev = own(c.key), own(c.value), own(c.prev)
	}
	return cs
}

func changeOf(r mvcc.Record) change {
	kv := r.Decode()
	return change{
		rev: kv.ModRevision, key: kv.Key, value: kv.Value, lease: kv.Lease,
		created: kv.CreateRevision, version: kv.Version,
	}
}

func changeOfKV(kv *mvccpb.KeyValue, deleted bool) change {
	return change{
		rev: kv.GetModRevision(), key: kv.GetKey(), value: kv.GetValue(), deleted: deleted, lease: kv.GetLease(),
		created: kv.GetCreateRevision(), version: kv.GetVersion(),
	}
}

// tap lets the truth see what a member tells its watchers.
type tap struct{ m *member }

func (t *tap) Notify(rev int64, events []mvcc.Event) {
	t.m.w.truth.notified(t.m.w, t.m, rev, events)
	t.m.hub.Notify(rev, events)
}

func (t *tap) Reset(rev int64) {
	t.m.w.stats.Seen["checkpoint installed"]++
	t.m.hub.Reset(rev)
}
