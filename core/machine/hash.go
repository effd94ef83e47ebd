package machine

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"

	"github.com/musterhq/muster/core/lease"
)

// hashVersion names what goes into the running hash and how; it changes whenever
// an effect is added, left out or folded differently. stateVersion does so for
// View.Hash, in which it is one part: members compare hashes of the same version only.
const (
	hashVersion  = 1
	stateVersion = 2
)

// runningHash is a chain over the effects of all commands since the beginning:
// not over the commands, which raft delivers equal to members that have diverged
// already. An effect is a tag and two numbers:
//
//	tag             first              second
//	effectPut       revision           xxhash64 of the stored record, which holds key, value, lease and versions
//	effectDelete    revision           xxhash64 of the tombstone
//	effectCompact   compact revision   0
//	effectRefused   kind               code of the error (refusalCode)
//	effectGrant     lease id           TTL
//	effectRevoke    lease id           0
//	effectLeft      lease id           remaining TTL
//	effectAlarm     member             type, +256 when it is raised
//	effectMember    member             xxhash64 of its encoding, 0 when removed
//	effectSettings  0                  xxhash64 of their encoding
//	effectVersion   0                  xxhash64 of the version
//	effectRestored  revision           HashKV of a snapshot that a cluster was founded on
//	effectRestored  compact revision   number of leases
//
// Entry boundaries are no effect: how commands were batched doesn't matter.
type runningHash uint64

const (
	effectPut uint64 = iota + 1
	effectDelete
	effectCompact
	effectRefused
	effectGrant
	effectRevoke
	effectLeft
	effectAlarm
	effectMember
	effectSettings
	effectVersion
	effectRestored
)

// fold takes in one effect. Each step is a bijection of the hash for a given
// input and of the input for a given hash, so no effect can cancel what came
// before it.
func (h *runningHash) fold(tag, first, second uint64) {
	x := uint64(*h)
	x = round(x, tag)
	x = round(x, first)
	*h = runningHash(round(x, second))
}

func round(h, x uint64) uint64 {
	const prime1, prime2 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F
	return bits.RotateLeft64(h+x*prime2, 31)*prime1 + prime2
}

func digest(b []byte) uint64 { return xxhash.Sum64(b) }

// content is the sum of the digests of all live records and leases. The running
// hash proves that members did the same things; after a restart it is what the
// checkpoint says it was. The content is counted anew from what the checkpoint
// holds, so that a member whose data is not what its history led to, say because
// a file of another member was copied over, is told apart as well. Neither of the two
// covers superseded versions of keys: HashKV does.
type content uint64

func (c *content) add(d uint64)  { *c += content(d) }
func (c *content) drop(d uint64) { *c -= content(d) }

func leaseDigest(l lease.Lease) uint64 {
	return round(round(round(0, uint64(l.ID)), uint64(l.TTL)), uint64(l.Remaining))
}

// stateHash is what members compare.
func (m *Machine) stateHash() uint64 { return round(uint64(m.hash), uint64(m.content)) }

// Checked is what this member found at a HashCheck: its own hash at an entry
// that the leader of that time had named.
type Checked struct {
	Index, Hash uint64
	Differs     bool // from that leader's
}

// keepChecks is how many of the last checks a verdict may come after.
const keepChecks = 8

func (m *Machine) noteCheck(c Checked) {
	if len(m.checks) == keepChecks {
		m.checks = m.checks[1:]
	}
	m.checks = append(m.checks, c)
	m.found = append(m.found, c)
}

// Checks hands over what was found at the checks since the last call. Someone
// has to call it, or they pile up.
func (m *Machine) Checks() []Checked {
	f := m.found
	m.found = nil
	return f
}

// hashAt is this member's hash at the index of a recent check.
func (m *Machine) hashAt(index uint64) (uint64, bool) {
	for _, c := range m.checks {
		if c.Index == index {
			return c.Hash, true
		}
	}
	return 0, false
}

// hashLog remembers the hash at the end of recent entries, so that a check can
// name an index although more was applied since.
type hashLog struct {
	ring [1024]hashAt // by index modulo its length
}

type hashAt struct{ index, hash uint64 }

func (l *hashLog) add(index, hash uint64) { l.ring[index%uint64(len(l.ring))] = hashAt{index, hash} }

func (l *hashLog) at(index uint64) (uint64, bool) {
	e := l.ring[index%uint64(len(l.ring))]
	return e.hash, e.index == index && index != 0
}
