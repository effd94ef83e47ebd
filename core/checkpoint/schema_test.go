package checkpoint_test

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/checkpoint"
)

func TestRevisionKeysAreEtcds(t *testing.T) {
	for _, tt := range []struct {
		main, sub int64
		tombstone bool
		want      string
	}{
		{1, 0, false, "\x00\x00\x00\x00\x00\x00\x00\x01_\x00\x00\x00\x00\x00\x00\x00\x00"},
		{0x0102030405060708, 3, true, "\x01\x02\x03\x04\x05\x06\x07\x08_\x00\x00\x00\x00\x00\x00\x00\x03t"},
	} {
		got := checkpoint.AppendRevisionKey(nil, tt.main, tt.sub, tt.tombstone)
		if string(got) != tt.want {
			t.Errorf("%d,%d: got %q, want %q", tt.main, tt.sub, got, tt.want)
		}
		main, sub, tombstone, err := checkpoint.ParseRevisionKey(got)
		if err != nil || main != tt.main || sub != tt.sub || tombstone != tt.tombstone {
			t.Errorf("parsed: got %d, %d, %v, %v", main, sub, tombstone, err)
		}
	}
	for _, bad := range []string{
		"", "short", "\xff\x00\x00\x00\x00\x00\x00\x01_\x00\x00\x00\x00\x00\x00\x00\x00",
		"\x00\x00\x00\x00\x00\x00\x00\x01-\x00\x00\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x01_\x00\x00\x00\x00\x00\x00\x00\x00x",
	} {
		if _, _, _, err := checkpoint.ParseRevisionKey([]byte(bad)); !errors.Is(err, checkpoint.ErrSchema) {
			t.Errorf("%q: got %v, want ErrSchema", bad, err)
		}
	}
}

func TestLeaseRecordsAreEtcds(t *testing.T) {
	l := checkpoint.Lease{ID: 0x694d, TTL: 60, Remaining: 7}
	b := l.Append(nil)
	if want := "\x08\xcd\xd2\x01\x10\x3c\x18\x07"; string(b) != want {
		t.Errorf("got %q, want %q", b, want)
	}
	got, err := checkpoint.ParseLease(append(b, 0x22, 1, 'x')) // with a field of the future
	if err != nil || got != l {
		t.Errorf("got %+v, %v, want %+v", got, err, l)
	}
	for _, bad := range []string{"\x08", "\x08\xff", "\x22\x05x", "\xff"} {
		if _, err := checkpoint.ParseLease([]byte(bad)); !errors.Is(err, checkpoint.ErrSchema) {
			t.Errorf("%q: got %v, want ErrSchema", bad, err)
		}
	}
}

func TestConfStateIsEtcdsJSON(t *testing.T) {
	leave := false
	cs := &raftpb.ConfState{Voters: []uint64{1, 2}, Learners: []uint64{3}, AutoLeave: &leave}
	b, err := checkpoint.EncodeConfState(cs)
	must(t, err)
	if want := `{"voters":[1,2],"learners":[3],"auto_leave":false}`; string(b) != want {
		t.Errorf("got %s, want %s", b, want)
	}
	got, err := checkpoint.ParseConfState(b)
	if err != nil || !proto.Equal(got, cs) {
		t.Errorf("got %v, %v, want %v", got, err, cs)
	}
	if _, err := checkpoint.ParseConfState([]byte("{")); !errors.Is(err, checkpoint.ErrSchema) {
		t.Errorf("got %v, want ErrSchema", err)
	}
	if _, err := checkpoint.ParseUint64([]byte("abc")); !errors.Is(err, checkpoint.ErrSchema) {
		t.Errorf("got %v, want ErrSchema", err)
	}
	if v, err := checkpoint.ParseUint64(checkpoint.Uint64(77)); err != nil || v != 77 {
		t.Errorf("got %d, %v, want 77", v, err)
	}
}
