package simtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/watch"
)

// watcher follows all keys, or a range of them, from a revision on, on one member
// after another, and holds every response to the truth.
type watcher struct {
	w      *World
	name   string
	at     *member
	life   int
	stream *watch.Stream
	past   *watch.Stream // the one before, whose watcher is cancelled: nothing more may come
	next   int64         // first revision it has not seen
	slow   bool
	choosy bool      // each stream of it is for a range of keys
	keys   [2][]byte // that range
	prevKV bool
	got    []change // scratch of events
	wanted []change // scratch of committed
	again  func()   // poll, made once
}

func newWatcher(w *World, i int) *watcher {
	x := &watcher{w: w, name: fmt.Sprintf("watcher %d", i), next: 2, slow: i == 2, choosy: i == 1, prevKV: i != 1, keys: everything}
	x.again = x.poll
	w.after(w.between(time.Millisecond, time.Second), x.again)
	return x
}

// where says which member it is on.
func (x *watcher) where() string {
	if x.stream == nil || !x.at.up() {
		return "nobody"
	}
	return fmt.Sprintf("%s, which is at revision %d,", x.at.name, x.at.n.View().KV.Rev())
}

func (x *watcher) poll() {
	w := x.w
	wait := w.between(5*time.Millisecond, 100*time.Millisecond)
	if x.slow && !w.calm {
		wait = w.between(time.Second, 5*time.Second)
	}
	w.after(wait, x.again)
	// One that was removed and can't hear of it has no leader: its callers go elsewhere in time.
	if orphan := w.calm && x.at != nil && w.truth.roster.lookup(x.at.id) == nil; x.stream != nil && (x.at.life != x.life || w.chance(0.005) || orphan) {
		x.cancel()
	}
	x.silence()
	if x.stream == nil {
		m := w.anyone()
		if !m.up() || w.now < m.pause {
			return
		}
		x.at, x.life, x.stream = m, m.life, m.hub.NewStream()
		if x.choosy {
			x.keys = ranges[w.rng.IntN(len(ranges))]
		}
		x.stream.Watch(watch.Request{Key: x.keys[0], End: x.keys[1], StartRev: x.next, Progress: true, PrevKV: x.prevKV})
	}
	if w.now < x.at.pause {
		return
	}
	if w.chance(0.2) {
		x.stream.RequestProgress()
	}
	if w.chance(0.2) {
		x.stream.Tick()
	}
	for x.stream != nil {
		r, ok, err := x.stream.Poll(context.Background())
		if err != nil {
			w.fail("%s: %v", x.name, err)
		}
		if !ok || err != nil {
			return
		}
		x.take(r)
	}
}

// cancel ends the watcher, and what waits for it: the next one gets that again.
func (x *watcher) cancel() {
	x.quit()
	x.past.Cancel(0)
	for canceled := false; ; {
		r, ok, err := x.past.Poll(context.Background())
		if !ok || err != nil { // a member that went down has closed the stream
			return
		}
		if canceled && !r.Canceled {
			x.w.fail("%s: %+v came after it was cancelled", x.name, r)
		}
		canceled = canceled || r.Canceled
	}
}

// quit leaves a stream whose watcher is cancelled. It stays for a while: one that was
// told that its watch has ended must not hear more of it.
func (x *watcher) quit() {
	if x.past != nil {
		x.past.Close()
	}
	x.past, x.stream = x.stream, nil
}

// silence fails if anything comes after a cancellation was confirmed.
func (x *watcher) silence() {
	if x.past == nil {
		return
	}
	if r, ok, _ := x.past.Poll(context.Background()); ok {
		x.w.fail("%s: %+v came after it was cancelled", x.name, r)
	}
}

func (x *watcher) take(r watch.Response) {
	w := x.w
	w.note('w', x.at.slot, binary.LittleEndian.AppendUint64(nil, uint64(r.Rev)))
	switch {
	case r.Canceled && r.CompactRev > 0:
		if r.CompactRev <= x.next || r.CompactRev > w.truth.compact {
			w.fail("%s on %s: cancelled as compacted at %d though it asked from %d and the cluster is compacted at %d",
				x.name, x.at.name, r.CompactRev, x.next, w.truth.compact)
		}
		x.next = r.CompactRev
		x.quit()
		x.life = -1
	case r.Canceled:
		w.fail("%s on %s: cancelled: %v", x.name, x.at.name, r.Err)
	case len(r.Events) == 0 && !r.Created:
		// Progress: everything up to Rev has been delivered, so the next stream may begin there.
		newest := int64(max(2, len(w.truth.events))) - 1
		if rev := x.owed(r.Rev + 1); rev != 0 {
			w.fail("%s on %s: progress says %d, but revision %d was not delivered", x.name, x.at.name, r.Rev, rev)
		} else if r.Rev < x.next-1 || r.Rev > newest {
			w.fail("%s on %s: progress says %d, but it had everything before %d, and the newest is %d", x.name, x.at.name, r.Rev, x.next, newest)
		}
		x.next = r.Rev + 1
	case len(r.Events) > 0:
		x.events(r.Events)
	}
}

func (x *watcher) events(evs []*watch.Encoded) {
	w := x.w
	for len(evs) > 0 {
		rev := evs[0].Rev
		got := x.got[:0]
		for len(evs) > 0 && evs[0].Rev == rev {
			c, err := w.truth.decode(rev, evs[0].Wire)
			if err != nil {
				w.fail("%s: %v", x.name, err)
				return
			}
			got = append(got, c)
			evs = evs[1:]
			w.stats.Events++
		}
		x.got = got
		if rev < x.next {
			w.fail("%s on %s: revision %d again, it had everything before %d", x.name, x.at.name, rev, x.next)
			return
		}
		if missed := x.owed(rev); missed != 0 {
			w.fail("%s on %s: got revision %d, missed %d", x.name, x.at.name, rev, missed)
			return
		}
		committed := x.committed(rev)
		if !equalChanges(committed, got) {
			w.fail("%s on %s: revision %d brought %v, which is not what was committed", x.name, x.at.name, rev, got)
			return
		}
		if x.prevKV && !x.prevRight(got, committed) {
			return
		}
		x.next = rev + 1
	}
}

// The ranges that a choosy watcher draws from: of single keys, of one client's, of
// those that belong to leases and of all.
var (
	everything = [2][]byte{{0}, {0}}
	ranges     = [][2][]byte{{[]byte("t2"), nil}, {[]byte("t0"), []byte("t3")}, {[]byte("k"), []byte("l")}, {[]byte("lease/"), []byte("lease0")}, everything}
)

// committed is what was committed at a revision of what the watcher is for, valid
// until the next call.
func (x *watcher) committed(rev int64) []change {
	if rev >= int64(len(x.w.truth.events)) {
		return nil
	}
	all := x.w.truth.events[rev]
	if !x.choosy {
		return all
	}
	x.wanted = x.wanted[:0]
	for i := range all {
		if x.wants(all[i].key) {
			x.wanted = append(x.wanted, all[i])
		}
	}
	return x.wanted
}

func (x *watcher) wants(key []byte) bool {
	from, end := x.keys[0], x.keys[1]
	if len(end) == 0 {
		return bytes.Equal(key, from)
	}
	return bytes.Compare(key, from) >= 0 && (end[0] == 0 || bytes.Compare(key, end) < 0)
}

// owed is the first revision before end that should have come and did not, 0 if
// there is none.
func (x *watcher) owed(end int64) int64 {
	for rev := x.next; rev < min(end, int64(len(x.w.truth.events))); rev++ {
		if len(x.committed(rev)) > 0 {
			return rev
		}
	}
	return 0
}

// prevRight holds what events say was before them to the truth; where that may
// be compacted they may keep silent.
func (x *watcher) prevRight(got, committed []change) bool {
	for i, c := range got {
		want := committed[i].prev
		if string(c.prev) != string(want) && (c.prev != nil || c.rev > x.w.truth.compact) {
			x.w.fail("%s on %s: revision %d says that %s was %q before, it was %q", x.name, x.at.name, c.rev, c.key, c.prev, want)
			return false
		}
	}
	return true
}

// seenWire is an event that came to a watcher before.
type seenWire struct {
	wire []byte
	is   change
}

// decode is decodeChange for each event only once: all watchers get it in the
// same words.
func (t *truth) decode(rev int64, wire []byte) (change, error) {
	if rev < 0 || rev >= int64(len(t.events)) {
		return decodeChange(wire)
	}
	if n := len(t.events); n > len(t.wires) {
		t.wires = slices.Grow(t.wires, n-len(t.wires))[:n]
	}
	for i := range t.wires[rev] {
		if s := &t.wires[rev][i]; bytes.Equal(s.wire, wire) {
			return s.is, nil
		}
	}
	c, err := decodeChange(wire)
	if err == nil {
		t.wires[rev] = append(t.wires[rev], seenWire{bytes.Clone(wire), c})
	}
	return c, err
}

// decodeChange reads one event as it goes into a WatchResponse: tag, length, mvccpb.Event.
func decodeChange(wire []byte) (change, error) {
	_, n := binary.Uvarint(wire)
	_, m := binary.Uvarint(wire[n:])
	var e mvccpb.Event
	if err := proto.Unmarshal(wire[n+m:], &e); err != nil {
		return change{}, err
	}
	c := changeOfKV(e.GetKv(), e.GetType() == mvccpb.Event_DELETE)
	if p := e.GetPrevKv(); p != nil {
		c.prev = append([]byte{}, p.GetValue()...)
	}
	return c, nil
}
