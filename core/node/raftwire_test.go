package node

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// randomRaft sets each field with some probability.
func randomRaft(rng *rand.Rand) *raftpb.Message {
	some := func() bool { return rng.IntN(3) > 0 }
	number := func() *uint64 {
		if !some() {
			return nil
		}
		return new(rng.Uint64() >> rng.IntN(64))
	}
	data := func() []byte {
		if !some() {
			return nil
		}
		return make([]byte, rng.IntN(200))
	}
	m := &raftpb.Message{
		To: number(), From: number(), Term: number(), LogTerm: number(), Index: number(),
		Commit: number(), RejectHint: number(), Vote: number(), Context: data(),
	}
	if some() {
		m.Type = raftpb.MessageType(rng.IntN(int(lastMessageType) + 1)).Enum()
	}
	if some() {
		m.Reject = new(rng.IntN(2) == 0)
	}
	for range rng.IntN(4) {
		e := &raftpb.Entry{Term: number(), Index: number(), Data: data()}
		if some() {
			e.Type = raftpb.EntryType(rng.IntN(int(lastEntryType) + 1)).Enum()
		}
		m.Entries = append(m.Entries, e)
	}
	switch rng.IntN(10) {
	case 0:
		m.Snapshot = &raftpb.Snapshot{Data: data(), Metadata: &raftpb.SnapshotMetadata{Index: number(), ConfState: &raftpb.ConfState{Voters: []uint64{1}}}}
	case 1:
		m.Responses = []*raftpb.Message{{To: number()}}
	case 2:
		m.ProtoReflect().SetUnknown([]byte{0xf8, 0x7, 1}) // field 127
	}
	return m
}

func TestRaftMessagesTravelAsTheProtobufTheyAre(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		m := randomRaft(rng)
		want, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		frame, err := (&Message{kind: msgRaft, Raft: m}).AppendTo(nil)
		if err != nil || !bytes.Equal(frame[1:], want) {
			t.Fatalf("%v is encoded as %x, %v; protobuf has %x", m, frame[1:], err, want)
		}
		got, err := decodeRaft(frame[1:])
		if err != nil || !proto.Equal(got.Raft, m) {
			t.Fatalf("%x is decoded as %v, %v; want %v", want, got, err, m)
		}
	}
}

func FuzzRaftMessagesDecodeAsProtobufDecodesThem(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		b, err := proto.Marshal(randomRaft(rng))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want := new(raftpb.Message)
		wantErr := proto.Unmarshal(b, want)
		got, err := decodeRaft(b)
		if (err == nil) != (wantErr == nil) || err == nil && !proto.Equal(got.Raft, want) {
			t.Fatalf("%x: %v, %v; protobuf: %v, %v", b, got, err, want, wantErr)
		}
	})
}

func BenchmarkRaftMessage(b *testing.B) {
	u := func(v uint64) *uint64 { return &v }
	m := &Message{kind: msgRaft, Raft: &raftpb.Message{
		Type: raftpb.MessageType_MsgApp.Enum(), To: u(1 << 63), From: u(1<<63 + 1), Term: u(7), LogTerm: u(7), Index: u(1 << 20), Commit: u(1 << 20),
		Entries: []*raftpb.Entry{{Type: raftpb.EntryType_EntryNormal.Enum(), Term: u(7), Index: u(1<<20 + 1), Data: make([]byte, 300)}},
	}}
	b.ReportAllocs()
	var frame []byte
	for b.Loop() {
		frame, _ = m.AppendTo(frame[:0])
		if _, err := DecodeMessage(frame); err != nil {
			b.Fatal(err)
		}
	}
}
