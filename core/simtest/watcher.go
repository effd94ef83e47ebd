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

// watcher follows all keys from a revision on, on one member after another,
// and holds every response to the truth.
type watcher struct {
	w      *World
	name   string
	at     *member
	life   int
	stream *watch.Stream
	next   int64 // first revision it has not seen
	slow   bool
	prevKV bool
	got    []change // scratch of events
	again  func()   // poll, made once
}

func newWatcher(w *World, i int) *watcher {
	x := &watcher{w: w, name: fmt.Sprintf("watcher %d", i), next: 2, slow: i == 2, prevKV: i != 1}
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
		x.stream.Close()
		x.stream = nil
	}
	if x.stream == nil {
		m := w.anyone()
		if !m.up() || w.now < m.pause {
			return
		}
		x.at, x.life, x.stream = m, m.life, m.hub.NewStream()
		x.stream.Watch(watch.Request{Key: []byte{0}, End: []byte{0}, StartRev: x.next, Progress: true, PrevKV: x.prevKV})
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

func (x *watcher) take(r watch.Response) {
	w := x.w
	w.note('w', x.at.slot, binary.LittleEndian.AppendUint64(nil, uint64(r.Rev)))
	switch {
	case r.Canceled && r.CompactRev > 0:
		if r.CompactRev <= x.next {
			w.fail("%s on %s: cancelled as compacted at %d though it asked from %d", x.name, x.at.name, r.CompactRev, x.next)
		}
		x.next = r.CompactRev
		x.stream.Close()
		x.stream = nil
		x.life = -1
	case r.Canceled:
		w.fail("%s on %s: cancelled: %v", x.name, x.at.name, r.Err)
	case len(r.Events) == 0 && !r.Created:
		// Progress: everything up to Rev has been delivered.
		if r.Rev >= x.next {
			for rev := x.next; rev <= r.Rev; rev++ {
				if int64(len(w.truth.events)) > rev && w.truth.events[rev] != nil {
					w.fail("%s on %s: progress says %d, but revision %d was not delivered", x.name, x.at.name, r.Rev, rev)
					return
				}
			}
		}
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
		for r := x.next; r < rev; r++ {
			if int64(len(w.truth.events)) > r && w.truth.events[r] != nil {
				w.fail("%s on %s: got revision %d, missed %d", x.name, x.at.name, rev, r)
				return
			}
		}
		if rev >= int64(len(w.truth.events)) || !equalChanges(w.truth.events[rev], got) {
			w.fail("%s on %s: revision %d brought %v, which is not what was committed", x.name, x.at.name, rev, got)
			return
		}
		if x.prevKV && !x.prevRight(got) {
			return
		}
		x.next = rev + 1
	}
}

// prevRight holds what events say was before them to the truth; where that may
// be compacted they may keep silent.
func (x *watcher) prevRight(got []change) bool {
	for i, c := range got {
		want := x.w.truth.events[c.rev][i].prev
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
