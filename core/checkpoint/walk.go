package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	readAhead = 256 << 10
	maxDepth  = 64 // a branch page of ours or bbolt's has two children or more, but for the odd worn one
)

// walk goes through one tree in key order.
type walk struct {
	r     *Reader
	visit func(key, value []byte, flags uint32) error
	left  uint64 // pages that may still be visited: each page at most once
	prev  []byte
	any   bool

	window []byte // pages read ahead, at winOff
	winOff int64
	side   []byte // a page that lay elsewhere
}

func (r *Reader) newWalk(visit func(key, value []byte, flags uint32) error) *walk {
	return &walk{r: r, visit: visit, left: r.meta.highest}
}

func (w *walk) tree(id uint64, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: a tree deeper than %d pages", ErrCorrupt, maxDepth)
	}
	page, err := w.page(id)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint16(page[8:]) == leafFlag {
		return w.leaf(page)
	}
	children, err := branch(page)
	if err != nil {
		return fmt.Errorf("%w (page %d)", err, id)
	}
	for _, c := range children {
		if err := w.tree(c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// branch copies the numbers of the children out of a page, whose memory is about
// to be reused. Their keys don't matter for going through all of them: what
// must rise are the keys of the pairs, and those are checked.
func branch(page []byte) ([]uint64, error) {
	le := binary.LittleEndian
	count := int(le.Uint16(page[10:]))
	if pageHeaderSize+count*elemSize > len(page) || count == 0 {
		return nil, fmt.Errorf("%w: a branch page of %d bytes can't hold %d children", ErrCorrupt, len(page), count)
	}
	children := make([]uint64, count)
	for i := range children {
		children[i] = le.Uint64(page[pageHeaderSize+i*elemSize+8:])
	}
	return children, nil
}

// leaf visits the pairs of a leaf page.
func (w *walk) leaf(page []byte) error {
	le := binary.LittleEndian
	if len(page) < pageHeaderSize || le.Uint16(page[8:]) != leafFlag {
		return fmt.Errorf("%w: no leaf page where one is needed", ErrCorrupt)
	}
	count := int(le.Uint16(page[10:]))
	if pageHeaderSize+count*elemSize > len(page) {
		return fmt.Errorf("%w: a leaf page of %d bytes can't hold %d pairs", ErrCorrupt, len(page), count)
	}
	for i := range count {
		at := pageHeaderSize + i*elemSize
		start := uint64(at) + uint64(le.Uint32(page[at+4:]))
		ksize, vsize := uint64(le.Uint32(page[at+8:])), uint64(le.Uint32(page[at+12:]))
		if ksize == 0 || start+ksize+vsize > uint64(len(page)) {
			return fmt.Errorf("%w: a pair lies outside its page or has no key", ErrCorrupt)
		}
		key, value := page[start:start+ksize:start+ksize], page[start+ksize:start+ksize+vsize:start+ksize+vsize]
		if w.any && bytes.Compare(key, w.prev) <= 0 {
			return fmt.Errorf("%w: key %x after %x", ErrCorrupt, key, w.prev)
		}
		w.prev, w.any = append(w.prev[:0], key...), true
		if err := w.visit(key, value, le.Uint32(page[at:])); err != nil {
			return err
		}
	}
	return nil
}

// page reads a page and its overflow; it is valid until the next call.
func (w *walk) page(id uint64) ([]byte, error) {
	size := int64(w.r.meta.pageSize)
	if id < 2 || id >= w.r.meta.highest {
		return nil, fmt.Errorf("%w: page %d of %d", ErrCorrupt, id, w.r.meta.highest)
	}
	off := int64(id) * size
	page, err := w.fetch(off, size)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	overflow := uint64(le.Uint32(page[12:]))
	switch flags := le.Uint16(page[8:]); {
	case le.Uint64(page) != id:
		return nil, fmt.Errorf("%w: page %d says it is page %d", ErrCorrupt, id, le.Uint64(page))
	case flags != leafFlag && flags != branchFlag:
		return nil, fmt.Errorf("%w: page %d is neither leaf nor branch (flags %#x)", ErrCorrupt, id, flags)
	case id+overflow >= w.r.meta.highest:
		return nil, fmt.Errorf("%w: page %d runs over the end", ErrCorrupt, id)
	case w.left < overflow+1:
		return nil, fmt.Errorf("%w: pages refer to each other", ErrCorrupt)
	}
	w.left -= overflow + 1
	if overflow == 0 {
		return page, nil
	}
	return w.fetch(off, int64(overflow+1)*size)
}

// fetch returns n bytes at off. Reading on where the window ends moves it and
// reads ahead; anything else, a branch page mostly, is read on its own, unless
// it turns out to be the start of a new run.
func (w *walk) fetch(off, n int64) ([]byte, error) {
	end := w.winOff + int64(len(w.window))
	switch {
	case off >= w.winOff && off+n <= end:
		return w.window[off-w.winOff:][:n], nil
	case n <= readAhead && off >= w.winOff && off <= end+readAhead/4:
		var err error
		w.window, err = w.read(w.window, off, min(readAhead, w.r.dataSize()-off))
		w.winOff = off
		if err != nil {
			w.window = w.window[:0]
			return nil, err
		}
		return w.window[:n], nil
	}
	var err error
	if w.side, err = w.read(w.side, off, n); err != nil {
		return nil, err
	}
	if n == int64(w.r.meta.pageSize) && binary.LittleEndian.Uint16(w.side[8:]) == leafFlag {
		w.window, w.winOff = append(w.window[:0], w.side...), off
	}
	return w.side, nil
}

func (w *walk) read(buf []byte, off, n int64) ([]byte, error) {
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if got, err := w.r.src.ReadAt(buf, off); int64(got) < n {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: cut short at %d", ErrCorrupt, off+int64(got))
		}
		return buf, err
	}
	return buf, nil
}
