package simtest

import (
	"bytes"
	"fmt"

	"github.com/musterhq/muster/core/mvcc"
)

// truth is the committed history as the first member to apply it saw it. Every
// other member, and every watcher, is held to it.
type truth struct {
	events  [][]change        // by revision
	hashes  map[uint64]uint64 // running hash by log index
	applies uint64            // highest index applied anywhere
}

// change is one event, reduced to what a watcher is told.
type change struct {
	key, value []byte
	deleted    bool
	lease      int64
}

func (c change) String() string {
	if c.deleted {
		return fmt.Sprintf("delete %s", c.key)
	}
	return fmt.Sprintf("put %s=%s", c.key, c.value)
}

func (c change) equal(o change) bool {
	return bytes.Equal(c.key, o.key) && bytes.Equal(c.value, o.value) && c.deleted == o.deleted
}

func (t *truth) init() { t.hashes = map[uint64]uint64{} }

// notified takes what a member is about to tell its watchers.
func (t *truth) notified(w *World, m *member, events []mvcc.Event) {
	for len(events) > 0 {
		rev := events[0].Rev
		var cs []change
		for len(events) > 0 && events[0].Rev == rev {
			kv := events[0].KV
			cs = append(cs, change{bytes.Clone(kv.Key()), bytes.Clone(kv.Value()), events[0].Delete, kv.Lease()})
			events = events[1:]
		}
		for int64(len(t.events)) <= rev {
			t.events = append(t.events, nil)
		}
		if t.events[rev] == nil {
			t.events[rev] = cs
			continue
		}
		if !equalChanges(t.events[rev], cs) {
			w.fail("%s has %v at revision %d, another member had %v", m.name, cs, rev, t.events[rev])
			return
		}
	}
}

func equalChanges(a, b []change) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].equal(b[i]) {
			return false
		}
	}
	return true
}

// applied compares a member's running hash with what others had at that index.
func (t *truth) applied(w *World, m *member) {
	v := m.n.View()
	t.applies = max(t.applies, v.Index)
	if h, ok := t.hashes[v.Index]; ok && h != v.Hash {
		w.fail("%s has hash %016x at index %d, another member had %016x", m.name, v.Hash, v.Index, h)
	}
	t.hashes[v.Index] = v.Hash
}
