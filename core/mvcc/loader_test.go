package mvcc

import (
	"errors"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

func wire(t *testing.T, kv *mvccpb.KeyValue) []byte {
	t.Helper()
	b, err := proto.Marshal(kv)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An etcd snapshot may hold versions its compaction had not deleted yet, tombstones that are the key alone, and after
// a restore that raised the revision one record without a value.
func TestLoaderTakesAnEtcdSnapshotAsItIs(t *testing.T) {
	l := NewLoader()
	for _, r := range []struct {
		main, sub int64
		tomb      bool
		value     []byte
	}{
		{2, 0, false, wire(t, &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("1"), CreateRevision: 2, ModRevision: 2, Version: 1})},
		{3, 0, false, wire(t, &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("2"), CreateRevision: 2, ModRevision: 3, Version: 2, Lease: -5})},
		{3, 1, false, wire(t, &mvccpb.KeyValue{Key: []byte("b"), CreateRevision: 3, ModRevision: 3, Version: 1})},
		{4, 0, true, wire(t, &mvccpb.KeyValue{Key: []byte("b")})},
		{5, 0, false, wire(t, &mvccpb.KeyValue{Key: []byte("c"), Value: []byte("3"), CreateRevision: 5, ModRevision: 5, Version: 1})},
		{6, 0, true, wire(t, &mvccpb.KeyValue{Key: []byte("c")})},
		{1000000, 0, false, nil},
	} {
		if err := l.Add(r.main, r.sub, r.tomb, r.value); err != nil {
			t.Fatal(err)
		}
	}
	s, err := l.Finish(0, 6)
	if err != nil {
		t.Fatal(err)
	}
	s.verify(t)
	if s.Rev() != 1000000 || s.CompactRev() != 6 || s.Keys() != 1 {
		t.Fatalf("revision %d compacted %d keys %d, want 1000000, 6, 1", s.Rev(), s.CompactRev(), s.Keys())
	}
	want := []string{"a=2 create 2 mod 3 version 2 lease -5 false", "c= create 0 mod 6 version 0 true"}
	var got []string
	s.Publish().Dump(func(_, _ int64, tomb bool, r Record) bool {
		got = append(got, show(r)+map[bool]string{true: " true", false: " false"}[tomb])
		return true
	})
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("got %q, want %q", got, want)
	}
	tx := s.Begin()
	tx.Put([]byte("c"), nil, 0)
	if rev, _ := tx.Commit(); rev != 1000001 {
		t.Fatalf("first write after the restore is %d", rev)
	}
	if err := s.Compact(500000); err != nil { // a revision nothing was written at
		t.Fatal(err)
	}
	for s.CompactStep(10) {
	}
	if n := s.items(); n != 2 {
		t.Fatalf("%d items, want a and c", n)
	}
	if again := reload(t, s); again.Bytes() != s.Bytes() {
		t.Fatalf("%d bytes after a reload, %d before", again.Bytes(), s.Bytes())
	}
}

func TestLoaderRefusesWhatNoStoreWrote(t *testing.T) {
	good := wire(t, &mvccpb.KeyValue{Key: []byte("a"), CreateRevision: 2, ModRevision: 2, Version: 1})
	for name, c := range map[string]struct {
		main, sub int64
		value     []byte
	}{
		"revision does not rise": {1, 5, good},
		"revision zero":          {0, 0, good},
		"sub-revision negative":  {2, -1, good},
		"other mod_revision":     {3, 0, good},
		"cut short":              {2, 0, good[:len(good)-1]},
		"length beyond the end":  {2, 0, []byte{0x0a, 0x7f, 'a'}},
		"unknown field":          {2, 0, append([]byte{0x38, 1}, good...)},
		"unending varint":        {2, 0, []byte{0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
		"no version":             {2, 0, wire(t, &mvccpb.KeyValue{Key: []byte("a"), CreateRevision: 2, ModRevision: 2})},
		"created after":          {2, 0, wire(t, &mvccpb.KeyValue{Key: []byte("a"), CreateRevision: 3, ModRevision: 2, Version: 1})},
	} {
		l := NewLoader()
		if err := l.Add(1, 5, false, nil); err != nil {
			t.Fatal(err)
		}
		if err := l.Add(c.main, c.sub, false, c.value); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
	l := NewLoader()
	if _, err := l.Finish(1, -1); err != nil {
		t.Errorf("an empty load: %v", err)
	}
	if _, err := l.Finish(1, -1); err == nil {
		t.Error("a second Finish must be refused")
	}
}

// Fields out of order or spelled-out zeros are the same version; stored they are the same bytes.
func TestLoaderNormalisesForeignEncodings(t *testing.T) {
	odd := []byte{0x18, 2, 0x30, 0, 0x20, 1, 0x2a, 1, 'v', 0x10, 2, 0x0a, 1, 'k'}
	l := NewLoader()
	if err := l.Add(2, 0, false, odd); err != nil {
		t.Fatal(err)
	}
	s, err := l.Finish(2, -1)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := s.Publish().Get([]byte("k"))
	want := wire(t, &mvccpb.KeyValue{Key: []byte("k"), Value: []byte("v"), CreateRevision: 2, ModRevision: 2, Version: 1})
	if string(r) != string(want) {
		t.Fatalf("got %x, want %x", []byte(r), want)
	}
}

func FuzzForeignRecord(f *testing.F) {
	f.Add([]byte{0x0a, 1, 'k', 0x10, 2, 0x18, 2, 0x20, 1, 0x2a, 1, 'v'})
	f.Fuzz(func(t *testing.T, b []byte) {
		kv, err := decodeForeign(b)
		if err != nil {
			return
		}
		// What is accepted means to protobuf what it means to us, and reads back as written.
		var want mvccpb.KeyValue
		if err := proto.Unmarshal(b, &want); err != nil {
			t.Fatalf("%x: accepted, protobuf says %v", b, err)
		}
		r := Record(appendRecord(nil, &kv))
		if len(r) != kv.encodedLen() || string(r) != string(wire(t, &want)) {
			t.Fatalf("%x: encoded %x, protobuf %x", b, []byte(r), wire(t, &want))
		}
		got := r.Decode()
		if string(got.Key) != string(want.GetKey()) || string(got.Value) != string(want.GetValue()) || got.CreateRevision != want.GetCreateRevision() ||
			got.ModRevision != want.GetModRevision() || got.Version != want.GetVersion() || got.Lease != want.GetLease() ||
			r.Lease() != got.Lease || r.Version() != got.Version || string(r.Value()) != string(got.Value) || r.CreateRevision() != got.CreateRevision {
			t.Fatalf("%x: decoded %+v, want %v", b, got, &want)
		}
	})
}
