package checkpoint_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/musterhq/muster/core/checkpoint"
	"github.com/musterhq/muster/core/vfs"
)

// state is what a checkpoint at an index holds in these tests.
func state(index uint64) map[string][]pair {
	return map[string][]pair{"key": records(50+int(index), 100), "meta": {{[]byte("consistent_index"), checkpoint.Uint64(index)}}}
}

func openDir(t testing.TB, fsys vfs.FS) *checkpoint.Dir {
	t.Helper()
	d, err := checkpoint.OpenDir(checkpoint.Config{FS: fsys, Dir: "/data/checkpoints"})
	must(t, err)
	return d
}

func save(t testing.TB, d *checkpoint.Dir, index uint64) {
	t.Helper()
	_, err := d.Save(context.Background(), index, 1, buckets(state(index)), nil)
	must(t, err)
}

func indexes(d *checkpoint.Dir) (out []uint64) {
	for _, i := range d.List() {
		out = append(out, i.Index)
	}
	return out
}

// newest returns the index of the newest whole checkpoint, 0 if there is none,
// having compared what it holds.
func newest(t testing.TB, d *checkpoint.Dir) uint64 {
	t.Helper()
	info, err := d.Newest()
	if errors.Is(err, checkpoint.ErrNone) {
		return 0
	}
	must(t, err)
	r, err := d.Open(info.Index)
	must(t, err)
	got, err := readContent(r)
	must(t, err, r.Close())
	same(t, fmt.Sprintf("checkpoint %d", info.Index), got, state(info.Index))
	return info.Index
}

func TestDirKeepsTheLastTwo(t *testing.T) {
	mem := vfs.NewMem()
	d := openDir(t, mem)
	if _, err := d.Newest(); !errors.Is(err, checkpoint.ErrNone) || d.Oldest() != 0 {
		t.Fatalf("an empty directory: got %v, oldest %d", err, d.Oldest())
	}
	for _, i := range []uint64{10, 30, 20, 40} {
		save(t, d, i)
	}
	if got, want := indexes(d), []uint64{40, 30}; !slices.Equal(got, want) || d.Oldest() != 30 || newest(t, d) != 40 {
		t.Errorf("got %d, oldest %d, want %d", got, d.Oldest(), want)
	}
	save(t, d, 40) // there already: nothing to do
	again := openDir(t, mem.Crash(nil, vfs.CrashDrop))
	if got, want := indexes(again), []uint64{40, 30}; !slices.Equal(got, want) || newest(t, again) != 40 {
		t.Errorf("after a restart: got %d, want %d", got, want)
	}
	names, err := mem.ReadDir("/data/checkpoints")
	must(t, err)
	if want := []string{"000000000000001e-0000000000000001.db", "0000000000000028-0000000000000001.db"}; !slices.Equal(names, want) {
		t.Errorf("files: got %q, want %q", names, want)
	}
	if _, err := d.Open(10); !errors.Is(err, checkpoint.ErrNone) {
		t.Errorf("Open of a removed one: got %v, want ErrNone", err)
	}
}

func TestEachSyncOfACheckpointIsTimed(t *testing.T) {
	syncs, clock := 0, time.Unix(0, 0)
	d, err := checkpoint.OpenDir(checkpoint.Config{FS: vfs.NewMem(), Dir: "/c", Now: func() time.Time { clock = clock.Add(time.Second); return clock }, OnSync: func(d time.Duration) {
		if syncs++; d != time.Second {
			t.Errorf("sync %d took %v, want 1s", syncs, d)
		}
	}})
	must(t, err)
	info, err := d.Save(t.Context(), 1, 1, buckets(map[string][]pair{"key": records(30, 100_000)}), nil)
	must(t, err)
	if want := int((info.Size + 1<<20 - 1) >> 20); syncs != want {
		t.Errorf("%d syncs of a file of %d bytes, want %d", syncs, info.Size, want)
	}
}

func TestADamagedNewestIsReportedKeptAndPassedOver(t *testing.T) {
	mem := vfs.NewMem()
	d := openDir(t, mem)
	save(t, d, 1)
	save(t, d, 2)
	damage := func(index int) {
		f, err := mem.OpenFile(fmt.Sprintf("/data/checkpoints/%016x-%016x.db", index, 1), os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt([]byte{0xff, 0xff}, 5000)
		must(t, err, f.Sync(), f.Close())
	}
	damage(2)
	d = openDir(t, mem)
	if got := newest(t, d); got != 1 || d.Oldest() != 1 {
		t.Fatalf("got %d, oldest %d, want 1", got, d.Oldest())
	}
	if names, _ := mem.ReadDir("/data/checkpoints"); len(names) != 2 {
		t.Errorf("the damaged file is gone: %q", names)
	}
	save(t, d, 2) // made again by replaying the log: replaces the damaged one
	if got := newest(t, d); got != 2 {
		t.Errorf("got %d, want 2", got)
	}
	damage(1)
	damage(2)
	d = openDir(t, mem)
	for range 2 { // not ErrNone, not even when asked again: it would found a new cluster
		if _, err := d.Newest(); !errors.Is(err, checkpoint.ErrCorrupt) || !strings.Contains(err.Error(), "restore this member") {
			t.Errorf("all damaged: got %v, want ErrCorrupt with a remedy", err)
		}
	}
}

func TestACutFileIsNotAWholeCheckpoint(t *testing.T) {
	for _, size := range []int64{0, 100, 4096, 8192, 8192 + 32} {
		mem := vfs.NewMem()
		save(t, openDir(t, mem), 1)
		f, err := mem.OpenFile("/data/checkpoints/0000000000000001-0000000000000001.db", os.O_RDWR, 0)
		must(t, err)
		must(t, f.Truncate(size), f.Close())
		if _, err := openDir(t, mem).Newest(); !errors.Is(err, checkpoint.ErrCorrupt) {
			t.Errorf("cut to %d bytes: got %v, want ErrCorrupt", size, err)
		}
	}
}

func TestSaveNeedsRoomAndLeavesNothingWhenItFails(t *testing.T) {
	stop := errors.New("stop")
	cancelled, cancel := context.WithCancelCause(context.Background())
	cancel(stop)
	tests := map[string]struct {
		ctx    context.Context
		inject func(vfs.Op) error
		cap    int64
		pace   checkpoint.Pace
		want   error
	}{
		"too little room": {cap: 100000, want: checkpoint.ErrNoSpace},
		"room that vanishes": {inject: func(op vfs.Op) error {
			if op.Kind == vfs.OpWrite {
				return &vfs.ShortWrite{N: 10, Err: syscall.ENOSPC}
			}
			return nil
		}, want: checkpoint.ErrNoSpace},
		"a failing sync": {inject: func(op vfs.Op) error {
			if op.Kind == vfs.OpSync {
				return syscall.EIO
			}
			return nil
		}, want: syscall.EIO},
		"a failing rename": {inject: func(op vfs.Op) error {
			if op.Kind == vfs.OpRename {
				return syscall.EIO
			}
			return nil
		}, want: syscall.EIO},
		"a context that ended": {ctx: cancelled, want: stop},
		"a pace that gives up": {pace: func(context.Context, int) error { return stop }, want: stop},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			armed := false
			d := openDir(t, vfs.NewFault(mem, func(op vfs.Op) error {
				if armed && tt.inject != nil {
					return tt.inject(op)
				}
				return nil
			}))
			save(t, d, 1)
			mem.SetCapacity(tt.cap)
			armed = true
			ctx := tt.ctx
			if ctx == nil {
				ctx = context.Background()
			}
			content := map[string][]pair{"key": records(1000, 1000)}
			if _, err := d.Save(ctx, 2, 1, buckets(content), tt.pace); !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			armed = false
			if names, _ := mem.ReadDir("/data/checkpoints"); len(names) != 1 || newest(t, d) != 1 {
				t.Errorf("left behind: %q", names)
			}
			mem.SetCapacity(0)
			save(t, d, 2) // and the next attempt succeeds
			if got := newest(t, d); got != 2 {
				t.Errorf("second attempt: got %d, want 2", got)
			}
		})
	}
}

func TestSaveWritesAndSyncsInSmallPieces(t *testing.T) {
	mem := vfs.NewMem()
	unsynced, most, pieces := 0, 0, 0
	d := openDir(t, vfs.NewFault(mem, func(op vfs.Op) error {
		switch op.Kind {
		case vfs.OpWrite:
			unsynced += op.Len
			most = max(most, unsynced)
		case vfs.OpSync:
			unsynced = 0
		}
		return nil
	}))
	_, err := d.Save(context.Background(), 1, 1, buckets(map[string][]pair{"key": records(5000, 1000)}), func(_ context.Context, n int) error {
		pieces++
		if unsynced != 0 {
			t.Errorf("paced with %d bytes unsynced", unsynced)
		}
		return nil
	})
	must(t, err)
	if most > 1<<20 || pieces < 5 {
		t.Errorf("got %d pieces, up to %d bytes unsynced, want at most 1 MiB", pieces, most)
	}
}

func TestInstallVerifiesBeforeItRenames(t *testing.T) {
	file := write(t, state(7))
	flipped := bytes.Clone(file)
	flipped[9000] ^= 1
	broken := errors.New("connection reset")
	tests := map[string]struct {
		body io.Reader
		want error
	}{
		"whole":               {iotest.OneByteReader(bytes.NewReader(file)), nil},
		"a flipped bit":       {bytes.NewReader(flipped), checkpoint.ErrCorrupt},
		"cut short":           {bytes.NewReader(file[:len(file)/2]), checkpoint.ErrCorrupt},
		"cut at the digest":   {bytes.NewReader(file[:len(file)-32]), checkpoint.ErrCorrupt},
		"empty":               {bytes.NewReader(nil), checkpoint.ErrCorrupt},
		"a failing stream":    {io.MultiReader(bytes.NewReader(file[:5000]), iotest.ErrReader(broken)), broken},
		"no bbolt underneath": {bytes.NewReader(withDigest(make([]byte, 8192))), checkpoint.ErrCorrupt},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			d := openDir(t, mem)
			save(t, d, 1)
			info, err := d.Install(context.Background(), tt.body, 7, 1)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			want, files := uint64(1), 1
			if tt.want == nil {
				want, files = 7, 2
				if info != (checkpoint.Info{Index: 7, Term: 1, Size: int64(len(file))}) {
					t.Errorf("got %+v", info)
				}
			}
			d = openDir(t, mem.Crash(nil, vfs.CrashDrop))
			names, err := mem.ReadDir("/data/checkpoints")
			must(t, err)
			if got := newest(t, d); got != want || len(names) != files {
				t.Errorf("newest: got %d, want %d; files %q", got, want, names)
			}
		})
	}
}

func withDigest(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func TestRawIsWhatInstallTakes(t *testing.T) {
	d := openDir(t, vfs.NewMem())
	save(t, d, 3)
	r, err := d.Open(3)
	must(t, err)
	other := openDir(t, vfs.NewMem())
	_, err = other.Install(context.Background(), r.Raw(), 3, 1)
	must(t, err, r.Close())
	if got := newest(t, other); got != 3 {
		t.Errorf("got %d, want 3", got)
	}
}

func TestOneIndexIsWrittenOnceAtATime(t *testing.T) {
	d := openDir(t, vfs.NewMem())
	_, err := d.Save(context.Background(), 1, 1, buckets(state(1)), func(ctx context.Context, _ int) error {
		if _, err := d.Save(ctx, 1, 1, buckets(state(1)), nil); !errors.Is(err, checkpoint.ErrBusy) {
			t.Errorf("got %v, want ErrBusy", err)
		}
		save(t, d, 2) // another index may go on beside it
		return nil
	})
	must(t, err)
	if got := newest(t, d); got != 2 {
		t.Errorf("got %d, want 2", got)
	}
}

func TestCrashAtEveryOperationLeavesTheNewestCheckpointWhole(t *testing.T) {
	mem := vfs.NewMem()
	acked, next := uint64(0), uint64(0) // what must be there; what may be
	crashes := 0
	inject := func(op vfs.Op) error {
		if !op.Kind.Changes() {
			return nil
		}
		for _, mode := range []vfs.CrashMode{vfs.CrashDrop, vfs.CrashKeep, vfs.CrashRandom, vfs.CrashRandom, vfs.CrashTorn, vfs.CrashTorn} {
			crashes++
			after := mem.Crash(rand.New(rand.NewPCG(uint64(crashes), 1)), mode)
			d := openDir(t, after)
			if got := newest(t, d); got != acked && got != next {
				t.Fatalf("before %v of %s, %v (crash %d): got %d, want %d or %d", op.Kind, op.Name, mode, crashes, got, acked, next)
			}
			if n := len(d.List()); acked > 0 && n == 0 || n > 4 {
				t.Fatalf("before %v, %v: %d checkpoints", op.Kind, mode, n)
			}
			names, err := after.ReadDir("/data/checkpoints")
			must(t, err)
			for _, n := range names {
				if strings.HasSuffix(n, ".tmp") {
					t.Fatalf("a temporary file stayed: %s", n)
				}
			}
		}
		return nil
	}
	d := openDir(t, vfs.NewFault(mem, inject))
	for i := uint64(1); i <= 6; i++ {
		next = i
		if i%2 == 0 {
			_, err := d.Install(context.Background(), bytes.NewReader(write(t, state(i))), i, 1)
			must(t, err)
		} else {
			save(t, d, i)
		}
		acked = i
	}
	t.Logf("%d crashes", crashes)
}

func TestDirWorksOnTheOperatingSystem(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "checkpoints")
	d, err := checkpoint.OpenDir(checkpoint.Config{FS: vfs.OS(), Dir: dir})
	must(t, err)
	for i := uint64(1); i <= 3; i++ {
		save(t, d, i)
	}
	if got, want := indexes(d), []uint64{3, 2}; !slices.Equal(got, want) || newest(t, d) != 3 {
		t.Errorf("got %d, want %d", got, want)
	}
	same(t, "bbolt", boltContent(t, filepath.Join(dir, "0000000000000003-0000000000000001.db"), true), state(3))
	if _, err := checkpoint.OpenDir(checkpoint.Config{}); err == nil {
		t.Error("a config without FS was accepted")
	}
}

// simtest seed 1795384623690716455: a process is killed before it could make the
// name durable, the next one finds the file and lets the log go, and the power fails.
func TestACheckpointThatWasFoundStaysOverAPowerCut(t *testing.T) {
	mem, armed := vfs.NewMem(), false
	d := openDir(t, vfs.NewFault(mem, func(op vfs.Op) error {
		if armed && op.Kind == vfs.OpSyncDir {
			return errors.New("killed")
		}
		return nil
	}))
	save(t, d, 1)
	armed = true
	if _, err := d.Save(t.Context(), 2, 1, buckets(state(2)), nil); err == nil {
		t.Fatal("saved, though its name is not durable")
	}
	mem.Kill()
	if got := newest(t, openDir(t, mem)); got != 2 {
		t.Fatalf("the next process finds %d, want 2: then this test shows nothing", got)
	}
	after := mem.Crash(rand.New(rand.NewPCG(1, 1)), vfs.CrashDrop)
	if got := newest(t, openDir(t, after)); got != 2 {
		t.Fatalf("after the power cut the newest is %d, want 2", got)
	}
}
