package checkpoint

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
)

// bbolt's on-disk constants (bbolt: internal/common, version 2 of the format).
const (
	pageSize       = 4096
	pageHeaderSize = 16
	elemSize       = 16 // of leaf and branch elements alike

	branchFlag   = 0x01
	leafFlag     = 0x02
	metaFlag     = 0x04
	freelistFlag = 0x10

	bucketLeafFlag = 0x01 // a leaf element that is a bucket

	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	metaSize     = 64 // checksum included
	bucketHeader = 16

	maxKeySize   = 32768
	maxValueSize = 1<<31 - 2
	maxInline    = pageSize / 4

	freelistPage  = 2
	firstDataPage = 3

	digestSize = 32
)

// meta is the part of a meta page that matters to us.
type meta struct {
	pageSize uint32
	root     uint64
	freelist uint64
	highest  uint64 // number of pages in use
	txid     uint64
}

func (m meta) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], boltMagic)
	le.PutUint32(b[4:], boltVersion)
	le.PutUint32(b[8:], m.pageSize)
	le.PutUint64(b[16:], m.root)
	le.PutUint64(b[32:], m.freelist)
	le.PutUint64(b[40:], m.highest)
	le.PutUint64(b[48:], m.txid)
	le.PutUint64(b[56:], metaSum(b))
}

func metaSum(b []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(b[:metaSize-8]) // never fails
	return h.Sum64()
}

var errMeta = errors.New("not a meta page")

func decodeMeta(b []byte) (meta, error) {
	le := binary.LittleEndian
	if len(b) < metaSize || le.Uint32(b) != boltMagic || le.Uint32(b[4:]) != boltVersion || le.Uint64(b[56:]) != metaSum(b) {
		return meta{}, errMeta
	}
	return meta{le.Uint32(b[8:]), le.Uint64(b[16:]), le.Uint64(b[32:]), le.Uint64(b[40:]), le.Uint64(b[48:])}, nil
}

func putPageHeader(b []byte, id uint64, flags, count uint16, overflow uint32) {
	le := binary.LittleEndian
	le.PutUint64(b, id)
	le.PutUint16(b[8:], flags)
	le.PutUint16(b[10:], count)
	le.PutUint32(b[12:], overflow)
}

// node is a leaf or branch page being filled.
type node struct {
	leaf  bool
	elems []elem
	data  []byte // keys and, in a leaf, values, in the order of elems
	size  int    // bytes of the page
}

type elem struct {
	ksize, vsize int
	flags        uint32 // leaf
	page         uint64 // branch
}

func (n *node) reset() {
	n.elems, n.data, n.size = n.elems[:0], n.data[:0], pageHeaderSize
}

// add appends an element. When only counting, keys are kept (a branch page
// above needs the first one), values are not.
func (n *node) add(key, value []byte, e elem, counting bool) {
	e.ksize, e.vsize = len(key), len(value)
	if !counting || len(n.elems) == 0 || !n.leaf {
		n.data = append(n.data, key...)
	}
	if !counting {
		n.data = append(n.data, value...)
	}
	n.elems = append(n.elems, e)
	n.size += elemSize + len(key) + len(value)
}

func (n *node) firstKey() []byte { return n.data[:n.elems[0].ksize] }

// appendPage encodes the node as a page of exactly n.size bytes.
func (n *node) appendPage(b []byte, id uint64, overflow uint32) []byte {
	flags := uint16(branchFlag)
	if n.leaf {
		flags = leafFlag
	}
	var header [pageHeaderSize]byte
	putPageHeader(header[:], id, flags, uint16(len(n.elems)), overflow)
	b = append(b, header[:]...)
	le := binary.LittleEndian
	// An element says where its key is by the distance from the element itself.
	distance := elemSize * len(n.elems)
	for _, e := range n.elems {
		var x [elemSize]byte
		if n.leaf {
			le.PutUint32(x[0:], e.flags)
			le.PutUint32(x[4:], uint32(distance))
			le.PutUint32(x[8:], uint32(e.ksize))
			le.PutUint32(x[12:], uint32(e.vsize))
		} else {
			le.PutUint32(x[0:], uint32(distance))
			le.PutUint32(x[4:], uint32(e.ksize))
			le.PutUint64(x[8:], e.page)
		}
		b = append(b, x[:]...)
		distance += e.ksize + e.vsize - elemSize
	}
	return append(b, n.data...)
}
