package lease_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/musterhq/muster/core/lease"
)

func keysOf(v *lease.TableView, id int64) []string {
	var out []string
	for _, k := range v.Keys(id) {
		out = append(out, string(k))
	}
	return out
}

func TestGrantRefusesWhatEtcdRefuses(t *testing.T) {
	tb := lease.NewTable()
	if err := tb.Grant(1, 10); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		id, ttl int64
		want    error
	}{
		{1, 10, lease.ErrExists},
		{0, 10, lease.ErrNotFound},
		{2, lease.MaxTTL + 1, lease.ErrTTLTooLarge},
		{3, lease.MaxTTL, nil},
		{-1, 10, nil},
	} {
		if err := tb.Grant(tt.id, tt.ttl); !errors.Is(err, tt.want) {
			t.Errorf("Grant(%d, %d) = %v, want %v", tt.id, tt.ttl, err, tt.want)
		}
	}
	if tb.Len() != 3 {
		t.Errorf("%d leases", tb.Len())
	}
}

func TestRevokeReturnsItsOwnKeysSortedAndForgetsThem(t *testing.T) {
	tb := lease.NewTable()
	for _, id := range []int64{1, 2, 3} {
		if err := tb.Grant(id, 10); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range []string{"c", "a", "b", "gone", "\x00"} {
		tb.Attach([]byte(k), 2)
	}
	tb.Attach([]byte("a"), 1)
	tb.Attach([]byte("z"), 3)
	tb.Detach([]byte("gone"), 2)
	tb.Detach([]byte("never there"), 2)
	keys, err := tb.Revoke(2)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%q", keys); got != `["\x00" "a" "b" "c"]` {
		t.Fatalf("revoked keys %s", got)
	}
	if _, err := tb.Revoke(2); !errors.Is(err, lease.ErrNotFound) {
		t.Fatalf("second revoke: %v", err)
	}
	if err := tb.Grant(2, 10); err != nil {
		t.Fatal(err)
	}
	v := tb.Publish()
	if got := keysOf(v, 2); got != nil {
		t.Fatalf("a lease granted again inherits %q", got)
	}
	if !slices.Equal(keysOf(v, 1), []string{"a"}) || !slices.Equal(keysOf(v, 3), []string{"z"}) {
		t.Fatal("other leases lost their keys")
	}
}

func TestPublishedTableNeverChanges(t *testing.T) {
	tb := lease.NewTable()
	for id := int64(1); id <= 1000; id++ {
		if err := tb.Grant(id, id); err != nil {
			t.Fatal(err)
		}
		tb.Attach(fmt.Appendf(nil, "k%d", id), id)
	}
	v := tb.Publish()
	for id := int64(1); id <= 1000; id++ {
		if _, err := tb.Revoke(id); err != nil {
			t.Fatal(err)
		}
	}
	if v.Len() != 1000 || tb.Len() != 0 {
		t.Fatalf("view %d, table %d", v.Len(), tb.Len())
	}
	next := int64(1)
	v.Each(func(l lease.Lease) bool {
		if l.ID != next || l.TTL != next || !slices.Equal(keysOf(v, l.ID), []string{fmt.Sprintf("k%d", next)}) {
			t.Fatalf("lease %d in place of %d, keys %q", l.ID, next, keysOf(v, l.ID))
		}
		next++
		return true
	})
}

func TestCheckpointSurvivesInTheTableUntilCleared(t *testing.T) {
	tb := lease.NewTable()
	if err := tb.Restore(lease.Lease{ID: 7, TTL: 600, Remaining: 30}); err != nil {
		t.Fatal(err)
	}
	if l, _ := tb.Lookup(7); l.Remaining != 30 {
		t.Fatalf("%+v", l)
	}
	if err := tb.Checkpoint(7, 0); err != nil {
		t.Fatal(err)
	}
	if l, _ := tb.Lookup(7); l.Remaining != 0 || l.TTL != 600 {
		t.Fatalf("%+v", l)
	}
	if err := tb.Checkpoint(8, 1); !errors.Is(err, lease.ErrNotFound) {
		t.Fatal(err)
	}
}

func BenchmarkAttachToALeaseOfAMillionKeys(b *testing.B) {
	tb := lease.NewTable()
	if err := tb.Grant(1, 10); err != nil {
		b.Fatal(err)
	}
	key := make([]byte, 0, 16)
	for i := range 1_000_000 {
		key = fmt.Appendf(key[:0], "%08d", i)
		tb.Attach(key, 1)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		key = fmt.Appendf(key[:0], "%08d", i*7919%1_000_000)
		i++
		tb.Detach(key, 1)
		tb.Attach(key, 1)
		if i%100 == 0 {
			tb.Publish()
		}
	}
}
