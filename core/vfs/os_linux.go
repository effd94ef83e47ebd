package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func syncData(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return wrap("fdatasync", f.Name(), err)
		}
	}
}

// allocate reserves [from, to); done is false where the file system can't.
func allocate(f *os.File, from, to int64) (done bool, err error) {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, from, to-from)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return false, nil
		default:
			return err == nil, wrap("fallocate", f.Name(), err)
		}
	}
}

func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, wrap("statfs", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}
