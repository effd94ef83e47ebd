package rpc

import (
	"bytes"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

func mustMarshal(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// agreePut holds our decoder to protobuf's on any bytes at all.
func agreePut(t *testing.T, body []byte) {
	t.Helper()
	var want pb.PutRequest
	wantErr := proto.Unmarshal(body, &want)
	var got putRequest
	gotErr := got.decode(body)
	if (gotErr != nil) != (wantErr != nil) {
		t.Fatalf("decode(%x) = %v, protobuf says %v", body, gotErr, wantErr)
	}
	if gotErr != nil {
		return
	}
	if !bytes.Equal(got.key, want.Key) || got.valueLen != len(want.Value) || got.lease != want.Lease ||
		got.ignoreValue != want.IgnoreValue || got.ignoreLease != want.IgnoreLease {
		t.Fatalf("decode(%x) = %+v, protobuf says %v", body, got, &want)
	}
	// What is proposed must mean what was checked, with nothing left that
	// another decoder could read otherwise.
	clean := proto.Clone(&want)
	clean.ProtoReflect().SetUnknown(nil)
	if canonical := mustMarshal(t, clean); !bytes.Equal(got.body, canonical) {
		t.Fatalf("body of %x is %x, canonical is %x", body, got.body, canonical)
	}
}

func agreeRange(t *testing.T, body []byte) {
	t.Helper()
	var want pb.RangeRequest
	wantErr := proto.Unmarshal(body, &want)
	var got rangeRequest
	gotErr := got.decode(body)
	if (gotErr != nil) != (wantErr != nil) {
		t.Fatalf("decode(%x) = %v, protobuf says %v", body, gotErr, wantErr)
	}
	if gotErr != nil {
		return
	}
	back := &pb.RangeRequest{
		Key: got.key, RangeEnd: got.end, Limit: got.limit, Revision: got.rev,
		SortOrder: pb.RangeRequest_SortOrder(got.order), SortTarget: pb.RangeRequest_SortTarget(got.target),
		Serializable: got.serializable, KeysOnly: got.keysOnly, CountOnly: got.countOnly,
		MinModRevision: got.minMod, MaxModRevision: got.maxMod, MinCreateRevision: got.minCreate, MaxCreateRevision: got.maxCreate,
	}
	want.ProtoReflect().SetUnknown(nil)
	if !proto.Equal(back, &want) {
		t.Fatalf("decode(%x) = %v, protobuf says %v", body, back, &want)
	}
}

// oddities are encodings no client of today writes and any client may.
func oddities(tb testing.TB) [][]byte {
	plain := mustMarshal(tb, &pb.PutRequest{Key: []byte("k"), Value: []byte("v"), Lease: -5, PrevKv: true})
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	return [][]byte{
		nil,
		plain,
		cat(plain, plain),
		cat(plain, []byte{1<<3 | 2, 0}),      // key again, empty
		cat(plain, []byte{5<<3 | 0, 0}),      // a default written out
		cat(plain, []byte{4<<3 | 0, 0}),      // prev_kv taken back
		cat([]byte{2<<3 | 2, 1, 'x'}, plain), // out of order
		cat(plain, []byte{1<<3 | 0, 9}),      // key as a varint: unknown
		cat(plain, []byte{3<<3 | 2, 1, 'l'}), // lease as bytes: unknown
		cat(plain, protowire.AppendFixed64([]byte{9<<3 | 1}, 3)), // unknown fields
		cat(plain, []byte{10<<3 | 3, 10<<3 | 4}),
		cat(plain, protowire.AppendVarint([]byte{5<<3 | 0}, 1<<40)), // a bool beyond one bit
		{1<<3 | 2, 5, 'a'},                   // cut off
		{0},                                  // no field 0
		{0x80, 0x82, 0x80, 0x80, 0x30, 0x30}, // a field number too large
		{1<<3 | 4},                           // a group ends that never began
		{1<<3 | 0, 0x80},                     // endless varint
		bytes.Repeat([]byte{0xff}, 12),
		{8, 0x80, 0x00},                    // a longer varint than needed
		append([]byte{0x8a, 0x00}, 1, 'k'), // a longer tag than needed
	}
}

func TestPutsAreReadAsProtobufReadsThemAndProposedCanonically(t *testing.T) {
	for _, b := range oddities(t) {
		agreePut(t, b)
	}
}

func TestRangesAreReadAsProtobufReadsThem(t *testing.T) {
	for _, b := range oddities(t) {
		agreeRange(t, b)
	}
	agreeRange(t, mustMarshal(t, &pb.RangeRequest{
		Key: []byte("a"), RangeEnd: []byte("b"), Limit: 3, Revision: -1, SortOrder: 2, SortTarget: 4, Serializable: true, KeysOnly: true,
		CountOnly: true, MinModRevision: 1, MaxModRevision: 2, MinCreateRevision: 3, MaxCreateRevision: 1 << 40,
	}))
}

func TestAPutIsProposedWithoutBeingCopied(t *testing.T) {
	body := mustMarshal(t, &pb.PutRequest{Key: []byte("k"), Value: bytes.Repeat([]byte("v"), 256), Lease: 7})
	var r putRequest
	if err := r.unmarshalWire(mem.BufferSlice{mem.SliceBuffer(body)}); err != nil {
		t.Fatal(err)
	}
	if &r.body[0] != &body[0] {
		t.Error("the body is a copy of what was received")
	}
	r.release()
}

func TestKeepAliveTakesTheLastID(t *testing.T) {
	one := mustMarshal(t, &pb.LeaseKeepAliveRequest{ID: 1})
	two := mustMarshal(t, &pb.LeaseKeepAliveRequest{ID: -2})
	var r keepAliveRequest
	if err := r.unmarshalWire(mem.BufferSlice{mem.SliceBuffer(one), mem.SliceBuffer(two)}); err != nil || r.id != -2 {
		t.Errorf("id %d, %v; want -2", r.id, err)
	}
	if err := r.decode([]byte{0xff}); err == nil {
		t.Error("garbage was taken for a request")
	}
}

func FuzzPutRequest(f *testing.F) {
	for _, b := range oddities(f) {
		f.Add(b)
	}
	f.Fuzz(agreePut)
}

func FuzzRangeRequest(f *testing.F) {
	for _, b := range oddities(f) {
		f.Add(b)
	}
	f.Fuzz(agreeRange)
}

func FuzzKeepAliveRequest(f *testing.F) {
	f.Add(mustMarshal(f, &pb.LeaseKeepAliveRequest{ID: -2}))
	for _, b := range oddities(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var want pb.LeaseKeepAliveRequest
		wantErr := proto.Unmarshal(body, &want)
		var got keepAliveRequest
		if err := got.decode(body); (err != nil) != (wantErr != nil) || err == nil && got.id != want.ID {
			t.Fatalf("decode(%x) = %d, %v; protobuf says %d, %v", body, got.id, err, want.ID, wantErr)
		}
	})
}
