package node

import (
	"bytes"
	"testing"
)

func TestAMajorityOfTheVotersSaysWhoseHashIsRight(t *testing.T) {
	three, four := []uint64{1, 2, 3}, []uint64{1, 2, 3, 4}
	for name, test := range map[string]struct {
		voters []uint64
		hashes map[uint64]uint64
		right  uint64
		ok     bool
	}{
		"two of three, the leader is odd":      {three, map[uint64]uint64{1: 7, 2: 8, 3: 8}, 8, true},
		"two of three, the third is not heard": {three, map[uint64]uint64{1: 7, 2: 7}, 7, true},
		"one against one":                      {three, map[uint64]uint64{1: 7, 2: 8}, 0, false},
		"three opinions":                       {three, map[uint64]uint64{1: 7, 2: 8, 3: 9}, 0, false},
		"two of four are no majority":          {four, map[uint64]uint64{1: 7, 2: 7, 3: 8, 4: 8}, 0, false},
		"two of two":                           {three[:2], map[uint64]uint64{1: 7, 2: 8}, 0, false},
		"alone":                                {three[:1], map[uint64]uint64{1: 7, 2: 8}, 7, true},
		"learners have no vote":                {three, map[uint64]uint64{1: 7, 2: 8, 4: 8, 5: 8}, 0, false},
	} {
		if right, ok := majority(test.voters, test.hashes); right != test.right || ok != test.ok {
			t.Errorf("%s: %d, %v; want %d, %v", name, right, ok, test.right, test.ok)
		}
	}
}

func TestHashesTravelBetweenMembers(t *testing.T) {
	for _, m := range []*Message{{kind: msgHash, seq: 1 << 40, hash: 1<<64 - 1}, {kind: msgAskHash, seq: 5}} {
		b, err := m.AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeMessage(b)
		if err != nil || got.kind != m.kind || got.seq != m.seq || got.hash != m.hash {
			t.Errorf("%+v became %+v, %v", m, got, err)
		}
		if _, err := DecodeMessage(bytes.Clone(b[:len(b)-1])); err == nil {
			t.Errorf("half of %+v was taken", m)
		}
	}
}
