package mvcc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// Record is one version of one key: the wire bytes of an mvccpb.KeyValue, ready to be spliced into a reply. For a
// delete it holds key and mod_revision only.
//
// A Record aliases the store's memory. Never write to it, and copy it (or Decode and copy) before keeping it for
// long: a held Record of a hundred bytes keeps its chunk of up to 1 MiB from being freed.
//
// Invariant: fields are in ascending order, none twice, zero values left out, so that equal versions are equal
// bytes. It is what protobuf's own encoder writes.
type Record []byte

// KV is a decoded Record. Key and Value alias it.
type KV struct {
	Key, Value                                  []byte
	CreateRevision, ModRevision, Version, Lease int64
}

// Wire tags of mvccpb.KeyValue: field number << 3 | wire type.
const (
	tagKey     = 1<<3 | 2
	tagCreate  = 2<<3 | 0
	tagMod     = 3<<3 | 0
	tagVersion = 4<<3 | 0
	tagValue   = 5<<3 | 2
	tagLease   = 6<<3 | 0
)

// Key is the key, aliasing r.
func (r Record) Key() []byte {
	if len(r) < 2 || r[0] != tagKey {
		return nil
	}
	if n := int(r[1]); n < 0x80 { // nearly every key is shorter than 128 bytes
		return r[2 : 2+n : 2+n]
	}
	n, w := binary.Uvarint(r[1:])
	return r[1+w : 1+w+int(n) : 1+w+int(n)]
}

// afterKey is what follows the key.
func (r Record) afterKey() []byte {
	if len(r) < 2 || r[0] != tagKey {
		return r
	}
	if n := int(r[1]); n < 0x80 {
		return r[2+n:]
	}
	n, w := binary.Uvarint(r[1:])
	return r[1+w+int(n):]
}

// field takes a varint field off the front of b if it is there.
func field(b []byte, tag byte) (int64, []byte) {
	if len(b) == 0 || b[0] != tag {
		return 0, b
	}
	v, w := binary.Uvarint(b[1:])
	return int64(v), b[1+w:]
}

// revisions reads the three counters and returns what follows them.
func (r Record) revisions() (create, mod, version int64, rest []byte) {
	rest = r.afterKey()
	create, rest = field(rest, tagCreate)
	mod, rest = field(rest, tagMod)
	version, rest = field(rest, tagVersion)
	return create, mod, version, rest
}

// CreateRevision is the revision that created the key; 0 for a delete.
func (r Record) CreateRevision() int64 {
	c, _ := field(r.afterKey(), tagCreate)
	return c
}

// ModRevision is the revision this version was written at.
func (r Record) ModRevision() int64 {
	_, rest := field(r.afterKey(), tagCreate)
	m, _ := field(rest, tagMod)
	return m
}

// Version counts the puts since the key was created, from 1; 0 for a delete.
func (r Record) Version() int64 {
	_, _, v, _ := r.revisions()
	return v
}

func takeValue(rest []byte) (value, after []byte) {
	if len(rest) == 0 || rest[0] != tagValue {
		return nil, rest
	}
	n, w := binary.Uvarint(rest[1:])
	end := 1 + w + int(n)
	return rest[1+w : end : end], rest[end:]
}

// Value is the value, aliasing r; nil if it is empty.
func (r Record) Value() []byte {
	_, _, _, rest := r.revisions()
	v, _ := takeValue(rest)
	return v
}

// Lease is the id of the lease the key is attached to, or 0.
func (r Record) Lease() int64 {
	_, _, _, rest := r.revisions()
	_, rest = takeValue(rest)
	l, _ := field(rest, tagLease)
	return l
}

// Decode reads all fields at once.
func (r Record) Decode() KV {
	kv := KV{Key: r.Key()}
	var rest []byte
	kv.CreateRevision, kv.ModRevision, kv.Version, rest = r.revisions()
	kv.Value, rest = takeValue(rest)
	kv.Lease, _ = field(rest, tagLease)
	return kv
}

func uvarintLen(x uint64) int { return (bits.Len64(x|1) + 6) / 7 }

func fieldLen(x int64) int {
	if x == 0 {
		return 0
	}
	return 1 + uvarintLen(uint64(x))
}

func bytesLen(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	return 1 + uvarintLen(uint64(len(b))) + len(b)
}

// encodedLen is the length appendRecord adds.
func (kv *KV) encodedLen() int {
	return bytesLen(kv.Key) + fieldLen(kv.CreateRevision) + fieldLen(kv.ModRevision) + fieldLen(kv.Version) +
		bytesLen(kv.Value) + fieldLen(kv.Lease)
}

func appendField(b []byte, tag byte, x int64) []byte {
	if x == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, tag), uint64(x))
}

func appendBytes(b []byte, tag byte, x []byte) []byte {
	if len(x) == 0 {
		return b
	}
	return append(binary.AppendUvarint(append(b, tag), uint64(len(x))), x...)
}

// appendRecord appends kv's Record.
func appendRecord(b []byte, kv *KV) []byte {
	b = appendBytes(b, tagKey, kv.Key)
	b = appendField(b, tagCreate, kv.CreateRevision)
	b = appendField(b, tagMod, kv.ModRevision)
	b = appendField(b, tagVersion, kv.Version)
	b = appendBytes(b, tagValue, kv.Value)
	return appendField(b, tagLease, kv.Lease)
}

var errMalformed = errors.New("not an encoded mvccpb.KeyValue")

// decodeForeign reads a KeyValue written by someone else: fields in any order, zero values spelled out. It refuses
// fields it does not know instead of dropping them.
func decodeForeign(b []byte) (KV, error) {
	var kv KV
	for len(b) > 0 {
		tag, w := binary.Uvarint(b)
		if w <= 0 {
			return KV{}, errMalformed
		}
		b = b[w:]
		x, w := binary.Uvarint(b)
		if w <= 0 {
			return KV{}, errMalformed
		}
		b = b[w:]
		switch tag {
		case tagKey, tagValue:
			if x > uint64(len(b)) {
				return KV{}, errMalformed
			}
			if tag == tagKey {
				kv.Key = b[:x:x]
			} else {
				kv.Value = b[:x:x]
			}
			b = b[x:]
		case tagCreate:
			kv.CreateRevision = int64(x)
		case tagMod:
			kv.ModRevision = int64(x)
		case tagVersion:
			kv.Version = int64(x)
		case tagLease:
			kv.Lease = int64(x)
		default:
			return KV{}, fmt.Errorf("%w: unknown field %d of wire type %d; it needs a newer release", errMalformed, tag>>3, tag&7)
		}
	}
	return kv, nil
}
