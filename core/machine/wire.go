package machine

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/musterhq/muster/core/mvcc"
)

// Requests on the hot path are read field by field from their bytes, and
// replies are written the same way: no message tree is built for them.

// field is one field of a protobuf message as it stands on the wire.
type field struct {
	num protowire.Number
	typ protowire.Type
	u   uint64 // value of a varint
	b   []byte // content of a length-delimited field, aliasing the message
}

// nextField takes the first field off msg. Fixed-width and group fields come
// back without their value: no message read here has one, so they are unknown.
func nextField(msg []byte) (f field, rest []byte, err error) {
	num, typ, n := protowire.ConsumeTag(msg)
	if n < 0 {
		return f, nil, fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
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
		return f, nil, fmt.Errorf("%w: field %d: %w", ErrMalformed, num, protowire.ParseError(n))
	}
	return f, msg[n:], nil
}

// putRequest is an etcdserverpb.PutRequest; its slices alias the command.
type putRequest struct {
	key, value                       []byte
	lease                            int64
	prevKV, ignoreValue, ignoreLease bool
}

func (p *putRequest) parse(b []byte) error {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		b = rest
		switch {
		case f.typ == protowire.BytesType && f.num == 1:
			p.key = f.b
		case f.typ == protowire.BytesType && f.num == 2:
			p.value = f.b
		case f.typ != protowire.VarintType:
		case f.num == 3:
			p.lease = int64(f.u)
		case f.num == 4:
			p.prevKV = f.u != 0
		case f.num == 5:
			p.ignoreValue = f.u != 0
		case f.num == 6:
			p.ignoreLease = f.u != 0
		}
	}
	return nil
}

// deleteRequest is an etcdserverpb.DeleteRangeRequest.
type deleteRequest struct {
	key, end []byte
	prevKV   bool
}

func (d *deleteRequest) parse(b []byte) error {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		b = rest
		switch {
		case f.typ == protowire.BytesType && f.num == 1:
			d.key = f.b
		case f.typ == protowire.BytesType && f.num == 2:
			d.end = f.b
		case f.typ == protowire.VarintType && f.num == 3:
			d.prevKV = f.u != 0
		}
	}
	return nil
}

// ints reads the varint fields 1 to len(to) of a small message.
func ints(b []byte, to ...*int64) error {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		b = rest
		if f.typ == protowire.VarintType && int(f.num) <= len(to) {
			*to[f.num-1] = int64(f.u)
		}
	}
	return nil
}

// appendInt appends a varint field unless it has proto3's default value.
func appendInt(b []byte, num protowire.Number, v int64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(v))
}

func appendBool(b []byte, num protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendInt(b, num, 1)
}

// appendBytes appends a length-delimited field, empty or not.
func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// open starts a message field whose length isn't known yet; shut fills it in.
// at is to be passed on to shut.
func open(b []byte, num protowire.Number) (_ []byte, at int) {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return append(b, 0), len(b)
}

func shut(b []byte, at int) []byte {
	n := len(b) - at - 1
	if extra := protowire.SizeVarint(uint64(n)) - 1; extra > 0 {
		b = append(b, make([]byte, extra)...)
		copy(b[at+1+extra:], b[at+1:at+1+n])
	}
	binary.PutUvarint(b[at:], uint64(n))
	return b
}

// appendRevision appends the header of a reply nested in a txn's: as in etcd it
// carries the revision alone.
func appendRevision(b []byte, rev int64) []byte {
	b, at := open(b, 1)
	return shut(appendInt(b, 3, rev), at)
}

// AppendRangeBody appends an etcdserverpb.RangeResponse without its header.
// keysOnly leaves out values and, as etcd does since 3.7, leases.
func AppendRangeBody(b []byte, res mvcc.RangeResult, keysOnly bool) []byte {
	for _, r := range res.KVs {
		if keysOnly {
			r = keyPart(r)
		}
		b = appendBytes(b, 2, r)
	}
	b = appendBool(b, 3, res.More)
	return appendInt(b, 4, res.Count)
}

// keyPart is a record without value and lease. They come last in it, so what is
// before them is a record by itself.
func keyPart(r mvcc.Record) mvcc.Record {
	for at := 0; at < len(r); {
		num, typ, n := protowire.ConsumeTag(r[at:])
		if n < 0 || num >= 5 {
			return r[:at]
		}
		m := protowire.ConsumeFieldValue(num, typ, r[at+n:])
		if m < 0 {
			return r[:at]
		}
		at += n + m
	}
	return r
}
