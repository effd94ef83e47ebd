package wal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/simbug"
)

const (
	batchHeaderSize = 24
	batchAlign      = 8

	kindData   = 1 // payload is a list of records
	kindClosed = 2 // no payload: left by Close
)

const (
	recHardState = 1 // uvarint term, vote, commit
	recEntry     = 2 // byte type, uvarint term, index, length, then the data
)

var (
	castagnoli      = crc32.MakeTable(crc32.Castagnoli)
	zeroBatchHeader [batchHeaderSize]byte
)

// errBatch says that no valid batch is where one was looked for.
var errBatch = errors.New("no valid batch")

func padded(n int) int64 { return int64(n+batchAlign-1) &^ (batchAlign - 1) }

// crcSeed ties checksums to one segment.
func crcSeed(salt, seq uint64) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], salt)
	binary.LittleEndian.PutUint64(b[8:], seq)
	return crc32.Checksum(b[:], castagnoli)
}

// batchHeader is the frame of a batch.
type batchHeader struct {
	length     uint32
	payloadCRC uint32
	watermark  int64
	kind       uint32
}

// headerCRC also covers the offset: a batch that a disk put elsewhere isn't valid there.
func headerCRC(seed uint32, h []byte, off int64) uint32 {
	return crc32.Update(seed^uint32(off), castagnoli, h[:20])
}

// frameBatch fills in the header at the start of b and pads its end.
func frameBatch(b []byte, seed uint32, off, watermark int64, kind uint32) []byte {
	payload := b[batchHeaderSize:]
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(len(payload)))
	le.PutUint32(b[4:], crc32.Update(seed, castagnoli, payload))
	le.PutUint64(b[8:], uint64(watermark))
	le.PutUint32(b[16:], kind)
	le.PutUint32(b[20:], headerCRC(seed, b, off))
	return append(b, zeroBatchHeader[:padded(len(b))-int64(len(b))]...)
}

// parseBatchHeader reads the header at off of a segment's bytes.
func parseBatchHeader(seg []byte, off int64, seed uint32) (batchHeader, error) {
	if off+batchHeaderSize > int64(len(seg)) {
		return batchHeader{}, errBatch
	}
	b := seg[off : off+batchHeaderSize]
	le := binary.LittleEndian
	h := batchHeader{le.Uint32(b), le.Uint32(b[4:]), int64(le.Uint64(b[8:])), le.Uint32(b[16:])}
	switch {
	case h.kind != kindData && h.kind != kindClosed,
		le.Uint32(b[20:]) != headerCRC(seed, b, off),
		h.watermark < headerSize || h.watermark > off:
		return batchHeader{}, errBatch
	}
	return h, nil
}

// parseBatch returns the batch at off and the offset behind it.
func parseBatch(seg []byte, off int64, seed uint32) (h batchHeader, payload []byte, next int64, err error) {
	h, err = parseBatchHeader(seg, off, seed)
	if err != nil {
		return h, nil, 0, err
	}
	start := off + batchHeaderSize
	end := start + int64(h.length)
	if end > int64(len(seg)) {
		return h, nil, 0, errBatch
	}
	payload = seg[start:end]
	if crc32.Update(seed, castagnoli, payload) != h.payloadCRC && !simbug.On(simbug.RotInLog) {
		return h, nil, 0, errBatch
	}
	return h, payload, off + padded(int(batchHeaderSize+h.length)), nil
}

func appendHardState(b []byte, h hardState) []byte {
	b = append(b, recHardState)
	b = binary.AppendUvarint(b, h.term)
	b = binary.AppendUvarint(b, h.vote)
	return binary.AppendUvarint(b, h.commit)
}

func appendEntry(b []byte, e *raftpb.Entry) []byte {
	b = append(b, recEntry, byte(e.GetType()))
	b = binary.AppendUvarint(b, e.GetTerm())
	b = binary.AppendUvarint(b, e.GetIndex())
	b = binary.AppendUvarint(b, uint64(len(e.Data)))
	return append(b, e.Data...)
}

var errRecord = errors.New("malformed record")

// reader walks the records of a payload.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// decodeRecords calls the visitor for each record; entry data aliases payload.
func decodeRecords(payload []byte, v visitor) error {
	r := reader{b: payload}
	for len(r.b) > 0 {
		tag := r.take(1)[0]
		switch tag {
		case recHardState:
			h := hardState{set: true, term: r.uvarint(), vote: r.uvarint(), commit: r.uvarint()}
			if r.bad {
				return errRecord
			}
			v.hardState(h)
		case recEntry:
			typ := r.take(1)
			pos := Position{Term: r.uvarint(), Index: r.uvarint()}
			data := r.take(r.uvarint())
			if r.bad {
				return errRecord
			}
			if err := v.entry(pos, raftpb.EntryType(typ[0]), data); err != nil {
				return err
			}
		default:
			return errRecord
		}
	}
	return nil
}

type visitor interface {
	hardState(hardState)
	entry(pos Position, typ raftpb.EntryType, data []byte) error
}
