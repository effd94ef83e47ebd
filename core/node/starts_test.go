package node

import (
	"errors"
	"syscall"
	"testing"

	"github.com/musterhq/muster/core/vfs"
)

// Counting from 1 again would give command ids out a second time.
func TestAStartCounterThatCannotBeReadIsNotTakenForNone(t *testing.T) {
	mem := vfs.NewMem()
	for want := uint64(1); want <= 2; want++ {
		if first, err := countStart(mem, "/"); err != nil || first != want<<40 {
			t.Fatalf("start %d: got %d, %v", want, first>>40, err)
		}
	}
	failing := vfs.NewFault(mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpRead {
			return syscall.EIO
		}
		return nil
	})
	if first, err := countStart(failing, "/"); !errors.Is(err, syscall.EIO) {
		t.Fatalf("got %d, %v, want the read error", first>>40, err)
	}
	if first, err := countStart(mem, "/"); err != nil || first != 3<<40 {
		t.Fatalf("got %d, %v, want 3", first>>40, err)
	}
}
