package machine

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// The bodies of the leader's own commands.

// EncodeLeaseExpire gives the body of a LeaseExpire: it takes effect only if
// applied in the given term.
func EncodeLeaseExpire(term uint64, ids []int64) []byte {
	b := appendInt(nil, 1, int64(term))
	for _, id := range ids {
		b = appendInt(b, 2, id)
	}
	return b
}

func parseLeaseExpire(b []byte) (term uint64, ids []int64, err error) {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return 0, nil, err
		}
		b = rest
		switch {
		case f.typ != protowire.VarintType:
		case f.num == 1:
			term = f.u
		case f.num == 2:
			ids = append(ids, int64(f.u))
		}
	}
	return term, ids, nil
}

// EncodeLeaseCheckpoint gives the body of a LeaseCheckpoint that records the
// remaining seconds of one lease, or forgets them if 0.
func EncodeLeaseCheckpoint(id, remaining int64) []byte {
	b, at := open(nil, 1)
	return shut(appendInt(appendInt(b, 1, id), 2, remaining), at)
}

// EncodeHashCheck gives the body of a HashCheck: the running hash that View
// reported together with the index.
func EncodeHashCheck(index, hash uint64) []byte {
	b := appendInt(nil, 1, hashVersion)
	b = appendInt(b, 2, int64(index))
	return appendInt(b, 3, int64(hash))
}

func parseHashCheck(b []byte) (index, hash uint64, err error) {
	var version, i, h int64
	if err := ints(b, &version, &i, &h); err != nil {
		return 0, 0, err
	}
	if version != hashVersion {
		return 0, 0, fmt.Errorf("%w: hash version %d", ErrUnknownCommand, version)
	}
	return uint64(i), uint64(h), nil
}

// EncodeClusterVersion gives the body of a ClusterVersion command.
func EncodeClusterVersion(version string) []byte { return appendBytes(nil, 1, []byte(version)) }

// EncodeMemberAttributes gives the body of a MemberAttributes command, by which
// a member announces its name and client URLs.
func EncodeMemberAttributes(id uint64, name string, clientURLs []string) []byte {
	b, at := open(appendInt(nil, 1, int64(id)), 2)
	b = appendBytes(b, 1, []byte(name))
	for _, u := range clientURLs {
		b = appendBytes(b, 2, []byte(u))
	}
	return shut(b, at)
}
