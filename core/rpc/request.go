package rpc

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// putRequest is etcdserverpb.PutRequest, read in place. body is the message
// itself: it goes into the command unchanged, so that a put is never
// re-encoded.
//
// Invariant: body means the same to every decoder. A message with a repeated,
// unknown, oddly typed, padded or out-of-order field is re-encoded, so that what was
// checked here is what is executed there.
type putRequest struct {
	buf                      mem.Buffer // holds body until release
	body                     []byte
	key                      []byte
	valueLen                 int
	lease                    int64
	ignoreValue, ignoreLease bool
}

func (r *putRequest) unmarshalWire(data mem.BufferSlice) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	if err := r.decode(buf.ReadOnlyData()); err != nil {
		buf.Free()
		return err
	}
	r.buf = buf
	return nil
}

func (r *putRequest) release() {
	if r.buf != nil {
		r.buf.Free()
	}
	*r = putRequest{}
}

func (r *putRequest) decode(body []byte) error {
	*r = putRequest{body: body}
	var value []byte
	var prevKV bool
	var last protowire.Number
	canonical, size := true, 0
	for rest := body; len(rest) > 0; {
		var f field
		var err error
		if f, rest, err = nextField(rest); err != nil {
			return err
		}
		if f.num <= last || f.isZero() {
			canonical = false
		}
		last = f.num
		size += f.minSize()
		switch {
		case f.num == 1 && f.typ == protowire.BytesType:
			r.key = f.b
		case f.num == 2 && f.typ == protowire.BytesType:
			value = f.b
		case f.num == 3 && f.typ == protowire.VarintType:
			r.lease = int64(f.u)
		case f.num == 4 && f.typ == protowire.VarintType:
			prevKV = f.u != 0
			canonical = canonical && f.u == 1
		case f.num == 5 && f.typ == protowire.VarintType:
			r.ignoreValue = f.u != 0
			canonical = canonical && f.u == 1
		case f.num == 6 && f.typ == protowire.VarintType:
			r.ignoreLease = f.u != 0
			canonical = canonical && f.u == 1
		default:
			canonical = false
		}
	}
	r.valueLen = len(value)
	// Tags, lengths and numbers may be padded: then the whole is longer than it
	// need be.
	if !canonical || size != len(body) {
		b := make([]byte, 0, len(body))
		b = appendBytesField(b, 1, r.key)
		b = appendBytesField(b, 2, value)
		b = appendVarintField(b, 3, uint64(r.lease))
		b = appendBoolField(b, 4, prevKV)
		b = appendBoolField(b, 5, r.ignoreValue)
		r.body = appendBoolField(b, 6, r.ignoreLease)
	}
	return nil
}

// rangeRequest is etcdserverpb.RangeRequest, read in place. Key and end alias
// the received buffer, which is held until release.
type rangeRequest struct {
	buf                                  mem.Buffer
	key, end                             []byte
	limit, rev                           int64
	order, target                        int32
	serializable, keysOnly, countOnly    bool
	minMod, maxMod, minCreate, maxCreate int64
}

func (r *rangeRequest) unmarshalWire(data mem.BufferSlice) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	if err := r.decode(buf.ReadOnlyData()); err != nil {
		buf.Free()
		return err
	}
	r.buf = buf
	return nil
}

func (r *rangeRequest) release() {
	if r.buf != nil {
		r.buf.Free()
	}
	*r = rangeRequest{}
}

func (r *rangeRequest) decode(body []byte) error {
	*r = rangeRequest{}
	for rest := body; len(rest) > 0; {
		var f field
		var err error
		if f, rest, err = nextField(rest); err != nil {
			return err
		}
		if f.typ == protowire.BytesType {
			switch f.num {
			case 1:
				r.key = f.b
			case 2:
				r.end = f.b
			}
			continue
		}
		if f.typ != protowire.VarintType {
			continue
		}
		switch f.num {
		case 3:
			r.limit = int64(f.u)
		case 4:
			r.rev = int64(f.u)
		case 5:
			r.order = int32(f.u)
		case 6:
			r.target = int32(f.u)
		case 7:
			r.serializable = f.u != 0
		case 8:
			r.keysOnly = f.u != 0
		case 9:
			r.countOnly = f.u != 0
		case 10:
			r.minMod = int64(f.u)
		case 11:
			r.maxMod = int64(f.u)
		case 12:
			r.minCreate = int64(f.u)
		case 13:
			r.maxCreate = int64(f.u)
		}
	}
	return nil
}

// simple tells whether the request is a plain look at one key now, which is
// answered from the index without a range at all.
func (r *rangeRequest) simple() bool {
	return len(r.end) == 0 && r.rev <= 0 && !r.countOnly &&
		r.minMod == 0 && r.maxMod == 0 && r.minCreate == 0 && r.maxCreate == 0
}

// keepAliveRequest is etcdserverpb.LeaseKeepAliveRequest.
type keepAliveRequest struct{ id int64 }

func (r *keepAliveRequest) unmarshalWire(data mem.BufferSlice) error {
	// Twelve bytes at most when canonical, so that materialising is no copy.
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return r.decode(buf.ReadOnlyData())
}

func (r *keepAliveRequest) decode(body []byte) error {
	r.id = 0
	for rest := body; len(rest) > 0; {
		var f field
		var err error
		if f, rest, err = nextField(rest); err != nil {
			return err
		}
		if f.num == 1 && f.typ == protowire.VarintType {
			r.id = int64(f.u)
		}
	}
	return nil
}
