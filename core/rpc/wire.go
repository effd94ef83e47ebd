package rpc

import (
	"errors"
	"math/bits"

	"google.golang.org/protobuf/encoding/protowire"
)

// errMalformed says that bytes are not a protobuf message at all. The client
// gets it as Internal, as from any grpc server.
var errMalformed = errors.New("malformed protobuf message")

// field is one field of a protobuf message as it stands on the wire.
type field struct {
	num protowire.Number
	typ protowire.Type
	u   uint64 // value of a varint
	b   []byte // content of a length-delimited field, aliasing the message
}

// nextField takes the first field off msg. Fixed and group fields come back
// with neither u nor b: none of the messages read by hand has one, so they are
// unknown fields by definition.
func nextField(msg []byte) (f field, rest []byte, err error) {
	num, typ, n := protowire.ConsumeTag(msg)
	if n < 0 || num > protowire.MaxValidNumber {
		return f, nil, errMalformed
	}
	f.num, f.typ = num, typ
	msg = msg[n:]
	switch typ {
	case protowire.VarintType:
		f.u, n = protowire.ConsumeVarint(msg)
	case protowire.BytesType:
		f.b, n = protowire.ConsumeBytes(msg)
	default:
		n = protowire.ConsumeFieldValue(num, typ, msg)
	}
	if n < 0 {
		return f, nil, errMalformed
	}
	return f, msg[n:], nil
}

// isZero tells whether the field carries proto3's default value, which no
// canonical encoder writes.
func (f *field) isZero() bool {
	return f.typ == protowire.VarintType && f.u == 0 || f.typ == protowire.BytesType && len(f.b) == 0
}

// minSize is what the field takes when encoded canonically. It holds for
// fields below 16.
func (f *field) minSize() int {
	if f.typ == protowire.BytesType {
		return 1 + sizeVarint(uint64(len(f.b))) + len(f.b)
	}
	return 1 + sizeVarint(f.u)
}

func sizeVarint(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// appendVarintField and appendBytesField write fields below 16, whose tag is
// one byte, and leave out default values as proto3 does.
func appendVarintField(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(append(b, byte(num)<<3|byte(protowire.VarintType)), v)
}

func appendBoolField(b []byte, num protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return append(b, byte(num)<<3|byte(protowire.VarintType), 1)
}

func appendBytesField(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return appendMessageField(b, num, v)
}

// appendMessageField writes an embedded message, empty or not.
func appendMessageField(b []byte, num protowire.Number, msg []byte) []byte {
	b = protowire.AppendVarint(append(b, byte(num)<<3|byte(protowire.BytesType)), uint64(len(msg)))
	return append(b, msg...)
}
