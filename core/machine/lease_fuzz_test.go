package machine_test

import (
	"encoding/binary"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/internal/choices"
)

// The steps of a script of lease commands: a byte says which, varints say for which
// lease and how long.
const (
	leaseGrant = iota
	leaseRevoke
	leaseAttach // a put of one of four keys
	leaseDetach // its deletion
	leaseExpire // of several, in this term or another
	leaseNote   // of the seconds that are left
	leaseRestart
	leaseSteps
)

func leaseStep(op byte, numbers ...int64) []byte {
	b := []byte{op}
	for _, n := range numbers {
		b = binary.AppendVarint(b, n)
	}
	return b
}

// FuzzLeaseRequests grants, revokes and expires leases of any id and duration and
// hangs keys on them: the machine answers as the spec does, an expiry counts in its
// own term alone, and a checkpoint loses nothing, notes of what is left included.
func FuzzLeaseRequests(f *testing.F) {
	const most = 1<<63 - 1
	f.Add(slices.Concat(leaseStep(leaseGrant, 7, 60), leaseStep(leaseAttach, 0, 7), leaseStep(leaseAttach, 1, 7), leaseStep(leaseExpire, 1, 2, 7, 8)))
	f.Add(slices.Concat(leaseStep(leaseGrant, 7, 60), leaseStep(leaseAttach, 0, 7), leaseStep(leaseExpire, 2, 1, 7), leaseStep(leaseRestart), leaseStep(leaseRevoke, 7)))
	f.Add(slices.Concat(leaseStep(leaseGrant, -1, most), leaseStep(leaseGrant, -1, 9_000_000_000), leaseStep(leaseNote, -1, 5), leaseStep(leaseRestart), leaseStep(leaseNote, -1, 0)))
	f.Add(slices.Concat(leaseStep(leaseGrant, most, -most), leaseStep(leaseGrant, 1, 1), leaseStep(leaseAttach, 3, most), leaseStep(leaseAttach, 3, 1), leaseStep(leaseDetach, 3),
		leaseStep(leaseRevoke, most), leaseStep(leaseRevoke, 0), leaseStep(leaseGrant, 0, 1), leaseStep(leaseNote, 9, -9), leaseStep(leaseRestart)))
	f.Fuzz(func(t *testing.T, script []byte) {
		p := newPair(t)
		s := choices.ScriptOf(script, 600)
		left := map[int64]int64{} // what was noted, where it was
		own := func(kind machine.Kind, body []byte) error {
			p.index++
			c := machine.Command{Kind: kind, ID: p.index, Member: 1, Body: body}
			res := p.m.Apply(p.index, 1, c.AppendTo(nil), true)
			p.m.EndEntry(p.index, 1)
			return res.Err
		}
		for s.Left() {
			switch s.Next() % leaseSteps {
			case leaseGrant:
				p.apply(machine.LeaseGrant, &pb.LeaseGrantRequest{ID: s.Varint(), TTL: s.Varint()})
			case leaseRevoke:
				p.apply(machine.LeaseRevoke, &pb.LeaseRevokeRequest{ID: s.Varint()})
			case leaseAttach:
				p.apply(machine.Put, &pb.PutRequest{Key: []byte{'a' + byte(s.Varint()&3)}, Lease: s.Varint(), PrevKv: true})
			case leaseDetach:
				p.apply(machine.DeleteRange, &pb.DeleteRangeRequest{Key: []byte{'a' + byte(s.Varint()&3)}})
			case leaseExpire:
				term := uint64(s.Varint())
				ids := make([]int64, s.Varint()&7)
				for i := range ids {
					ids[i] = s.Varint()
				}
				err := own(machine.LeaseExpire, machine.EncodeLeaseExpire(term, ids))
				if (err == nil) != (term == 1) {
					t.Fatalf("an expiry of term %d in term 1: %v", term, err)
				}
				if err == nil {
					p.s.Expire(ids...)
				}
			case leaseNote:
				id, remaining := s.Varint(), s.Varint()
				if err := own(machine.LeaseCheckpoint, machine.EncodeLeaseCheckpoint(id, remaining)); err != nil {
					t.Fatal(err)
				}
				left[id] = max(remaining, 0)
			case leaseRestart:
				before := p.m.Publish().Hash
				m, err := machine.Restore(machine.Config{}, dump(t, p.m.Publish()))
				if err != nil {
					t.Fatalf("its own checkpoint is refused: %v", err)
				}
				if after := m.Publish().Hash; after != before {
					t.Fatalf("its hash was %x and is %x after a restart", before, after)
				}
				p.m = m
			}
			v := p.m.Publish()
			for id := range left {
				if _, ok := p.s.Lease(id); !ok {
					delete(left, id)
				} else if l, _ := v.Leases.Lookup(id); l.Remaining != left[id] {
					t.Fatalf("lease %d has %d s left, noted were %d", id, l.Remaining, left[id])
				}
			}
		}
		p.compareState()
	})
}
