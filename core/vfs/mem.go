package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
)

// Mem is a file system in memory that knows which of its state is durable.
//
// Each file has a current content and a durable one, each directory current
// names and a list of operations not yet synced; see Crash. Relative names
// count from the root. Mem may be used from any number of goroutines.
type Mem struct {
	mu struct {
		sync.Mutex
		root     *memDir
		locks    map[string]bool
		capacity int64 // 0 = unlimited
	}
}

// NewMem returns an empty file system.
func NewMem() *Mem {
	m := &Mem{}
	m.mu.root = newMemDir()
	m.mu.locks = make(map[string]bool)
	return m
}

// SetCapacity limits the sum of all file sizes; past it, growing a file fails
// with ENOSPC. 0 lifts the limit.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.capacity = bytes
}

// Kill is what the death of the process that used m leaves to the next one: all
// that it wrote, synced or not, and no locks. Unlike after a Crash, what was not
// synced may still be lost later.
func (m *Mem) Kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.mu.locks)
}

// memNode is a *memDir or a *memFile.
type memNode interface{ bytes() int64 }

type memDir struct {
	now     map[string]memNode
	durable map[string]memNode
	pending []dirOp // what separates now from durable, in order
}

// dirOp binds name to node (nil: removes it) and, for a rename, removes from.
type dirOp struct {
	name, from string
	node       memNode
}

func newMemDir() *memDir {
	return &memDir{now: make(map[string]memNode), durable: make(map[string]memNode)}
}

func (d *memDir) do(op dirOp) {
	op.apply(d.now)
	d.pending = append(d.pending, op)
}

func (op dirOp) apply(names map[string]memNode) {
	if op.from != "" {
		delete(names, op.from)
	}
	if op.node == nil {
		delete(names, op.name)
	} else {
		names[op.name] = op.node
	}
}

func (d *memDir) bytes() int64 {
	var sum int64
	for _, n := range d.now {
		sum += n.bytes()
	}
	return sum
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func split(name string) []string {
	clean := strings.Trim(filepath.ToSlash(filepath.Clean("/"+name)), "/")
	if clean == "" {
		return nil
	}
	return strings.Split(clean, "/")
}

// dirLocked finds the directory made of parts.
func (m *Mem) dirLocked(parts []string) (*memDir, error) {
	d := m.mu.root
	for _, p := range parts {
		switch n := d.now[p].(type) {
		case *memDir:
			d = n
		case nil:
			return nil, fs.ErrNotExist
		default:
			return nil, syscall.ENOTDIR
		}
	}
	return d, nil
}

// parentLocked finds the directory that holds name, and the base name in it.
func (m *Mem) parentLocked(name string) (*memDir, string, error) {
	parts := split(name)
	if len(parts) == 0 {
		return nil, "", fs.ErrInvalid
	}
	d, err := m.dirLocked(parts[:len(parts)-1])
	return d, parts[len(parts)-1], err
}

// OpenFile implements FS. O_APPEND is refused: no owner of ours needs it.
func (m *Mem) OpenFile(name string, flag int, _ os.FileMode) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if flag&os.O_APPEND != 0 {
		return nil, pathError("open", name, errors.ErrUnsupported)
	}
	d, base, err := m.parentLocked(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	var file *memFile
	switch n := d.now[base].(type) {
	case *memDir:
		return nil, pathError("open", name, syscall.EISDIR)
	case *memFile:
		if flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL {
			return nil, pathError("open", name, fs.ErrExist)
		}
		file = n
	default:
		if flag&os.O_CREATE == 0 {
			return nil, pathError("open", name, fs.ErrNotExist)
		}
		file = &memFile{}
		d.do(dirOp{name: base, node: file})
	}
	access := flag & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)
	if flag&os.O_TRUNC != 0 && access != os.O_RDONLY {
		file.truncate(0)
	}
	return &memHandle{fs: m, name: name, file: file, read: access != os.O_WRONLY, write: access != os.O_RDONLY}, nil
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(dir string, _ os.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.mu.root
	for _, p := range split(dir) {
		switch n := d.now[p].(type) {
		case *memDir:
			d = n
		case nil:
			child := newMemDir()
			d.do(dirOp{name: p, node: child})
			d = child
		default:
			return pathError("mkdir", dir, syscall.ENOTDIR)
		}
	}
	return nil
}

// Remove implements FS. A removed file stays usable through open handles.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parentLocked(name)
	if err != nil {
		return pathError("remove", name, err)
	}
	switch n := d.now[base].(type) {
	case nil:
		return pathError("remove", name, fs.ErrNotExist)
	case *memDir:
		if len(n.now) > 0 {
			return pathError("remove", name, syscall.ENOTEMPTY)
		}
	}
	d.do(dirOp{name: base})
	return nil
}

// Rename implements FS. Between two directories it is two operations, each
// durable with its own directory, as the worst file systems have it.
func (m *Mem) Rename(oldname, newname string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	od, ob, err := m.parentLocked(oldname)
	if err != nil {
		return pathError("rename", oldname, err)
	}
	nd, nb, err := m.parentLocked(newname)
	if err != nil {
		return pathError("rename", newname, err)
	}
	node, ok := od.now[ob]
	if !ok {
		return pathError("rename", oldname, fs.ErrNotExist)
	}
	if _, isDir := nd.now[nb].(*memDir); isDir && nd.now[nb] != node {
		return pathError("rename", newname, fs.ErrExist)
	}
	switch {
	case od == nd && ob == nb:
	case od == nd:
		od.do(dirOp{name: nb, from: ob, node: node})
	default:
		nd.do(dirOp{name: nb, node: node})
		od.do(dirOp{name: ob})
	}
	return nil
}

// ReadDir implements FS.
func (m *Mem) ReadDir(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.dirLocked(split(dir))
	if err != nil {
		return nil, pathError("readdir", dir, err)
	}
	names := make([]string, 0, len(d.now))
	for n := range d.now {
		names = append(names, n)
	}
	sort.Strings(names)
	return names, nil
}

// Stat implements FS.
func (m *Mem) Stat(name string) (Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	parts := split(name)
	if len(parts) == 0 {
		return Info{IsDir: true}, nil
	}
	d, base, err := m.parentLocked(name)
	if err != nil {
		return Info{}, pathError("stat", name, err)
	}
	switch n := d.now[base].(type) {
	case *memDir:
		return Info{IsDir: true}, nil
	case *memFile:
		return Info{Size: n.size}, nil
	}
	return Info{}, pathError("stat", name, fs.ErrNotExist)
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.dirLocked(split(dir))
	if err != nil {
		return pathError("syncdir", dir, err)
	}
	for _, op := range d.pending {
		op.apply(d.durable)
	}
	d.pending = nil
	return nil
}

// Lock implements FS; a crash releases every lock.
func (m *Mem) Lock(name string) (io.Closer, error) {
	f, err := m.OpenFile(name, os.O_RDWR|os.O_CREATE, FilePerm)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := strings.Join(split(name), "/")
	if m.mu.locks[key] {
		return nil, pathError("lock", name, ErrLocked)
	}
	m.mu.locks[key] = true
	return &memLock{fs: m, key: key}, nil
}

type memLock struct {
	fs  *Mem
	key string
}

func (l *memLock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	delete(l.fs.mu.locks, l.key)
	return nil
}

// Free implements FS.
func (m *Mem) Free(dir string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.dirLocked(split(dir)); err != nil {
		return 0, pathError("statfs", dir, err)
	}
	if m.mu.capacity == 0 {
		return 1 << 50, nil
	}
	return uint64(max(0, m.mu.capacity-m.mu.root.bytes())), nil
}

// roomLocked refuses growing by n bytes past the capacity.
func (m *Mem) roomLocked(n int64) error {
	if n > 0 && m.mu.capacity > 0 && m.mu.root.bytes()+n > m.mu.capacity {
		return syscall.ENOSPC
	}
	return nil
}

// names returns the keys of a directory map in order, so that a crash draws
// from its random source in an order that doesn't depend on map iteration.
func names(m map[string]memNode) []string {
	out := make([]string, 0, len(m))
	for n := range m {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
