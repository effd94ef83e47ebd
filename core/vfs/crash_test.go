package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/musterhq/muster/core/vfs"
)

var allModes = []vfs.CrashMode{vfs.CrashDrop, vfs.CrashRandom, vfs.CrashTorn, vfs.CrashKeep}

func seeds(t *testing.T, n uint64, body func(t *testing.T, rng *rand.Rand, mode vfs.CrashMode)) {
	t.Helper()
	for _, mode := range allModes {
		for seed := range n {
			t.Run(fmt.Sprintf("%v/seed=%d", mode, seed), func(t *testing.T) {
				body(t, rand.New(rand.NewPCG(seed, 1)), mode)
			})
		}
	}
}

func TestCrashNeverLosesWhatWasSynced(t *testing.T) {
	seeds(t, 20, func(t *testing.T, rng *rand.Rand, mode vfs.CrashMode) {
		m := vfs.NewMem()
		must(t, vfs.EnsureDir(m, "/d"))
		f := create(t, m, "/d/f", strings.Repeat("s", 10000))
		must(t, f.Sync(), m.SyncDir("/d"))
		_, err := f.WriteAt(bytes.Repeat([]byte("u"), 3000), 9000)
		must(t, err)
		got := read(t, m.Crash(rng, mode), "/d/f")
		if len(got) < 10000 || got[:9000] != strings.Repeat("s", 9000) {
			t.Fatalf("synced content is gone: %d bytes left", len(got))
		}
		if rest := strings.Trim(got[9000:], "su\x00"); rest != "" {
			t.Errorf("the crash invented %q", rest)
		}
		switch tail := got[9000:]; mode {
		case vfs.CrashDrop:
			if tail != strings.Repeat("s", 1000) {
				t.Errorf("unsynced bytes survived: %q", tail)
			}
		case vfs.CrashKeep:
			if tail != strings.Repeat("u", 3000) {
				t.Errorf("bytes are gone though only the process died: %q", tail)
			}
		case vfs.CrashTorn:
			if strings.Contains(tail, "su") {
				t.Errorf("a torn write kept a later part without an earlier one: %q", tail)
			}
		}
		if again := read(t, m.Crash(rng, vfs.CrashKeep), "/d/f"); again != strings.Repeat("s", 9000)+strings.Repeat("u", 3000) {
			t.Error("crashing changed the file system that was crashed")
		}
	})
}

func TestRandomCrashKeepsSomeSectorsAndLosesOthers(t *testing.T) {
	m := vfs.NewMem()
	f := create(t, m, "/f", strings.Repeat("s", 64*vfs.Sector))
	must(t, f.Sync(), m.SyncDir("/"))
	_, err := f.WriteAt(bytes.Repeat([]byte("u"), 64*vfs.Sector), 0)
	must(t, err)
	got := read(t, m.Crash(rand.New(rand.NewPCG(1, 1)), vfs.CrashRandom), "/f")
	kept := 0
	for at := 0; at < len(got); at += vfs.Sector {
		switch got[at : at+vfs.Sector] {
		case strings.Repeat("u", vfs.Sector):
			kept++
		case strings.Repeat("s", vfs.Sector):
		default:
			t.Fatalf("sector at %d is mixed", at)
		}
	}
	if kept == 0 || kept == 64 {
		t.Errorf("got %d of 64 sectors kept, want some", kept)
	}
}

func TestNamesAreDurableOnlyAfterSyncDir(t *testing.T) {
	seeds(t, 20, func(t *testing.T, rng *rand.Rand, mode vfs.CrashMode) {
		m := vfs.NewMem()
		for _, name := range []string{"old", "gone"} {
			f := create(t, m, name, name)
			must(t, f.Sync(), f.Close())
		}
		must(t, m.SyncDir("/"))
		f := create(t, m, "new", "new")
		must(t, f.Sync(), m.Rename("new", "old"), m.Remove("gone"))

		after := m.Crash(rng, mode)
		if got := read(t, after, "old"); got != "old" && got != "new" {
			t.Errorf("a rename over a name left %q", got)
		}
		got := fmt.Sprint(read(t, after, "new"), read(t, after, "old"), read(t, after, "gone"))
		if want := "<none>oldgone"; mode == vfs.CrashDrop && got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		must(t, m.SyncDir("/"))
		after = m.Crash(rng, mode)
		got = fmt.Sprint(read(t, after, "new"), read(t, after, "old"), read(t, after, "gone"))
		if want := "<none>new<none>"; got != want {
			t.Errorf("after SyncDir: got %s, want %s", got, want)
		}
	})
}

func TestUnsyncedDirectoryTakesItsFilesWithIt(t *testing.T) {
	m := vfs.NewMem()
	must(t, m.MkdirAll("/d", vfs.DirPerm))
	must(t, create(t, m, "/d/f", "x").Sync(), m.SyncDir("/d"))
	after := m.Crash(rand.New(rand.NewPCG(0, 0)), vfs.CrashDrop)
	if got := read(t, after, "/d/f"); got != "<none>" {
		t.Errorf("got %q, want nothing: the directory itself was never synced", got)
	}
}

// Whoever made a directory may have been killed before its name was durable.
func TestADirectoryThatIsFoundIsMadeDurable(t *testing.T) {
	m := vfs.NewMem()
	must(t, m.MkdirAll("/d", vfs.DirPerm))
	m.Kill()
	must(t, vfs.EnsureDir(m, "/d"), create(t, m, "/d/f", "x").Sync(), m.SyncDir("/d"))
	after := m.Crash(rand.New(rand.NewPCG(0, 0)), vfs.CrashDrop)
	if got := read(t, after, "/d/f"); got != "x" {
		t.Errorf("got %q, want what was synced", got)
	}
}

func TestEqualSeedsGiveEqualCrashes(t *testing.T) {
	m := vfs.NewMem()
	for i := range 20 {
		create(t, m, fmt.Sprint("f", i), strings.Repeat("x", 5000))
	}
	dump := func(seed uint64) (out string) {
		after := m.Crash(rand.New(rand.NewPCG(seed, 0)), vfs.CrashRandom)
		names, err := after.ReadDir("/")
		must(t, err)
		for _, n := range names {
			out += n + read(t, after, n)
		}
		return out
	}
	if first, again := dump(1), dump(1); first != again {
		t.Error("one seed gave two results")
	}
	if dump(1) == dump(2) {
		t.Error("two seeds gave one result")
	}
}

func TestUnsyncedTruncateMayComeBack(t *testing.T) {
	m := vfs.NewMem()
	f := create(t, m, "f", strings.Repeat("a", 9000))
	must(t, f.Sync(), m.SyncDir("/"), f.Truncate(100))
	if got := read(t, m.Crash(nil, vfs.CrashDrop), "f"); got != strings.Repeat("a", 9000) {
		t.Errorf("got %d bytes, want all 9000 back", len(got))
	}
	must(t, f.Sync(), f.Truncate(9000), f.Sync())
	if got := read(t, m.Crash(nil, vfs.CrashDrop), "f"); got != strings.Repeat("a", 100)+strings.Repeat("\x00", 8900) {
		t.Error("shrinking and growing left old bytes behind")
	}
}

func TestFullMemoryDiskRefusesToGrow(t *testing.T) {
	m := vfs.NewMem()
	m.SetCapacity(1000)
	f := create(t, m, "f", strings.Repeat("a", 900))
	if _, err := f.WriteAt(make([]byte, 200), 900); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
	if err := f.Preallocate(2000); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
	if free, err := m.Free("/"); err != nil || free != 100 {
		t.Errorf("Free: got %d, %v, want 100", free, err)
	}
	_, err := f.WriteAt([]byte("b"), 0)
	must(t, err)
}

func TestFaultInjectsIntoSingleOperations(t *testing.T) {
	var inject func(vfs.Op) error
	fault := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if inject == nil {
			return nil
		}
		return inject(op)
	})
	f, err := fault.OpenFile("f", os.O_RDWR|os.O_CREATE, vfs.FilePerm)
	must(t, err)
	_, err = f.Write([]byte("0123"))
	must(t, err)

	inject = func(op vfs.Op) error {
		if op.Kind != vfs.OpWrite || op.Off != 4 || op.Len != 4 || op.Name != "f" {
			t.Errorf("got %+v, want a write of 4 at 4", op)
		}
		return &vfs.ShortWrite{N: 2, Err: syscall.EIO}
	}
	if n, err := f.Write([]byte("4567")); n != 2 || !errors.Is(err, syscall.EIO) {
		t.Errorf("short write: got %d, %v, want 2, EIO", n, err)
	}
	inject = func(vfs.Op) error { return &vfs.BitRot{Off: 1, Mask: 1} }
	b := make([]byte, 6)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "002345" {
		t.Errorf("read with bit rot: got %q, %v, want 002345", b, err)
	}
	inject = func(vfs.Op) error { return syscall.EIO }
	for kind, err := range map[string]error{
		"sync": f.Sync(), "truncate": f.Truncate(1), "preallocate": f.Preallocate(9), "rename": fault.Rename("f", "g"),
		"remove": fault.Remove("f"), "syncdir": fault.SyncDir("/"), "mkdir": fault.MkdirAll("d", 0), "close": f.Close(),
	} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: got %v, want EIO", kind, err)
		}
	}
	if got := fault.Count(vfs.OpWrite); got != 2 {
		t.Errorf("writes counted: got %d, want 2", got)
	}
}
