package vfs

import (
	"io"
	"io/fs"
	"slices"
)

const (
	// Sector is the unit a disk writes whole: what a crash keeps or loses.
	Sector   = 512
	pageSize = 4096
)

type page [pageSize]byte

// memFile is the content of a file. A nil page reads as zeros.
//
// Invariant: a page reachable from durable is never written to; a write to a
// page that now and durable share clones it first. So crashed copies share
// durable pages with their origin, and only while there are none may a page that
// is no longer durable be used again.
type memFile struct {
	now, durable      []*page
	size, durableSize int64
	dirty             []int // pages where now and durable may differ; may repeat
	shrunk            bool  // truncated since the last sync
	shared            bool  // with a crashed copy, or the origin of one
	spare             *page // nobody else's
}

func (f *memFile) bytes() int64 { return f.size }

func pages(size int64) int { return int((size + pageSize - 1) / pageSize) }

// writable returns page i of now, private to it.
func (f *memFile) writable(i int) *page {
	p := f.now[i]
	switch {
	case p == nil:
		p = new(page)
	case i < len(f.durable) && f.durable[i] == p:
		c := f.spare
		if f.spare = nil; c == nil {
			c = new(page)
		}
		*c = *p
		p = c
	default:
		return p
	}
	f.now[i] = p
	f.dirty = append(f.dirty, i)
	return p
}

func (f *memFile) extend(size int64) {
	if size > f.size {
		f.size = size
		if n := pages(size); n > len(f.now) {
			f.now = slices.Grow(f.now, n-len(f.now))[:n]
		}
	}
}

func (f *memFile) writeAt(b []byte, off int64) {
	f.extend(off + int64(len(b)))
	for len(b) > 0 {
		n := copy(f.writable(int(off / pageSize))[off%pageSize:], b)
		b, off = b[n:], off+int64(n)
	}
}

func (f *memFile) readAt(b []byte, off int64) int {
	if off >= f.size {
		return 0
	}
	b = b[:min(int64(len(b)), f.size-off)]
	total := len(b)
	for len(b) > 0 {
		at := int(off % pageSize)
		n := min(len(b), pageSize-at)
		if p := f.now[off/pageSize]; p != nil {
			copy(b[:n], p[at:])
		} else {
			clear(b[:n])
		}
		b, off = b[n:], off+int64(n)
	}
	return total
}

func (f *memFile) truncate(size int64) {
	if size >= f.size {
		f.extend(size)
		return
	}
	f.shrunk = true
	n := pages(size)
	if at := size % pageSize; at != 0 && f.now[n-1] != nil {
		clear(f.writable(n - 1)[at:])
	}
	for i := n; i < len(f.now); i++ {
		f.dirty = append(f.dirty, i)
	}
	clear(f.now[n:])
	f.now = f.now[:n]
	f.size = size
}

func (f *memFile) sync() {
	if f.shrunk {
		f.durable = slices.Clone(f.now)
	} else {
		if n := len(f.now); n > len(f.durable) {
			f.durable = slices.Grow(f.durable, n-len(f.durable))[:n]
		}
		for _, i := range f.dirty {
			if old := f.durable[i]; old != nil && old != f.now[i] && !f.shared {
				f.spare = old
			}
			f.durable[i] = f.now[i]
		}
	}
	f.dirty, f.shrunk, f.durableSize = f.dirty[:0], false, f.size
}

// memHandle is an open file: a position and rights over a memFile.
type memHandle struct {
	fs          *Mem
	name        string
	file        *memFile
	pos         int64
	read, write bool
	closed      bool
}

func (h *memHandle) checkLocked(op string, allowed bool) error {
	if h.closed {
		return pathError(op, h.name, fs.ErrClosed)
	}
	if !allowed {
		return pathError(op, h.name, fs.ErrPermission)
	}
	return nil
}

func (h *memHandle) Read(b []byte) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.checkLocked("read", h.read); err != nil {
		return 0, err
	}
	n := h.file.readAt(b, h.pos)
	h.pos += int64(n)
	if n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (h *memHandle) ReadAt(b []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.checkLocked("read", h.read); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError("read", h.name, fs.ErrInvalid)
	}
	n := h.file.readAt(b, off)
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *memHandle) Write(b []byte) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	n, err := h.writeAtLocked(b, h.pos)
	h.pos += int64(n)
	return n, err
}

func (h *memHandle) WriteAt(b []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	return h.writeAtLocked(b, off)
}

func (h *memHandle) writeAtLocked(b []byte, off int64) (int, error) {
	if err := h.checkLocked("write", h.write); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError("write", h.name, fs.ErrInvalid)
	}
	if err := h.fs.roomLocked(off + int64(len(b)) - h.file.size); err != nil {
		return 0, pathError("write", h.name, err)
	}
	h.file.writeAt(b, off)
	return len(b), nil
}

func (h *memHandle) Truncate(size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.checkLocked("truncate", h.write && size >= 0); err != nil {
		return err
	}
	if err := h.fs.roomLocked(size - h.file.size); err != nil {
		return pathError("truncate", h.name, err)
	}
	h.file.truncate(size)
	return nil
}

func (h *memHandle) Preallocate(size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.checkLocked("preallocate", h.write); err != nil {
		return err
	}
	if err := h.fs.roomLocked(size - h.file.size); err != nil {
		return pathError("preallocate", h.name, err)
	}
	h.file.extend(size)
	return nil
}

func (h *memHandle) Sync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.checkLocked("sync", true); err != nil {
		return err
	}
	h.file.sync()
	return nil
}

func (h *memHandle) Size() (int64, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.checkLocked("stat", true); err != nil {
		return 0, err
	}
	return h.file.size, nil
}

func (h *memHandle) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return pathError("close", h.name, fs.ErrClosed)
	}
	h.closed = true
	return nil
}
