package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
)

// Errors of the writer: bugs of the caller.
var (
	// ErrOrder: keys of a bucket don't rise strictly, or two buckets share a name.
	ErrOrder = errors.New("keys out of order")
	// ErrSize: a key is empty or a key or value too large for bbolt.
	ErrSize = errors.New("key or value of a size bbolt can't hold")
	// ErrChanged: the second pass over the source saw something else than the first.
	ErrChanged = errors.New("source changed while it was written")
)

// Bucket is a named, ordered list of pairs that can be walked more than once.
// Nil Pairs are an empty bucket. A nil value is an empty one.
type Bucket struct {
	Name  string
	Pairs iter.Seq2[[]byte, []byte]
}

// Written says what Write wrote.
type Written struct {
	Size   int64 // with the digest
	Digest [digestSize]byte
}

// Write writes buckets to w as a bbolt file followed by its digest.
func Write(w io.Writer, buckets []Bucket) (Written, error) {
	p, err := NewPlan(buckets)
	if err != nil {
		return Written{}, err
	}
	return p.Write(w)
}

// Plan is a file whose layout is known: the first pass is done.
type Plan struct {
	buckets []Bucket
	root    uint64
	pages   uint64
}

// NewPlan walks the buckets once and lays out the file.
func NewPlan(buckets []Bucket) (*Plan, error) {
	p := &Plan{buckets: slices.Clone(buckets)}
	slices.SortFunc(p.buckets, func(a, b Bucket) int { return strings.Compare(a.Name, b.Name) })
	b := &builder{counting: true, next: firstDataPage}
	root, err := b.build(p.buckets)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	p.root, p.pages = root, b.next
	return p, nil
}

// Size returns the size of the file, digest included.
func (p *Plan) Size() int64 { return int64(p.pages)*pageSize + digestSize }

// Write makes the second pass. It never seeks and doesn't close w.
func (p *Plan) Write(w io.Writer) (Written, error) {
	hash := sha256.New()
	b := &builder{next: firstDataPage, out: make([]byte, 0, min(p.Size(), writeBuffer+pageSize))}
	b.flush = func(data []byte) error {
		_, _ = hash.Write(data) // never fails
		_, err := w.Write(data)
		return err
	}
	b.out = p.appendHead(b.out)
	root, err := b.build(p.buckets)
	switch {
	case err != nil:
		return Written{}, fmt.Errorf("checkpoint: %w", err)
	case root != p.root || b.next != p.pages:
		return Written{}, fmt.Errorf("checkpoint: %w: %d pages, planned %d", ErrChanged, b.next, p.pages)
	}
	if err := b.flush(b.out); err != nil {
		return Written{}, fmt.Errorf("checkpoint: %w", err)
	}
	done := Written{Size: p.Size()}
	hash.Sum(done.Digest[:0])
	if _, err := w.Write(done.Digest[:]); err != nil {
		return Written{}, fmt.Errorf("checkpoint: %w", err)
	}
	return done, nil
}

// appendHead encodes meta pages and free list.
func (p *Plan) appendHead(b []byte) []byte {
	head := make([]byte, firstDataPage*pageSize)
	for txid := range uint64(2) { // a meta page's number is its transaction modulo 2
		at := head[txid*pageSize:]
		putPageHeader(at, txid, metaFlag, 0, 0)
		meta{pageSize: pageSize, root: p.root, freelist: freelistPage, highest: p.pages, txid: txid}.encode(at[pageHeaderSize:])
	}
	putPageHeader(head[freelistPage*pageSize:], freelistPage, freelistFlag, 0, 0)
	return append(b, head...)
}

const writeBuffer = 64 << 10

// builder numbers pages as they fill up and, unless it only counts, writes them.
type builder struct {
	counting bool
	next     uint64
	out      []byte
	flush    func([]byte) error
	spare    []*node // pages of finished trees, to be filled again
}

// build writes all buckets and then the root bucket, whose page it returns.
func (b *builder) build(buckets []Bucket) (root uint64, err error) {
	top := &tree{b: b}
	for _, bucket := range buckets {
		value, err := b.bucket(bucket)
		if err == nil {
			err = top.add([]byte(bucket.Name), value, bucketLeafFlag)
		}
		if err != nil {
			return 0, fmt.Errorf("bucket %q: %w", bucket.Name, err)
		}
	}
	return top.finish()
}

// bucket writes one bucket and returns what the root bucket stores of it.
func (b *builder) bucket(bucket Bucket) ([]byte, error) {
	t := &tree{b: b}
	if bucket.Pairs != nil {
		for k, v := range bucket.Pairs {
			if err := t.add(k, v, 0); err != nil {
				return nil, err
			}
		}
	}
	value := make([]byte, bucketHeader, bucketHeader+pageHeaderSize)
	if inline := t.inline(); inline != nil {
		defer func() { b.spare = append(b.spare, inline) }()
		if b.counting {
			return append(value, make([]byte, inline.size)...), nil
		}
		return inline.appendPage(value, 0, 0), nil
	}
	root, err := t.finish()
	binary.LittleEndian.PutUint64(value, root)
	return value, err
}

// page gives a node its number and writes it.
func (b *builder) page(n *node) (uint64, error) {
	id := b.next
	pages := (n.size + pageSize - 1) / pageSize
	b.next += uint64(pages)
	if b.counting {
		return id, nil
	}
	b.out = n.appendPage(b.out, id, uint32(pages-1))
	b.out = append(b.out, make([]byte, pages*pageSize-n.size)...)
	if len(b.out) < writeBuffer {
		return id, nil
	}
	err := b.flush(b.out)
	b.out = b.out[:0]
	return id, err
}

func (b *builder) node(leaf bool) *node {
	var n *node
	if last := len(b.spare) - 1; last >= 0 {
		n, b.spare = b.spare[last], b.spare[:last]
	} else {
		n = &node{elems: make([]elem, 0, pageSize/64)} // about what a page takes of small pairs
	}
	n.leaf = leaf
	n.reset()
	return n
}

// tree is a bucket growing from its leaves: one open page a level, leaves first.
type tree struct {
	b      *builder
	levels []*node
	prev   []byte
	any    bool
}

func (t *tree) add(key, value []byte, flags uint32) error {
	switch {
	case len(key) == 0 || len(key) > maxKeySize || len(value) > maxValueSize:
		return fmt.Errorf("%w: key of %d, value of %d bytes", ErrSize, len(key), len(value))
	case t.any && bytes.Compare(t.prev, key) >= 0:
		return fmt.Errorf("%w: %x after %x", ErrOrder, key, t.prev)
	}
	t.prev, t.any = append(t.prev[:0], key...), true
	return t.push(0, key, value, elem{flags: flags})
}

func (t *tree) push(level int, key, value []byte, e elem) error {
	if level == len(t.levels) {
		t.levels = append(t.levels, t.b.node(level == 0))
	}
	n := t.levels[level]
	if n.size+elemSize+len(key)+len(value) > pageSize {
		switch {
		case n.leaf && len(n.elems) > 0:
			if err := t.close(level); err != nil {
				return err
			}
		case !n.leaf && len(n.elems) > 2:
			// The last child moves on to the next page, so that no branch page
			// ever ends up with a single child.
			last := n.elems[len(n.elems)-1]
			at := len(n.data) - last.ksize
			moved := bytes.Clone(n.data[at:])
			n.elems, n.data, n.size = n.elems[:len(n.elems)-1], n.data[:at], n.size-elemSize-last.ksize
			if err := t.close(level); err != nil {
				return err
			}
			n.add(moved, nil, last, t.b.counting)
		}
	}
	n.add(key, value, e, t.b.counting)
	return nil
}

// close writes a level's page, names it to the level above and empties it.
func (t *tree) close(level int) error {
	n := t.levels[level]
	id, err := t.b.page(n)
	if err != nil {
		return err
	}
	if err := t.push(level+1, n.firstKey(), nil, elem{page: id}); err != nil {
		return err
	}
	n.reset()
	return nil
}

// inline returns the tree's only page if bbolt would keep it in the parent.
func (t *tree) inline() *node {
	switch {
	case len(t.levels) == 0:
		return t.b.node(true)
	case len(t.levels) == 1 && t.levels[0].size <= maxInline:
		return t.levels[0]
	}
	return nil
}

// finish writes the open pages and returns the root's number.
func (t *tree) finish() (uint64, error) {
	if len(t.levels) == 0 {
		t.levels = append(t.levels, t.b.node(true))
	}
	for level := 0; level < len(t.levels)-1; level++ {
		if err := t.close(level); err != nil {
			return 0, err
		}
	}
	root, err := t.b.page(t.levels[len(t.levels)-1])
	t.b.spare = append(t.b.spare, t.levels...)
	return root, err
}
