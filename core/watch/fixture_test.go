package watch

import (
	"fmt"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/mvcc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is an applier: it commits, publishes and notifies.
type store struct {
	kv   *mvcc.Store
	view atomic.Pointer[mvcc.View]
	hub  *Hub

	held []mvcc.Event // committed and published, not yet notified

	// If set, called once when a stream asks for a view: before it is taken,
	// or after (the hub may then run ahead of the view).
	beforeView, afterView func()
}

func newStore(t testing.TB, cfg Config) *store {
	t.Helper()
	s := &store{kv: mvcc.New()}
	s.view.Store(s.kv.Publish())
	s.hub = NewHub(s.kv.Rev(), s.take, cfg)
	t.Cleanup(s.hub.Close)
	return s
}

func (s *store) take() *mvcc.View {
	call(&s.beforeView)
	v := s.view.Load()
	call(&s.afterView)
	return v
}

func call(f *func()) {
	if g := *f; g != nil {
		*f = nil
		g()
	}
}

// op is one write: a put, or with del a deletion of [key, end).
type op struct {
	key, end, value string
	del             bool
}

// commit makes one revision of ops and publishes it.
func (s *store) commit(ops ...op) []mvcc.Event {
	tx := s.kv.Begin()
	for _, o := range ops {
		if o.del {
			tx.DeleteRange([]byte(o.key), []byte(o.end), func(mvcc.Record) {})
		} else {
			tx.Put([]byte(o.key), []byte(o.value), 0)
		}
	}
	_, events := tx.Commit()
	s.view.Store(s.kv.Publish())
	s.held = append(s.held, events...)
	return events
}

// notify tells the hub of all that was committed since the last time.
func (s *store) notify() {
	events := s.held
	s.held = nil
	s.hub.Notify(s.kv.Rev(), events)
}

// reset tells the hub of the revision alone, as after a checkpoint's install.
func (s *store) reset() {
	s.held = nil
	s.hub.Reset(s.kv.Rev())
}

func (s *store) put(key, value string) {
	s.commit(op{key: key, value: value})
	s.notify()
}

func (s *store) compact(t testing.TB, rev int64) {
	t.Helper()
	if err := s.kv.Compact(rev); err != nil {
		t.Fatalf("compact at %d: %v", rev, err)
	}
	s.view.Store(s.kv.Publish())
}

// decode reads an event back from its shared bytes.
func decode(t testing.TB, e *Encoded) *mvccpb.Event {
	t.Helper()
	num, typ, n := protowire.ConsumeTag(e.Wire)
	if num != 11 || typ != protowire.BytesType {
		t.Fatalf("event begins with field %d of type %d, want field 11, bytes", num, typ)
	}
	b, m := protowire.ConsumeBytes(e.Wire[n:])
	if m != len(e.Wire)-n {
		t.Fatalf("event's length prefix takes %d of %d bytes", m, len(e.Wire)-n)
	}
	ev := new(mvccpb.Event)
	if err := proto.Unmarshal(b, ev); err != nil {
		t.Fatalf("event: %v", err)
	}
	if ev.Kv.ModRevision != e.Rev {
		t.Fatalf("event says revision %d, its bytes %d", e.Rev, ev.Kv.ModRevision)
	}
	return ev
}

func show(t testing.TB, r Response) string {
	out := fmt.Sprintf("id=%d rev=%d", r.WatchID, r.Rev)
	if r.Created {
		out += " created"
	}
	if r.Canceled {
		out += " canceled"
	}
	if r.CompactRev != 0 {
		out += fmt.Sprintf(" compacted=%d", r.CompactRev)
	}
	if r.Fragment {
		out += " fragmentable"
	}
	if r.Err != nil {
		out += fmt.Sprintf(" err=%q", r.Err)
	}
	if !r.Created && !r.Canceled && len(r.Events) == 0 {
		out += " progress"
	}
	for _, e := range r.Events {
		ev := decode(t, e)
		if ev.Type == mvccpb.Event_DELETE {
			out += fmt.Sprintf("\n  %d delete %s", e.Rev, ev.Kv.Key)
		} else {
			out += fmt.Sprintf("\n  %d put %s=%s", e.Rev, ev.Kv.Key, abbreviate(ev.Kv.Value))
		}
		if ev.PrevKv != nil {
			out += fmt.Sprintf(" (was %s)", abbreviate(ev.PrevKv.Value))
		}
	}
	return out
}

func abbreviate(v []byte) string {
	if len(v) > 16 {
		return fmt.Sprintf("<%d bytes>", len(v))
	}
	return string(v)
}
