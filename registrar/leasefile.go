package registrar

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// memory is what the lease file remembers across a crash.
type memory struct {
	// Lease is the lease in hexadecimal, as etcdctl prints it; empty after a clean end.
	Lease string `json:"lease,omitempty"`
	// Epoch is the incarnation's that wrote it, Owner the registrar's name.
	Epoch uint64 `json:"epoch"`
	Owner string `json:"owner"`
}

func (m memory) id() int64 {
	id, err := strconv.ParseInt(m.Lease, 16, 64)
	if err != nil {
		return 0
	}
	return id
}

// ErrLeaseFile: the lease file can't be used.
var ErrLeaseFile = errors.New("lease file")

// leaseFile is the file and its lock. The zero leaseFile (no path) remembers nothing.
type leaseFile struct {
	path string
	lock *os.File
}

// openLeaseFile locks the file against a second registrar and reads it. A file that is absent, or of another owner (a
// copied disk), gives a zero memory; one that can't be read is an error, because adopting nothing would leave its lease
// to expire under somebody else's keys.
func openLeaseFile(path, owner string) (*leaseFile, memory, error) {
	if path == "" {
		return &leaseFile{}, memory{}, nil
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, memory{}, fmt.Errorf("%w: %w: create its folder or change lease.file", ErrLeaseFile, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, memory{}, fmt.Errorf("%w %s is in use by another registrar (%w): give each its own", ErrLeaseFile, path, err)
	}
	f := &leaseFile{path: path, lock: lock}
	var m memory
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, memory{}, nil
	case err == nil:
		if err = json.Unmarshal(data, &m); err == nil && m.Lease != "" && m.id() == 0 {
			err = fmt.Errorf("%q is no lease's id", m.Lease)
		}
	}
	if err != nil {
		f.close()
		return nil, memory{}, fmt.Errorf("%w %s can't be read (%w): repair or remove it", ErrLeaseFile, path, err)
	}
	if m.Owner != owner {
		return f, memory{}, nil
	}
	return f, m, nil
}

// save replaces the file durably: new content synced, renamed over the old, folder synced.
func (f *leaseFile) save(m memory) error {
	if f.path == "" {
		return nil
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	tmp := f.path + ".tmp"
	if err := writeSynced(tmp, append(data, '\n')); err != nil {
		return fmt.Errorf("%w: %w", ErrLeaseFile, err)
	}
	if err := os.Rename(tmp, f.path); err != nil {
		return fmt.Errorf("%w: %w", ErrLeaseFile, err)
	}
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLeaseFile, err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func writeSynced(path string, data []byte) error {
	w, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	if err == nil {
		err = w.Sync()
	}
	return errors.Join(err, w.Close())
}

// close releases the lock.
func (f *leaseFile) close() {
	if f.lock != nil {
		_ = f.lock.Close()
		f.lock = nil
	}
}
