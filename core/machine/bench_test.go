package machine_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/machine"
)

// benchKeys is how many keys there are: enough for a tree of some depth.
const benchKeys = 100_000

func benchMachine(b *testing.B) *machine.Machine {
	b.Helper()
	m, err := machine.New(machine.Config{Settings: machine.Settings{Quota: -1}}, founders()...)
	if err != nil {
		b.Fatal(err)
	}
	for i := range uint64(benchKeys) {
		m.Apply(1, 1, putCommand(b, i), false)
	}
	m.EndEntry(1, 1)
	m.TakeEvents()
	return m
}

func benchKey(i uint64) []byte {
	k := make([]byte, 8)
	binary.BigEndian.PutUint64(k, i*0x9E3779B97F4A7C15%benchKeys)
	return k
}

func putCommand(b *testing.B, i uint64) []byte {
	b.Helper()
	c := machine.Command{Kind: machine.Put, ID: i, Member: 1, Body: marshal(b, &pb.PutRequest{Key: benchKey(i), Value: make([]byte, 100)})}
	return c.AppendTo(nil)
}

// Entries of 64 commands, published one by one, as under load.
func benchApply(b *testing.B, commands [][]byte) {
	m := benchMachine(b)
	rng := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	index, n := uint64(1), 0
	for b.Loop() {
		if n%64 == 0 {
			if n > 0 {
				m.EndEntry(index, 1)
				m.Publish()
				m.TakeEvents()
			}
			index++
		}
		if n%50_000 == 49_999 { // or memory fills up with history
			b.StopTimer()
			rev := m.Apply(index, 1, nil, false).Rev
			c := machine.Command{Kind: machine.Compact, Body: marshal(b, &pb.CompactionRequest{Revision: rev})}
			m.Apply(index, 1, c.AppendTo(nil), false)
			for m.Background(1 << 20) {
			}
			b.StartTimer()
		}
		n++
		if res := m.Apply(index, 1, commands[rng.IntN(len(commands))], true); res.Err != nil {
			b.Fatal(res.Err)
		}
	}
}

func BenchmarkApplyPut(b *testing.B) {
	commands := make([][]byte, 4096)
	for i := range commands {
		commands[i] = putCommand(b, uint64(i)*23)
	}
	benchApply(b, commands)
}

func BenchmarkApplyTxn(b *testing.B) {
	commands := make([][]byte, 4096)
	for i := range commands {
		key := benchKey(uint64(i) * 23)
		c := machine.Command{Kind: machine.Txn, ID: uint64(i), Body: marshal(b, &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: key, Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{Version: 0}}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: make([]byte, 100)}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
		})}
		commands[i] = c.AppendTo(nil)
	}
	benchApply(b, commands)
}

func BenchmarkCommands(b *testing.B) {
	entry := machine.AppendEntryHeader(nil)
	for i := range uint64(64) {
		entry, _ = machine.AppendCommand(entry, &machine.Command{Kind: machine.Put, ID: i, Body: make([]byte, 120)})
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range machine.Commands(entry) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
