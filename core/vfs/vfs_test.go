package vfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/musterhq/muster/core/vfs"
)

// eachFS runs a test on every implementation, rooted in an empty directory.
func eachFS(t *testing.T, body func(t *testing.T, fsys vfs.FS, dir string)) {
	t.Run("os", func(t *testing.T) { body(t, vfs.OS(), t.TempDir()) })
	for _, wrap := range []bool{false, true} {
		name, fsys := "mem", vfs.FS(vfs.NewMem())
		if wrap {
			name, fsys = "fault", vfs.NewFault(fsys, nil)
		}
		t.Run(name, func(t *testing.T) {
			if err := vfs.EnsureDir(fsys, "/a/b"); err != nil {
				t.Fatal(err)
			}
			body(t, fsys, "/a/b")
		})
	}
}

func create(t *testing.T, fsys vfs.FS, name, content string) vfs.File {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, vfs.FilePerm)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func read(t *testing.T, fsys vfs.FS, name string) string {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "<none>"
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestFilesBehaveAlikeOnEveryImplementation(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "f")
		f := create(t, fsys, name, "hello")
		if _, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, vfs.FilePerm); !errors.Is(err, fs.ErrExist) {
			t.Errorf("exclusive create of an existing file: got %v, want ErrExist", err)
		}
		must(t, f.Preallocate(10000), f.Preallocate(10))
		if size, err := f.Size(); err != nil || size != 10000 {
			t.Errorf("size after Preallocate: got %d, %v, want 10000", size, err)
		}
		b := make([]byte, 10000)
		if n, err := f.ReadAt(b, 0); n != 10000 || err != nil {
			t.Fatalf("ReadAt: %d, %v", n, err)
		}
		if want := append([]byte("hello"), make([]byte, 9995)...); !bytes.Equal(b, want) {
			t.Error("preallocated space doesn't read as the old content and zeros")
		}
		if n, err := f.ReadAt(b, 9990); n != 10 || !errors.Is(err, io.EOF) {
			t.Errorf("ReadAt across the end: got %d, %v, want 10, EOF", n, err)
		}
		_, err := f.WriteAt([]byte("xy"), 4095)
		must(t, err, f.Truncate(4096), f.Truncate(8192), f.Sync())
		if n, err := f.ReadAt(b[:8192], 0); n != 8192 || err != nil {
			t.Fatalf("ReadAt: %d, %v", n, err)
		}
		if b[4095] != 'x' || b[4096] != 0 {
			t.Errorf("after shrinking and growing: got %q, want x and a zero", b[4095:4097])
		}
		must(t, f.Close())
		if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("second Close: got %v, want ErrClosed", err)
		}

		must(t, fsys.Rename(name, filepath.Join(dir, "g")), fsys.SyncDir(dir))
		if _, err := fsys.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat of the old name: got %v, want ErrNotExist", err)
		}
		if info, err := fsys.Stat(filepath.Join(dir, "g")); err != nil || info != (vfs.Info{Size: 8192}) {
			t.Errorf("Stat: got %+v, %v", info, err)
		}
		must(t, vfs.EnsureDir(fsys, filepath.Join(dir, "x/y")), vfs.EnsureDir(fsys, filepath.Join(dir, "x/y")))
		if err := vfs.EnsureDir(fsys, filepath.Join(dir, "g")); err == nil {
			t.Error("EnsureDir over a file succeeded")
		}
		if names, err := fsys.ReadDir(dir); err != nil || !slices.Equal(names, []string{"g", "x"}) {
			t.Errorf("ReadDir: got %q, %v", names, err)
		}
		if err := fsys.Remove(filepath.Join(dir, "x")); err == nil {
			t.Error("a directory that isn't empty was removed")
		}
		must(t, fsys.Remove(filepath.Join(dir, "g")), fsys.Remove(filepath.Join(dir, "x/y")))
		if free, err := fsys.Free(dir); err != nil || free == 0 {
			t.Errorf("Free: got %d, %v", free, err)
		}
	})
}

func TestSequentialWritesAndReadsFollowAPosition(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "f")
		f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, vfs.FilePerm)
		must(t, err)
		for range 1000 {
			_, err := f.Write([]byte("0123456789"))
			must(t, err)
		}
		must(t, f.Close())
		if got := read(t, fsys, name); got != string(bytes.Repeat([]byte("0123456789"), 1000)) {
			t.Errorf("read %d bytes that differ from what was written", len(got))
		}
	})
}

func TestLockExcludesASecondOwnerUntilClosed(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "LOCK")
		first, err := fsys.Lock(name)
		must(t, err)
		if _, err := fsys.Lock(name); !errors.Is(err, vfs.ErrLocked) {
			t.Errorf("second Lock: got %v, want ErrLocked", err)
		}
		must(t, first.Close())
		second, err := fsys.Lock(name)
		must(t, err)
		must(t, second.Close())
	})
}

func TestFilesAreCreatedForTheOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	must(t, vfs.EnsureDir(vfs.OS(), filepath.Join(dir, "d")))
	must(t, create(t, vfs.OS(), filepath.Join(dir, "f"), "").Close())
	for name, want := range map[string]os.FileMode{"d": vfs.DirPerm, "f": vfs.FilePerm} {
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s: got mode %o, want %o", name, got, want)
		}
	}
}
