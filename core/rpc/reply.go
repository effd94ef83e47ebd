package rpc

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/musterhq/muster/core/mvcc"
)

// identity encodes reply headers. The ids never change, so their bytes are
// made once.
type identity struct {
	clusterID, memberID uint64
	prefix              []byte
}

func newIdentity(clusterID, memberID uint64) identity {
	b := appendVarintField(nil, 1, clusterID)
	return identity{clusterID: clusterID, memberID: memberID, prefix: appendVarintField(b, 2, memberID)}
}

// maxHeader bounds what appendHeader adds: tag and length, two ids, revision
// and term at ten bytes and a tag each.
const maxHeader = 2 + 4*11

// appendHeader writes a ResponseHeader as field 1 of the reply.
func (id *identity) appendHeader(b []byte, rev int64, term uint64) []byte {
	n := len(id.prefix)
	if rev != 0 {
		n += 1 + sizeVarint(uint64(rev))
	}
	if term != 0 {
		n += 1 + sizeVarint(term)
	}
	b = append(b, 1<<3|byte(protowire.BytesType), byte(n))
	b = append(b, id.prefix...)
	b = appendVarintField(b, 3, uint64(rev))
	return appendVarintField(b, 4, term)
}

// header is the same for replies that are built as message trees.
func (id *identity) header(rev int64, term uint64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: id.clusterID, MemberId: id.memberID, Revision: rev, RaftTerm: term}
}

// encoded is a reply whose bytes are ready. A short one lives inside it, so
// that the answer to a put is a single object.
type encoded struct {
	bufs   mem.BufferSlice
	first  [1]mem.Buffer
	inline [inlineReply]byte
}

// inlineReply fits a header and a few small fields.
const inlineReply = 72

func (e *encoded) marshalWire() (mem.BufferSlice, error) { return e.bufs, nil } //nolint:unparam // wireReply, which others may fail at

// one makes b, which may stand on inline, the whole reply.
func (e *encoded) one(b []byte) *encoded {
	e.first[0] = mem.SliceBuffer(b)
	e.bufs = e.first[:]
	return e
}

// byReference is the size from which stored bytes are handed to the transport
// as they are. Below it the bookkeeping costs more than the copy; and a slow
// client that holds a piece of a 1 MiB chunk should hold a good part of it.
const byReference = 64 << 10

// splice makes a reply of a header and the rest of the message, which the
// machine encoded when it applied the command.
func (id *identity) splice(rev int64, term uint64, body []byte) *encoded {
	e := new(encoded)
	if len(body) >= byReference {
		e.bufs = mem.BufferSlice{mem.SliceBuffer(id.appendHeader(e.inline[:0], rev, term)), mem.SliceBuffer(body)}
		return e
	}
	b := e.inline[:0]
	if maxHeader+len(body) > len(e.inline) {
		b = make([]byte, 0, maxHeader+len(body))
	}
	return e.one(append(id.appendHeader(b, rev, term), body...))
}

// rangeReply encodes a RangeResponse from stored records.
func (id *identity) rangeReply(rev int64, term uint64, kvs []mvcc.Record, more bool, count int64, keysOnly bool) *encoded {
	size := maxHeader + 2 + 11
	for _, r := range kvs {
		size += 1 + sizeVarint(uint64(len(r))) + len(r)
	}
	e := new(encoded)
	if mem.IsBelowBufferPoolingThreshold(size) {
		return e.one(id.smallRange(e.inline[:0], size, rev, term, kvs, more, count, keysOnly))
	}
	w := newChunks(size)
	w.b = id.appendHeader(w.b, rev, term)
	for _, r := range kvs {
		if keysOnly {
			r = r[:keyPart(r)]
		}
		w.record(2, r)
	}
	w.room(2 + 11) // a record that went by reference has left no buffer behind
	w.b = appendBoolField(w.b, 3, more)
	w.b = appendVarintField(w.b, 4, uint64(count))
	return w.finish(e)
}

// smallRange encodes a reply that isn't worth a pooled buffer.
func (id *identity) smallRange(b []byte, size int, rev int64, term uint64, kvs []mvcc.Record, more bool, count int64, keysOnly bool) []byte {
	if size > cap(b) {
		b = make([]byte, 0, size)
	}
	b = id.appendHeader(b, rev, term)
	for _, r := range kvs {
		if keysOnly {
			r = r[:keyPart(r)]
		}
		b = appendMessageField(b, 2, r)
	}
	b = appendBoolField(b, 3, more)
	return appendVarintField(b, 4, uint64(count))
}

// chunkSize is the largest buffer grpc's pool keeps: a bigger reply is several
// of them, so that the pool serves it and the transport frees it as it goes.
const chunkSize = 1 << 20

// chunks collects a reply in pooled buffers.
type chunks struct {
	b    []byte // what is being filled
	buf  *[]byte
	done mem.BufferSlice
	left int // an upper bound of what is still to come
}

func newChunks(size int) *chunks {
	w := &chunks{left: size}
	w.open(0)
	return w
}

// open starts a buffer with room for at least n bytes.
func (w *chunks) open(n int) {
	size := max(min(w.left, chunkSize), n)
	w.left -= size
	w.buf = mem.DefaultBufferPool().Get(size)
	w.b = (*w.buf)[:0]
}

// shut puts the current buffer among the finished ones.
func (w *chunks) shut() {
	if len(w.b) > 0 {
		*w.buf = w.b
		w.done = append(w.done, mem.NewBuffer(w.buf, mem.DefaultBufferPool()))
	} else if w.buf != nil {
		mem.DefaultBufferPool().Put(w.buf)
	}
	w.buf, w.b = nil, nil
}

// record adds one stored record as field num.
func (w *chunks) record(num protowire.Number, r mvcc.Record) {
	if len(r) >= byReference {
		w.room(1 + 10)
		w.b = protowire.AppendVarint(append(w.b, byte(num)<<3|byte(protowire.BytesType)), uint64(len(r)))
		w.shut()
		w.done = append(w.done, mem.SliceBuffer(r))
		w.left -= len(r)
		return
	}
	w.room(1 + 10 + len(r))
	w.b = appendMessageField(w.b, num, r)
}

// room makes sure that n bytes fit without growing, so that pooled buffers
// stay the pool's.
func (w *chunks) room(n int) {
	if cap(w.b)-len(w.b) >= n {
		return
	}
	w.shut()
	w.open(n)
}

func (w *chunks) finish(e *encoded) *encoded {
	w.shut()
	e.bufs = w.done
	return e
}

// keyPart is the length of a record's beginning that holds the key and the
// revisions: fields are stored in order, value and lease are the last two.
func keyPart(r mvcc.Record) int {
	for rest := []byte(r); len(rest) > 0; {
		f, next, err := nextField(rest)
		if err != nil || f.num >= 5 {
			return len(r) - len(rest)
		}
		rest = next
	}
	return len(r)
}
