package lease

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// MaxTTL is the longest lease, in seconds, as in etcd.
const MaxTTL = 9_000_000_000

// The refusals of Table and Lessor.
var (
	ErrNotFound    = errors.New("lease not found")
	ErrExists      = errors.New("lease already exists")
	ErrTTLTooLarge = errors.New("too large lease TTL")
)

// Lease is one granted lease.
type Lease struct {
	ID        int64 // never 0
	TTL       int64 // seconds granted
	Remaining int64 // seconds left at the last checkpoint of a long lease; 0: none, the whole TTL counts
}

// attachment says that a key goes when a lease goes.
type attachment struct {
	id  int64
	key string
}

// Leases are ordered as their big-endian ids are in a checkpoint: by unsigned
// value. For the ids that servers choose that is the plain order.
func compareLeases(a, b Lease) int { return cmp.Compare(uint64(a.ID), uint64(b.ID)) }

func compareAttachments(a, b attachment) int {
	if c := cmp.Compare(uint64(a.id), uint64(b.id)); c != 0 {
		return c
	}
	return strings.Compare(a.key, b.key)
}

// Table is the replicated part: all leases and the keys attached to them.
type Table struct {
	leases *tree[Lease]
	keys   *tree[attachment]
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{leases: newTree(compareLeases), keys: newTree(compareAttachments)}
}

// Grant adds a lease. The caller has raised the TTL to the minimum already.
func (t *Table) Grant(id, ttl int64) error {
	if id == 0 {
		return fmt.Errorf("%w: id 0 stands for no lease", ErrNotFound)
	}
	if ttl > MaxTTL {
		return fmt.Errorf("%w: %d s, at most %d", ErrTTLTooLarge, ttl, int64(MaxTTL))
	}
	if _, ok := t.Lookup(id); ok {
		return fmt.Errorf("%w: %016x", ErrExists, id)
	}
	t.leases.insert(Lease{ID: id, TTL: ttl})
	return nil
}

// Revoke removes a lease and returns the keys that were attached to it, sorted.
// Deleting them is up to the caller.
func (t *Table) Revoke(id int64) (keys [][]byte, err error) {
	if !t.leases.remove(Lease{ID: id}) {
		return nil, fmt.Errorf("%w: %016x", ErrNotFound, id)
	}
	keys = attachedTo(t.keys.frozen(), id)
	for _, k := range keys {
		t.keys.remove(attachment{id: id, key: string(k)})
	}
	return keys, nil
}

// Checkpoint records how many seconds a lease has left; 0 forgets it again.
func (t *Table) Checkpoint(id, remaining int64) error {
	l, ok := t.Lookup(id)
	if !ok {
		return fmt.Errorf("%w: %016x", ErrNotFound, id)
	}
	l.Remaining = remaining
	t.leases.insert(l)
	return nil
}

// Restore adds a lease as a checkpoint recorded it.
func (t *Table) Restore(l Lease) error {
	if err := t.Grant(l.ID, l.TTL); err != nil {
		return err
	}
	t.leases.insert(l)
	return nil
}

// Attach notes that key goes with the lease. Whether the lease exists has been
// checked by the caller, before the write it belongs to.
func (t *Table) Attach(key []byte, id int64) { t.keys.insert(attachment{id: id, key: string(key)}) }

// Detach undoes Attach; detaching what isn't attached does nothing.
func (t *Table) Detach(key []byte, id int64) { t.keys.remove(attachment{id: id, key: string(key)}) }

// Lookup finds a lease.
func (t *Table) Lookup(id int64) (Lease, bool) { return t.leases.frozen().get(Lease{ID: id}) }

// Len is the number of leases.
func (t *Table) Len() int { return t.leases.count }

// Publish freezes the table as it is; O(1).
func (t *Table) Publish() *TableView {
	return &TableView{leases: t.leases.freeze(), keys: t.keys.freeze()}
}

// TableView is an immutable Table.
type TableView struct {
	leases frozen[Lease]
	keys   frozen[attachment]
}

// Lookup finds a lease.
func (v *TableView) Lookup(id int64) (Lease, bool) { return v.leases.get(Lease{ID: id}) }

// Len is the number of leases.
func (v *TableView) Len() int { return v.leases.count }

// Each calls yield for every lease, ordered by the unsigned value of the id.
func (v *TableView) Each(yield func(Lease) bool) { v.leases.all(yield) }

// Keys returns the keys attached to a lease, sorted.
func (v *TableView) Keys(id int64) [][]byte { return attachedTo(v.keys, id) }

func attachedTo(f frozen[attachment], id int64) (keys [][]byte) {
	f.ascend(attachment{id: id}, func(a attachment) bool {
		if a.id != id {
			return false
		}
		keys = append(keys, []byte(a.key))
		return true
	})
	return keys
}
