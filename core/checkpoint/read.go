package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/musterhq/muster/core/simbug"
	"github.com/musterhq/muster/core/vfs"
)

// ErrCorrupt says that a file isn't a whole bbolt database, or fails its digest.
var ErrCorrupt = errors.New("checkpoint is corrupt")

// Reader reads a bbolt file. It belongs to one goroutine.
type Reader struct {
	src     io.ReaderAt
	closer  io.Closer
	size    int64 // with the digest
	digest  bool
	meta    meta
	names   []string
	buckets map[string]subBucket
}

// subBucket is what the root bucket stores of a bucket.
type subBucket struct {
	root   uint64
	inline []byte // its only page, if root is 0
}

// Open opens a file and, if it carries a digest, verifies it.
func Open(fsys vfs.FS, name string) (*Reader, error) { return open(fsys, name, true) }

func open(fsys vfs.FS, name string, verify bool) (*Reader, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	r, err := openFile(f, verify)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %s: %w", name, errors.Join(err, f.Close()))
	}
	return r, nil
}

func openFile(f vfs.File, verify bool) (*Reader, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if verify {
		if err := verifyDigest(f, size); err != nil {
			return nil, err
		}
	}
	r, err := NewReader(f, size)
	if err != nil {
		return nil, err
	}
	r.closer = f
	return r, nil
}

// NewReader reads a database of size bytes, digest included if there is one,
// which it does not verify.
func NewReader(src io.ReaderAt, size int64) (*Reader, error) {
	r := &Reader{src: src, size: size, digest: hasDigest(size), buckets: make(map[string]subBucket)}
	if err := r.readMeta(); err != nil {
		return nil, err
	}
	w := r.newWalk(func(key, value []byte, flags uint32) error {
		if flags&bucketLeafFlag == 0 {
			return fmt.Errorf("%w: the root holds %q, which is no bucket", ErrCorrupt, key)
		}
		if len(value) < bucketHeader {
			return fmt.Errorf("%w: bucket %q has no header", ErrCorrupt, key)
		}
		r.names = append(r.names, string(key))
		sub := subBucket{root: binary.LittleEndian.Uint64(value)}
		if sub.root == 0 {
			sub.inline = bytes.Clone(value[bucketHeader:])
		}
		r.buckets[string(key)] = sub
		return nil
	})
	if err := w.tree(r.meta.root, 0); err != nil {
		return nil, err
	}
	return r, nil
}

// sector is what pages are multiples of, and by which etcd tells whether a digest
// follows them.
const sector = 512

func hasDigest(size int64) bool { return size%sector == digestSize }

func verifyDigest(src io.ReaderAt, size int64) error {
	if !hasDigest(size) {
		return nil
	}
	hash := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{hash}, io.NewSectionReader(src, 0, size-digestSize), make([]byte, min(size, 1<<20))); err != nil {
		return err
	}
	var want [digestSize]byte
	if _, err := src.ReadAt(want[:], size-digestSize); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if got := hash.Sum(nil); !bytes.Equal(got, want[:]) && !simbug.On(simbug.RotInCheckpoint) {
		return fmt.Errorf("%w: SHA-256 is %x, the file says %x", ErrCorrupt, got, want)
	}
	return nil
}

// readMeta finds the newest valid meta page. The page size stands in the meta
// pages themselves: if the first is damaged the second is searched for.
func (r *Reader) readMeta() error {
	read := func(off int64) (meta, error) {
		var b [metaSize]byte
		if n, err := r.src.ReadAt(b[:], off+pageHeaderSize); n < len(b) {
			if errors.Is(err, io.EOF) {
				err = errMeta
			}
			return meta{}, err
		}
		m, err := decodeMeta(b[:])
		if err == nil && (m.pageSize < 1024 || m.pageSize > 1<<16 || m.pageSize&(m.pageSize-1) != 0) {
			err = errMeta
		}
		return m, err
	}
	found := false
	consider := func(off int64) error {
		m, err := read(off)
		switch {
		case errors.Is(err, errMeta), err == nil && off != 0 && off != int64(m.pageSize):
			return nil
		case err != nil:
			return err
		}
		if !found || m.txid > r.meta.txid {
			r.meta, found = m, true
		}
		return nil
	}
	if err := consider(0); err != nil {
		return err
	}
	if found {
		if err := consider(int64(r.meta.pageSize)); err != nil {
			return err
		}
	}
	for size := int64(1024); size <= 1<<16 && !found; size *= 2 {
		if err := consider(size); err != nil {
			return err
		}
	}
	switch data := r.dataSize(); {
	case !found:
		return fmt.Errorf("%w: no valid meta page", ErrCorrupt)
	case r.meta.highest < 3 || r.meta.highest > uint64(data)/uint64(r.meta.pageSize):
		return fmt.Errorf("%w: %d bytes can't hold %d pages of %d", ErrCorrupt, data, r.meta.highest, r.meta.pageSize)
	}
	return nil
}

func (r *Reader) dataSize() int64 {
	if r.digest {
		return r.size - digestSize
	}
	return r.size
}

// Size returns the file's size, digest included.
func (r *Reader) Size() int64 { return r.size }

// HasDigest says whether the file carries a digest.
func (r *Reader) HasDigest() bool { return r.digest }

// Frayed says that the file ends neither with its pages nor with a digest behind
// them: it is cut short, or something was written behind it.
func (r *Reader) Frayed() bool { return !r.digest && r.size%sector != 0 }

// Buckets returns the names of all buckets, sorted.
func (r *Reader) Buckets() []string { return r.names }

// Has says whether there is a bucket of that name.
func (r *Reader) Has(bucket string) bool {
	_, ok := r.buckets[bucket]
	return ok
}

// Each calls visit for each pair of a bucket in key order, until it returns an
// error. A bucket that doesn't exist has no pairs; see Has. The slices are valid
// only during the call.
func (r *Reader) Each(bucket string, visit func(key, value []byte) error) error {
	sub, ok := r.buckets[bucket]
	if !ok {
		return nil
	}
	w := r.newWalk(func(key, value []byte, flags uint32) error {
		if flags&bucketLeafFlag != 0 {
			return fmt.Errorf("%w: bucket %q holds a bucket, %q: etcd has none inside another", ErrCorrupt, bucket, key)
		}
		return visit(key, value)
	})
	if sub.root == 0 {
		return w.leaf(sub.inline)
	}
	return w.tree(sub.root, 0)
}

// Get returns a copy of one value. It walks the bucket: meant for small ones.
func (r *Reader) Get(bucket, key string) (value []byte, ok bool, err error) {
	err = r.Each(bucket, func(k, v []byte) error {
		switch bytes.Compare(k, []byte(key)) {
		case -1:
			return nil
		case 0:
			value, ok = bytes.Clone(v), true
		}
		return errStop
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return value, ok, err
}

var errStop = errors.New("found")

// Raw returns the file as it is, digest included.
func (r *Reader) Raw() *io.SectionReader { return io.NewSectionReader(r.src, 0, r.size) }

// Close closes the file.
func (r *Reader) Close() error {
	if r.closer == nil {
		return nil
	}
	return r.closer.Close()
}
