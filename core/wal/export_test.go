package wal

import (
	"encoding/binary"
	"hash/crc32"
)

// HeaderOfVersion returns a segment's header as another version would have written it.
func HeaderOfVersion(segment []byte, version uint32) []byte {
	h := append([]byte(nil), segment[:headerSize]...)
	binary.LittleEndian.PutUint32(h[8:], version)
	binary.LittleEndian.PutUint32(h[headerSize-4:], crc32.Checksum(h[:headerSize-4], castagnoli))
	return h
}

// Frame makes payload a valid batch at off of a segment.
func Frame(segment []byte, off int64, payload []byte) []byte {
	h, err := decodeHeader(segment)
	if err != nil {
		panic(err)
	}
	b := append(append([]byte(nil), zeroBatchHeader[:]...), payload...)
	return frameBatch(b, crcSeed(h.salt, h.seq), off, headerSize, kindData)
}

// WithFlushAt makes a log write out its buffer at n bytes, synced or not.
func WithFlushAt(cfg Config, n int) Config {
	cfg.flushAt = n
	return cfg
}
