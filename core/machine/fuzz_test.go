package machine

import (
	"bytes"
	"reflect"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/membership"
)

func marshalled(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sampleTxn() *pb.TxnRequest {
	put := func(k string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k), Value: []byte("v"), Lease: 7, PrevKv: true}}}
	}
	return &pb.TxnRequest{
		Compare: []*pb.Compare{
			{Key: []byte("a"), RangeEnd: []byte("c"), Target: pb.Compare_VALUE, Result: pb.Compare_NOT_EQUAL, TargetUnion: &pb.Compare_Value{Value: []byte("x")}},
			{Key: []byte("a"), Target: pb.Compare_MOD, Result: pb.Compare_LESS, TargetUnion: &pb.Compare_ModRevision{ModRevision: 9}},
		},
		Success: []*pb.RequestOp{
			put("a"),
			{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{
				Key: []byte("a"), RangeEnd: []byte{0}, Limit: 3, Revision: 2, SortOrder: pb.RangeRequest_DESCEND, SortTarget: pb.RangeRequest_MOD,
				KeysOnly: true, CountOnly: true, MinModRevision: 1, MaxModRevision: 2, MinCreateRevision: 3, MaxCreateRevision: 4, Serializable: true,
			}}},
			{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Failure: []*pb.RequestOp{put("b"), {}}}}},
		},
		Failure: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("b"), PrevKv: true}}},
		},
	}
}

// Whatever the protobuf library reads as a txn is read here, and as the same.
func FuzzTxnIsReadAsProtobufReadsIt(f *testing.F) {
	f.Add(marshalled(f, sampleTxn()))
	f.Add([]byte{0x12, 0x02, 0x0a, 0x00, 0x12, 0x02, 0x12, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r pb.TxnRequest
		if proto.Unmarshal(b, &r) != nil {
			return
		}
		want := txnOf(&r)
		var got txnRequest
		if err := got.parse(b, 0); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		normalise(want)
		normalise(&got)
		if !reflect.DeepEqual(&got, want) {
			t.Fatalf("%x\ngot  %+v\nwant %+v", b, &got, want)
		}
	})
}

// normalise makes absent and empty alike.
func normalise(t *txnRequest) {
	fix := func(bs ...*[]byte) {
		for _, b := range bs {
			if len(*b) == 0 {
				*b = nil
			}
		}
	}
	for i := range t.compare {
		c := &t.compare[i]
		fix(&c.key, &c.end, &c.operandVal)
		if c.union == unionValue {
			c.number = 0
		} else {
			c.operandVal = nil
		}
	}
	if len(t.compare) == 0 {
		t.compare = nil
	}
	for _, ops := range []*[]operation{&t.success, &t.failure} {
		for i := range *ops {
			o := &(*ops)[i]
			fix(&o.put.key, &o.put.value, &o.del.key, &o.del.end, &o.rng.Key, &o.rng.End)
			if o.txn != nil {
				normalise(o.txn)
			}
		}
		if len(*ops) == 0 {
			*ops = nil
		}
	}
}

func FuzzPutIsReadAsProtobufReadsIt(f *testing.F) {
	f.Add(marshalled(f, &pb.PutRequest{Key: []byte("k"), Value: []byte("v"), Lease: -1, PrevKv: true, IgnoreLease: true, IgnoreValue: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r pb.PutRequest
		if proto.Unmarshal(b, &r) != nil {
			return
		}
		want := putOf(&r)
		var got putRequest
		if err := got.parse(b); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		if !bytes.Equal(got.key, want.key) || !bytes.Equal(got.value, want.value) {
			t.Fatalf("%x: got %+v, want %+v", b, got, want)
		}
		got.key, got.value, want.key, want.value = nil, nil, nil, nil
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%x: got %+v, want %+v", b, got, want)
		}
	})
}

// Apply takes any bytes: it neither panics nor depends on whether a reply is wanted.
func FuzzApplyTakesAnyBytes(f *testing.F) {
	command := func(kind Kind, m proto.Message) []byte {
		c := Command{Kind: kind, ID: 1, Member: 1, User: "u", Body: marshalled(f, m)}
		return c.AppendTo(nil)
	}
	f.Add(command(Txn, sampleTxn()), uint8(0))
	f.Add(command(Put, &pb.PutRequest{Key: []byte("a"), IgnoreValue: true, PrevKv: true}), uint8(1))
	f.Add(command(DeleteRange, &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, PrevKv: true}), uint8(2))
	f.Add(command(Compact, &pb.CompactionRequest{Revision: 2}), uint8(3))
	f.Add(command(LeaseGrant, &pb.LeaseGrantRequest{ID: 9, TTL: 9}), uint8(4))
	f.Add(command(LeaseRevoke, &pb.LeaseRevokeRequest{ID: 7}), uint8(5))
	f.Add(command(Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_CORRUPT}), uint8(6))
	f.Add((&Command{Kind: LeaseExpire, Body: EncodeLeaseExpire(1, []int64{7})}).AppendTo(nil), uint8(7))
	f.Add((&Command{Kind: HashCheck, Body: EncodeHashCheck(1, 2)}).AppendTo(nil), uint8(8))
	f.Add((&Command{Kind: MemberAttributes, Body: EncodeMemberAttributes(1, "n", []string{"u"})}).AppendTo(nil), uint8(9))
	f.Add((&Command{Kind: SetSettings, Body: Settings{Quota: 5}.Encode()}).AppendTo(nil), uint8(10))
	f.Add((&Command{Kind: ClusterVersion, Body: EncodeClusterVersion("3.7.0")}).AppendTo(nil), uint8(11))
	f.Add((&Command{Kind: LeaseCheckpoint, Body: EncodeLeaseCheckpoint(7, 3)}).AppendTo(nil), uint8(12))
	f.Fuzz(func(t *testing.T, cmd []byte, kind uint8) {
		if len(cmd) > 1 && kind > 0 {
			cmd = bytes.Clone(cmd)
			cmd[0], cmd[1] = commandVersion, kind%16 // or most inputs would end at the envelope
		}
		var hashes [2]uint64
		for i, want := range []bool{true, false} {
			m, err := New(Config{}, membership.Member{ID: 1})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []Command{
				{Kind: LeaseGrant, Body: marshalled(t, &pb.LeaseGrantRequest{ID: 7, TTL: 60})},
				{Kind: Put, Body: marshalled(t, &pb.PutRequest{Key: []byte("a"), Value: []byte("1"), Lease: 7})},
				{Kind: Put, Body: marshalled(t, &pb.PutRequest{Key: []byte("b"), Value: []byte("2")})},
			} {
				if res := m.Apply(1, 1, c.AppendTo(nil), false); res.Err != nil {
					t.Fatal(res.Err)
				}
			}
			for range 2 {
				res := m.Apply(1, 1, cmd, want)
				if res.Err != nil && res.Body != nil || !want && res.Body != nil {
					t.Fatalf("a reply to %x: %+v", cmd, res)
				}
			}
			m.EndEntry(1, 1)
			hashes[i] = m.Publish().Hash
		}
		if hashes[0] != hashes[1] {
			t.Fatalf("%x: whether a reply is wanted changes the state", cmd)
		}
	})
}

func FuzzEntriesOfAnyBytes(f *testing.F) {
	entry := AppendEntryHeader(nil)
	entry, _ = AppendCommand(entry, &Command{Kind: Put, ID: 3, Member: 4, User: "u", Body: []byte("b")})
	f.Add(entry)
	f.Fuzz(func(t *testing.T, b []byte) {
		again := AppendEntryHeader(nil)
		for c, err := range Commands(b) {
			if err != nil {
				return
			}
			cmd := c.Decode()
			again, _ = AppendCommand(again, &cmd)
		}
		if len(b) == 0 {
			return
		}
		// Lengths may be padded varints in b, so only what they frame must be equal.
		var x, y [][]byte
		for c := range Commands(b) {
			x = append(x, c.Bytes)
		}
		for c := range Commands(again) {
			y = append(y, c.Bytes)
		}
		if !reflect.DeepEqual(x, y) {
			t.Fatalf("%x: encoded again %x", b, again)
		}
	})
}
