package node

import (
	"errors"
	"slices"
	"testing"

	"github.com/musterhq/muster/core/vfs"
)

// What an operator's script starts next, with plain flags, must not found a new
// and empty cluster over the one that was to be restored.
func TestARestoreThatWasCutShortIsNotStartedAndCanBeBegunAgain(t *testing.T) {
	file := snapshotBytes(t)
	cfg := Config{
		Dir: "/data", Name: "new", InitialCluster: map[string][]string{"new": {"http://new:1"}}, SegmentBytes: 1 << 14,
	}
	restore := func(fs vfs.FS) error {
		c := cfg
		c.FS = fs
		_, err := RestoreSnapshot(t.Context(), c, "/snap.db", RestoreOptions{})
		return err
	}
	start := func(fs vfs.FS) (*Member, error) {
		c := cfg
		c.FS = fs
		return OpenMember(t.Context(), c, deaf, counting)
	}
	errCut := errors.New("cut short")
	begun := 0
	for cut := 1; ; cut++ {
		disk, n := vfs.NewMem(), 0
		writeDisk(t, disk, "/snap.db", file)
		err := restore(vfs.NewFault(disk, func(op vfs.Op) error {
			if op.Kind.Changes() {
				n++
			}
			if n >= cut {
				return errCut
			}
			return nil
		}))
		if err == nil {
			break
		}
		if !errors.Is(err, errCut) {
			t.Fatalf("cut at I/O %d: %v", cut, err)
		}
		names, err := disk.ReadDir(cfg.Dir)
		whole := err == nil && len(names) > 0 && !slices.Contains(names, markRestoring) // all but sure that it stays so
		if err == nil && len(names) > 0 && !whole {
			begun++
			if _, err := start(disk); !errors.Is(err, ErrHalfRestored) {
				t.Fatalf("cut at I/O %d, with %v in the directory: %v, want ErrHalfRestored", cut, names, err)
			}
		}
		if err := restore(disk); err != nil && !(whole && errors.Is(err, ErrDirInUse)) {
			t.Fatalf("cut at I/O %d: once more: %v", cut, err)
		}
		m, err := start(disk)
		if err != nil {
			t.Fatalf("cut at I/O %d, restored once more: %v", cut, err)
		}
		if keys := m.View().KV.Keys(); keys != 4 {
			t.Fatalf("cut at I/O %d, restored once more: %d keys instead of 4", cut, keys)
		}
		if err := m.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if begun < 5 {
		t.Errorf("only %d cuts came after the beginning", begun)
	}
}

func TestARestoreLeavesAloneWhatItDidNotMake(t *testing.T) {
	for _, found := range [][]string{{"letter"}, {markRestoring, "letter"}} {
		disk := vfs.NewMem()
		writeDisk(t, disk, "/snap.db", snapshotBytes(t))
		if err := vfs.EnsureDir(disk, "/data"); err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			writeDisk(t, disk, "/data/"+name, []byte("x"))
		}
		cfg := Config{FS: disk, Dir: "/data", Name: "new", InitialCluster: map[string][]string{"new": {"http://new:1"}}}
		if _, err := RestoreSnapshot(t.Context(), cfg, "/snap.db", RestoreOptions{}); !errors.Is(err, ErrDirInUse) {
			t.Errorf("with %v in the directory: %v, want ErrDirInUse", found, err)
		}
	}
}
