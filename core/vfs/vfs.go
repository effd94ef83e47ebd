package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Permissions of everything Muster creates in a data directory.
const (
	DirPerm  os.FileMode = 0o700
	FilePerm os.FileMode = 0o600
)

// ErrLocked says that another process (or another owner in this one) holds the lock.
var ErrLocked = errors.New("file is locked by another process")

// FS is a file system. Names are paths in the form of package filepath.
type FS interface {
	// OpenFile opens a file as os.OpenFile does.
	OpenFile(name string, flag int, perm os.FileMode) (File, error)
	// MkdirAll creates dir and its missing parents; see EnsureDir for doing so durably.
	MkdirAll(dir string, perm os.FileMode) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// Rename replaces newname by oldname, atomically inside one directory.
	Rename(oldname, newname string) error
	// ReadDir returns the base names in dir, sorted.
	ReadDir(dir string) ([]string, error)
	Stat(name string) (Info, error)
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
	// Lock creates name if needed and locks it exclusively until the result is
	// closed or the process ends. It never waits: ErrLocked.
	Lock(name string) (io.Closer, error)
	// Free returns the bytes still available to us on the file system holding dir.
	Free(dir string) (uint64, error)
}

// File is an open file.
type File interface {
	io.Reader
	io.Writer
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes the content and the size durable (fdatasync where there is one).
	Sync() error
	Truncate(size int64) error
	// Preallocate extends the file to size with space that is allocated and
	// reads as zeros. It never shrinks a file or touches what it holds.
	Preallocate(size int64) error
	Size() (int64, error)
}

// Info is what Stat knows about a name.
type Info struct {
	Size  int64
	IsDir bool
}

// EnsureDir creates dir and its missing parents and makes each new name durable.
func EnsureDir(fsys FS, dir string) error {
	dir = filepath.Clean(dir)
	switch info, err := fsys.Stat(dir); {
	case err == nil && info.IsDir:
		// Whoever made it may have died before its name was durable.
		if err := fsys.SyncDir(filepath.Dir(dir)); err != nil && !errors.Is(err, os.ErrPermission) {
			return err
		}
		return nil
	case err == nil:
		return fmt.Errorf("%s is a file where a directory is needed: move it away", dir)
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := EnsureDir(fsys, parent); err != nil {
			return err
		}
	}
	if err := fsys.MkdirAll(dir, DirPerm); err != nil {
		return err
	}
	return fsys.SyncDir(parent)
}
