package lease_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/internal/choices"
)

// modelLease is what the naive lessor knows of a lease.
type modelLease struct {
	ttl                           int64
	deadline                      time.Duration
	expiring, recorded, recording bool
}

// modelLessor is a Lessor that looks at all leases each time.
type modelLessor struct {
	leading bool
	leases  map[int64]*modelLease
}

func (m *modelLessor) expired(now time.Duration, limit int) []int64 {
	var due []int64
	for id, l := range m.leases {
		if !l.expiring && l.deadline <= now {
			due = append(due, id)
		}
	}
	slices.SortFunc(due, func(a, b int64) int {
		return cmp.Or(cmp.Compare(m.leases[a].deadline, m.leases[b].deadline), cmp.Compare(a, b))
	})
	due = due[:min(limit, len(due))]
	for _, id := range due {
		m.leases[id].expiring = true
	}
	return due
}

func (m *modelLessor) renew(id int64, received time.Duration) error {
	l, ok := m.leases[id]
	switch {
	case !m.leading:
		return lease.ErrNotLeading
	case !ok:
		return lease.ErrNotFound
	case l.expiring:
		return lease.ErrExpiring
	case l.recorded || l.recording:
		return lease.ErrCheckpointed
	}
	l.deadline = max(l.deadline, received+time.Duration(l.ttl)*time.Second)
	return nil
}

// FuzzLessor gives a lessor whatever a leader may tell it, in any order, and holds
// all it answers against one that keeps no heap.
func FuzzLessor(f *testing.F) {
	const promote, grant, revoke, renew, expire, undo, note, noted, wait = 0, 1, 2, 3, 4, 5, 6, 7, 8
	f.Add([]byte{promote, 0, grant, 1, 5, wait, 20, renew, 1, 3, wait, 20, expire, 9, wait, 200, expire, 9, undo, 1, expire, 9, revoke, 1})
	f.Add([]byte{grant, 1, 5, promote, 1, grant, 1, 50, grant, 2, 60, wait, 255, note, 3, renew, 1, 0, noted, 1, 9, noted, 1, 0, renew, 1, 0})
	f.Add([]byte{promote, 0, grant, 1, 9, revoke, 1, grant, 1, 2, wait, 90, expire, 1, expire, 1, promote, 3, wait, 255, expire, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := choices.ScriptOf(b, 2000)
		const every = 20 * time.Second // leases of up to 63 s are looked at
		l := lease.NewLessor(lease.Config{ExpiryRate: 1 << 30, CheckpointInterval: every})
		m := &modelLessor{leases: map[int64]*modelLease{}}
		table := map[int64]lease.Lease{} // replicated: it outlives each lessor's term
		var now time.Duration
		for term := uint64(1); s.Left(); {
			op, id := int64(s.Next())%9, int64(s.Next())%16
			old, exists := table[id]
			switch op {
			case promote:
				extend := time.Duration(id) * time.Second
				before := map[int64]*modelLease{}
				if m.leading && id%4 == 3 { // it stood still, and leads on
					before = m.leases
					l.Resume(now, maps.Values(table), extend)
				} else {
					term++
					l.Promote(now, term, maps.Values(table), extend)
				}
				m.leading, m.leases = true, map[int64]*modelLease{}
				for id, le := range table {
					ttl := le.TTL
					if le.Remaining > 0 {
						ttl = min(ttl, le.Remaining)
					}
					m.leases[id] = &modelLease{ttl: le.TTL, deadline: now + time.Duration(ttl)*time.Second + extend, recorded: le.Remaining > 0}
					if was := before[id]; was != nil {
						m.leases[id].expiring, m.leases[id].recording = was.expiring, was.recording
					}
				}
			case grant:
				if ttl := int64(s.Next()) % 64; !exists {
					table[id] = lease.Lease{ID: id, TTL: ttl}
					l.Granted(id, ttl, now)
					if m.leading {
						m.leases[id] = &modelLease{ttl: ttl, deadline: now + time.Duration(ttl)*time.Second}
					}
				}
			case revoke:
				delete(table, id)
				delete(m.leases, id)
				l.Revoked(id)
			case renew:
				received := now - time.Duration(s.Next())*10*time.Millisecond
				ttl, err := l.Renew(id, received)
				if want := m.renew(id, received); !errors.Is(err, want) || err == nil && ttl != old.TTL {
					t.Fatalf("at %v: lease %d renewed for %d s, %v; want %d s, %v", now, id, ttl, err, old.TTL, want)
				}
			case expire:
				if got, want := l.Expired(now, int(id)), m.expired(now, int(id)); !slices.Equal(got, want) {
					t.Fatalf("at %v: %d have expired, want %d", now, got, want)
				}
			case undo:
				l.ExpiryDone(id)
				if le, ok := m.leases[id]; ok {
					le.expiring = false
				}
			case note:
				for _, c := range l.Checkpoints(now, int(id)) {
					le := m.leases[c.ID]
					if le == nil || le.expiring || le.recording || c.TTL != le.ttl || c.TTL <= int64(every/time.Second) {
						t.Fatalf("at %v: what is left of %+v is to be written down: %+v", now, c, le)
					}
					if left := le.deadline - now; left <= 0 || c.Remaining >= c.TTL || time.Duration(c.Remaining)*time.Second < left {
						t.Fatalf("at %v: %d s of lease %d are to be written down, it has %v", now, c.Remaining, c.ID, left)
					}
					le.recording = true
				}
			case noted:
				remaining := int64(s.Next()) % 64
				if !exists {
					break
				}
				table[id] = lease.Lease{ID: id, TTL: old.TTL, Remaining: remaining}
				l.Checkpointed(id, remaining)
				if le, ok := m.leases[id]; ok {
					le.recorded, le.recording = remaining > 0, le.recording && remaining == 0
				}
			default:
				now += time.Duration(id*int64(s.Next())) * 100 * time.Millisecond
			}
			agree(t, l, m, now)
		}
	})
}

// agree holds what a lessor says of its leases against the model.
func agree(t *testing.T, l *lease.Lessor, m *modelLessor, now time.Duration) {
	t.Helper()
	next, some := l.NextDeadline()
	for id, le := range m.leases {
		if left, ok := l.Remaining(id, now); !ok || left != max(le.deadline-now, 0) {
			t.Fatalf("at %v: lease %d has %v left (%v), want %v", now, id, left, ok, le.deadline-now)
		}
		if !le.expiring && (!some || next > le.deadline) {
			t.Fatalf("at %v: the next deadline is %v (%v), that of lease %d %v", now, next, some, id, le.deadline)
		}
	}
	if l.Len() != len(m.leases) {
		t.Fatalf("%d leases, want %d", l.Len(), len(m.leases))
	}
}

// FuzzTable hangs keys on leases, takes them off, and revokes: the table is a
// simple map's, and what was published of it never changes.
func FuzzTable(f *testing.F) {
	const grant, revoke, attach, detach, note, publish = 0, 1, 2, 3, 4, 5
	f.Add([]byte{grant, 1, 9, attach, 1, 1, attach, 1, 2, publish, 0, 0, detach, 1, 1, publish, 0, 0, revoke, 1, 0})
	f.Add([]byte{grant, 2, 9, grant, 2, 8, note, 2, 4, attach, 3, 1, publish, 0, 0, note, 2, 0, revoke, 3, 0, revoke, 2, 0})
	f.Add(slices.Repeat([]byte{grant, 0, 1, attach, 0, 7, attach, 0, 8, revoke, 0, 0}, 20))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := choices.ScriptOf(b, 3000)
		table := lease.NewTable()
		leases, keys := map[int64]lease.Lease{}, map[int64]map[string]bool{}
		type published struct {
			view *lease.TableView
			text string
		}
		var kept []published
		for s.Left() {
			op, id, arg := int64(s.Next())%6, int64(s.Next())-16, int64(s.Next()) // some ids are negative, one is none
			key := fmt.Sprint(arg % 100)
			old, exists := leases[id]
			var err, want error
			switch op {
			case grant:
				err = table.Grant(id, arg)
				switch {
				case id == 0:
					want = lease.ErrNotFound
				case exists:
					want = lease.ErrExists
				default:
					leases[id] = lease.Lease{ID: id, TTL: arg}
				}
			case revoke:
				var gone [][]byte
				if gone, err = table.Revoke(id); !exists {
					want = lease.ErrNotFound
					break
				}
				if got := fmt.Sprintf("%s", gone); got != fmt.Sprint(slices.Sorted(maps.Keys(keys[id]))) {
					t.Fatalf("with lease %d go %s, want %v", id, got, keys[id])
				}
				delete(leases, id)
				delete(keys, id)
			case attach:
				if !exists {
					continue // its caller has checked
				}
				table.Attach([]byte(key), id)
				if keys[id] == nil {
					keys[id] = map[string]bool{}
				}
				keys[id][key] = true
			case detach:
				table.Detach([]byte(key), id)
				delete(keys[id], key)
			case note:
				if err = table.Checkpoint(id, arg); !exists {
					want = lease.ErrNotFound
					break
				}
				old.Remaining = arg
				leases[id] = old
			case publish:
				v := table.Publish()
				kept = append(kept, published{v, tableText(v)})
			}
			if !errors.Is(err, want) || err != nil && want == nil {
				t.Fatalf("operation %d on lease %d: got %v, want %v", op, id, err, want)
			}
		}
		v := table.Publish()
		if v.Len() != len(leases) || table.Len() != len(leases) {
			t.Fatalf("%d and %d leases, want %d", v.Len(), table.Len(), len(leases))
		}
		for id, l := range leases {
			got, ok := v.Lookup(id)
			if attached := fmt.Sprintf("%s", v.Keys(id)); !ok || got != l || attached != fmt.Sprint(slices.Sorted(maps.Keys(keys[id]))) {
				t.Fatalf("lease %+v with %v is %+v (%v) with %s", l, keys[id], got, ok, attached)
			}
		}
		for i, p := range kept {
			if now := tableText(p.view); now != p.text {
				t.Fatalf("view %d was %s and is %s", i, p.text, now)
			}
		}
	})
}

func tableText(v *lease.TableView) string {
	var b []byte
	v.Each(func(l lease.Lease) bool {
		b = fmt.Appendf(b, "%+v %s\n", l, v.Keys(l.ID))
		return true
	})
	return string(b)
}
