package simtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/vfs"
	"github.com/musterhq/muster/core/watch"
)

// snapshotOfARun is what `muster ctl snapshot save` gets from a member that has
// worked for a while.
func snapshotOfARun(t *testing.T) ([]byte, *machine.View) {
	t.Helper()
	var file bytes.Buffer
	var view *machine.View
	w := prepare(t, Options{
		Seed: 2, Members: 1, Clients: 3, Duration: 2 * time.Second, think: 30 * time.Millisecond, shape: small(),
		script: func(w *World) {
			campaign(w)
			for i := range 20 {
				w.after(time.Duration(100+i)*time.Millisecond, func() {
					m := w.members[0]
					m.propose(m.drawID(), machine.Put, &pb.PutRequest{Key: fmt.Appendf(nil, "s%d", i), Value: bytes.Repeat([]byte("x"), 300)})
				})
			}
			w.after(1900*time.Millisecond, func() {
				view = w.members[0].n.View()
				if err := node.WriteSnapshot(&file, view); err != nil {
					w.fail("%v", err)
				}
			})
		},
	})
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes(), view
}

func put(t *testing.T, fs vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, werr := f.Write(b)
	if err := errors.Join(werr, f.Sync(), f.Close(), fs.SyncDir(".")); err != nil {
		t.Fatal(err)
	}
}

// TestEveryCrashPointOfARestore cuts the power at each I/O of `muster ctl
// snapshot restore`. A restore that was reported done is whole; one that was not
// has left nothing that passes for a restored member.
func TestEveryCrashPointOfARestore(t *testing.T) {
	if *seedFlag != 0 || *soakFlag != 0 {
		return
	}
	file, view := snapshotOfARun(t)
	w := newWorld(t, Options{Seed: 3})
	cfg := node.Config{
		Name: "m0", Dir: "data", SegmentBytes: 4 << 10,
		InitialCluster: map[string][]string{"m0": {"http://m0:2380"}},
	}
	restore := func(fs vfs.FS) error {
		c := cfg
		c.FS = fs
		_, err := node.RestoreSnapshot(t.Context(), c, "file", node.RestoreOptions{})
		return err
	}
	open := func(fs vfs.FS) (uint64, int64, error) {
		c := cfg
		c.FS = fs
		m, err := node.OpenMember(context.Background(), c, func(m *node.Member) node.Hub {
			return watch.NewHub(m.View().KV.Rev(), func() *mvcc.View { return m.View().KV }, watch.Config{})
		}, func(first uint64) func() uint64 { return func() uint64 { first++; return first } })
		if err != nil {
			return 0, 0, err
		}
		defer m.Release()
		return m.ClusterID, m.View().KV.Rev(), nil
	}
	whole := vfs.NewMem()
	put(t, whole, "file", file)
	if err := restore(whole); err != nil {
		t.Fatal(err)
	}
	restored, rev, err := open(whole)
	if err != nil || rev != view.KV.Rev() {
		t.Fatalf("restored at revision %d instead of %d: %v", rev, view.KV.Rev(), err)
	}
	refused, again := 0, 0
	for cut := 1; ; cut++ {
		for mode := vfs.CrashDrop; mode <= vfs.CrashTorn; mode++ {
			disk, n := vfs.NewMem(), 0
			put(t, disk, "file", file)
			err := restore(vfs.NewFault(disk, func(op vfs.Op) error {
				if op.Kind.Changes() {
					n++
				}
				if n >= cut {
					return errPowerCut
				}
				return nil
			}))
			if n >= cut != (err != nil) {
				t.Fatalf("cut at I/O %d of %d: %v", cut, n, err)
			}
			disk = disk.Crash(w.rng, mode)
			cluster, at, openErr := open(disk)
			switch {
			case err == nil && (openErr != nil || cluster != restored || at != rev):
				t.Fatalf("restored, then a power cut (%v): cluster %x at revision %d, %v", mode, cluster, at, openErr)
			case err == nil:
				t.Logf("%d I/Os; after a cut %d were refused, %d begun again", n, refused, again)
				return
			case openErr != nil:
				if !errors.Is(openErr, node.ErrHalfRestored) {
					t.Fatalf("cut at I/O %d (%v): %v", cut, mode, openErr)
				}
				refused++
			case cluster == restored && at != rev:
				t.Fatalf("cut at I/O %d (%v): half of the data was taken for all: revision %d instead of %d", cut, mode, at, rev)
			case cluster != restored && at != 1:
				t.Fatalf("cut at I/O %d (%v): another cluster (%x) at revision %d", cut, mode, cluster, at)
			}
			// The operator restores into what is left, as the refusal says, unless a member has been made of it.
			disk = disk.Crash(w.rng, vfs.CrashKeep)
			if err := restore(disk); openErr == nil != errors.Is(err, node.ErrDirInUse) || openErr != nil && err != nil {
				t.Fatalf("cut at I/O %d (%v): restoring over what is left: %v", cut, mode, err)
			}
			if openErr == nil {
				continue
			}
			if cluster, at, err := open(disk); err != nil || cluster != restored || at != rev {
				t.Fatalf("cut at I/O %d (%v), then restored: cluster %x at revision %d, %v", cut, mode, cluster, at, err)
			}
			again++
		}
	}
}
