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

// EncodeHashCheck gives the body of a HashCheck: the hash that View reported
// together with the index.
func EncodeHashCheck(index, hash uint64) []byte {
	b := appendInt(nil, 1, stateVersion)
	b = appendInt(b, 2, int64(index))
	return appendInt(b, 3, int64(hash))
}

// parseHashCheck reads the body of a HashCheck, and the same part of a verdict's.
// comparable is false if an earlier release made it, which hashed something else.
func parseHashCheck(b []byte) (index, hash uint64, comparable bool, err error) {
	var version, i, h int64
	if err := ints(b, &version, &i, &h); err != nil {
		return 0, 0, false, err
	}
	if version > stateVersion {
		return 0, 0, false, fmt.Errorf("%w: hash version %d", ErrUnknownCommand, version)
	}
	return uint64(i), uint64(h), version == stateVersion, nil
}

// Verdict is what the members found when their hashes at an index differed: the
// hash of a majority of the voters, and who had another one. An undecided one says
// who disagreed, without a majority for any hash.
type Verdict struct {
	Index, Hash uint64
	Diverged    []uint64 // members
	Undecided   bool
}

// Encode gives the body of a HashVerdict.
func (v Verdict) Encode() []byte {
	b := EncodeHashCheck(v.Index, v.Hash)
	for _, id := range v.Diverged {
		b = appendInt(b, 4, int64(id))
	}
	return appendBool(b, 5, v.Undecided)
}

func parseVerdict(b []byte) (v Verdict, comparable bool, err error) {
	if v.Index, v.Hash, comparable, err = parseHashCheck(b); err != nil {
		return v, false, err
	}
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return v, false, err
		}
		b = rest
		switch {
		case f.typ != protowire.VarintType:
		case f.num == 4:
			v.Diverged = append(v.Diverged, f.u)
		case f.num == 5:
			v.Undecided = f.u != 0
		}
	}
	return v, comparable, nil
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
