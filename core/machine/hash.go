package machine

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// hashVersion names what goes into the running hash and how. Members compare
// hashes of the same version only; it changes whenever an effect is added, left
// out or folded differently.
const hashVersion = 1

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
