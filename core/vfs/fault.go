package vfs

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
)

// Kind names an operation of FS or File.
type Kind uint8

// The operations a Fault sees.
const (
	OpOpen Kind = iota
	OpRead
	OpWrite
	OpSync
	OpTruncate
	OpPreallocate
	OpSize
	OpClose
	OpMkdir
	OpRemove
	OpRename
	OpReadDir
	OpStat
	OpSyncDir
	OpLock
	OpFree
	numKinds
)

func (k Kind) String() string {
	names := [numKinds]string{
		"open", "read", "write", "sync", "truncate", "preallocate", "size", "close",
		"mkdir", "remove", "rename", "readdir", "stat", "syncdir", "lock", "free",
	}
	if k < numKinds {
		return names[k]
	}
	return fmt.Sprintf("op(%d)", uint8(k))
}

// Changes says whether the operation may change what a crash leaves.
func (k Kind) Changes() bool {
	switch k {
	case OpWrite, OpSync, OpTruncate, OpPreallocate, OpMkdir, OpRemove, OpRename, OpSyncDir, OpLock, OpOpen:
		return true
	}
	return false
}

// Op is one operation about to happen. For a rename Name is the old name; Off
// and Len are those of reads, writes, Truncate and Preallocate (Len = size).
type Op struct {
	Seq  int64 // 1 for the first operation of this Fault
	Kind Kind
	Name string
	Off  int64
	Len  int
}

// ShortWrite, returned by an injector, lets the first N bytes of a write
// through and fails the write with Err.
type ShortWrite struct {
	N   int
	Err error
}

func (e *ShortWrite) Error() string { return fmt.Sprintf("short write of %d bytes: %v", e.N, e.Err) }
func (e *ShortWrite) Unwrap() error { return e.Err }

// BitRot, returned by an injector, lets a read succeed with the byte at file
// offset Off, if it was read, xored with Mask.
type BitRot struct {
	Off  int64
	Mask byte
}

func (e *BitRot) Error() string { return fmt.Sprintf("bit rot %#02x at %d", e.Mask, e.Off) }

// Misdirected, returned by an injector, lets a write succeed and puts its bytes
// at file offset Off instead.
type Misdirected struct{ Off int64 }

func (e *Misdirected) Error() string { return fmt.Sprintf("misdirected write to %d", e.Off) }

// Fault wraps an FS, asks an injector before each operation and counts them.
//
// The injector returns nil to let the operation through, *ShortWrite,
// *BitRot or *Misdirected, or any other error, which the operation returns without having had
// an effect. It stalls an operation by blocking. It may be called concurrently.
type Fault struct {
	inner  FS
	inject func(Op) error
	seq    atomic.Int64
	counts [numKinds]atomic.Int64
}

// NewFault wraps inner; inject may be nil for counting only.
func NewFault(inner FS, inject func(Op) error) *Fault {
	return &Fault{inner: inner, inject: inject}
}

// Count returns how many operations of a kind there were, failed ones included.
func (f *Fault) Count(k Kind) int64 { return f.counts[k].Load() }

// Ops returns how many operations there were.
func (f *Fault) Ops() int64 { return f.seq.Load() }

func (f *Fault) before(op Op) error {
	op.Seq = f.seq.Add(1)
	f.counts[op.Kind].Add(1)
	if f.inject == nil {
		return nil
	}
	return f.inject(op)
}

// OpenFile implements FS.
func (f *Fault) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	if err := f.before(Op{Kind: OpOpen, Name: name}); err != nil {
		return nil, err
	}
	file, err := f.inner.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{fs: f, name: name, inner: file}, nil
}

// MkdirAll implements FS.
func (f *Fault) MkdirAll(dir string, perm os.FileMode) error {
	if err := f.before(Op{Kind: OpMkdir, Name: dir}); err != nil {
		return err
	}
	return f.inner.MkdirAll(dir, perm)
}

// Remove implements FS.
func (f *Fault) Remove(name string) error {
	if err := f.before(Op{Kind: OpRemove, Name: name}); err != nil {
		return err
	}
	return f.inner.Remove(name)
}

// Rename implements FS.
func (f *Fault) Rename(oldname, newname string) error {
	if err := f.before(Op{Kind: OpRename, Name: oldname}); err != nil {
		return err
	}
	return f.inner.Rename(oldname, newname)
}

// ReadDir implements FS.
func (f *Fault) ReadDir(dir string) ([]string, error) {
	if err := f.before(Op{Kind: OpReadDir, Name: dir}); err != nil {
		return nil, err
	}
	return f.inner.ReadDir(dir)
}

// Stat implements FS.
func (f *Fault) Stat(name string) (Info, error) {
	if err := f.before(Op{Kind: OpStat, Name: name}); err != nil {
		return Info{}, err
	}
	return f.inner.Stat(name)
}

// SyncDir implements FS.
func (f *Fault) SyncDir(dir string) error {
	if err := f.before(Op{Kind: OpSyncDir, Name: dir}); err != nil {
		return err
	}
	return f.inner.SyncDir(dir)
}

// Lock implements FS.
func (f *Fault) Lock(name string) (io.Closer, error) {
	if err := f.before(Op{Kind: OpLock, Name: name}); err != nil {
		return nil, err
	}
	return f.inner.Lock(name)
}

// Free implements FS.
func (f *Fault) Free(dir string) (uint64, error) {
	if err := f.before(Op{Kind: OpFree, Name: dir}); err != nil {
		return 0, err
	}
	return f.inner.Free(dir)
}
