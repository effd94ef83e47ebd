package checkpoint_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/musterhq/muster/core/checkpoint"
	"github.com/musterhq/muster/core/vfs"
)

// FuzzReader gives the reader bytes that no digest protects: it must return, with
// rising keys or ErrCorrupt.
func FuzzReader(f *testing.F) {
	file := write(f, map[string][]pair{"key": records(300, 50), "meta": records(3, 8), "big": {{[]byte("k"), make([]byte, 9000)}}})
	f.Add([]byte{}, uint32(0))
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8}, uint32(3*4096))
	f.Add(file[4*4096:4*4096+64], uint32(5*4096))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint32(5*4096+10))
	f.Fuzz(func(t *testing.T, patch []byte, at uint32) {
		b := bytes.Clone(file)
		copy(b[int(at)%len(b):], patch)
		r, err := checkpoint.NewReader(bytes.NewReader(b), int64(len(b)))
		if err == nil {
			var content map[string][]pair
			if content, err = readContent(r); err == nil {
				for name, pairs := range content {
					if !slices.IsSortedFunc(pairs, func(a, b pair) int { return bytes.Compare(a.k, b.k) }) {
						t.Fatalf("keys of %q aren't sorted", name)
					}
				}
				return
			}
		}
		if !errors.Is(err, checkpoint.ErrCorrupt) {
			t.Fatalf("got %v, want ErrCorrupt", err)
		}
	})
}

// mangle cuts b, or lengthens it by zeros, and overwrites a part of it.
func mangle(b, patch []byte, at uint32, longer int16) []byte {
	n := max(len(b)+int(longer), 0)
	out := make([]byte, n)
	copy(out, b)
	if n > 0 {
		copy(out[int(at)%n:], patch)
	}
	return out
}

// FuzzDamagedFile: of the two checkpoints that a member keeps the newer one is
// damaged. It is passed over, or it was not damaged and reads as it was written;
// likewise when the damage happens to one that a leader sends.
func FuzzDamagedFile(f *testing.F) {
	want := map[string][]pair{"key": records(300, 50), "meta": records(3, 8), "big": {{[]byte("k"), make([]byte, 9000)}}}
	template := vfs.NewMem()
	d, err := checkpoint.OpenDir(checkpoint.Config{FS: template, Dir: "/c"})
	must(f, err)
	_, err = d.Save(f.Context(), 1, 1, buckets(map[string][]pair{"key": records(2, 5)}), nil)
	must(f, err)
	newest, err := d.Save(f.Context(), 2, 1, buckets(want), nil)
	must(f, err)
	const name = "/c/0000000000000002-0000000000000001.db"
	whole := make([]byte, newest.Size)
	file, err := template.OpenFile(name, os.O_RDONLY, 0)
	must(f, err)
	_, err = file.ReadAt(whole, 0)
	must(f, err)
	must(f, file.Close())

	f.Add([]byte{}, uint32(0), int16(0))
	f.Add([]byte{}, uint32(0), int16(-32)) // without its digest
	f.Add([]byte{}, uint32(0), int16(512))
	f.Add([]byte{}, uint32(0), int16(-512))
	f.Add([]byte{}, uint32(0), int16(480)) // of a size that needs no digest
	f.Add([]byte{1}, uint32(4096*3), int16(0))
	f.Add(bytes.Repeat([]byte{0xaa}, 600), uint32(100), int16(0)) // both meta pages differ then
	f.Fuzz(func(t *testing.T, patch []byte, at uint32, longer int16) {
		bad := mangle(whole, patch, at, longer)
		same := bytes.Equal(bad, whole)
		disk := template.Crash(nil, vfs.CrashDrop)
		file, err := disk.OpenFile(name, os.O_RDWR|os.O_TRUNC, 0)
		must(t, err)
		_, err = file.Write(bad)
		must(t, err)
		must(t, file.Close())
		d, err := checkpoint.OpenDir(checkpoint.Config{FS: disk, Dir: "/c"})
		must(t, err)
		info, err := d.Newest()
		must(t, err)
		if (info.Index == 2) != same {
			t.Fatalf("of %d bytes, %d before, the checkpoint at %d is taken for the newest whole one", len(bad), len(whole), info.Index)
		}
		_, err = d.Install(t.Context(), bytes.NewReader(bad), 3, 1)
		if (err == nil) != same || err != nil && !errors.Is(err, checkpoint.ErrCorrupt) {
			t.Fatalf("received %d bytes, %d were sent: %v", len(bad), len(whole), err)
		}
		names, err := disk.ReadDir("/c")
		must(t, err)
		if i := slices.IndexFunc(names, func(n string) bool { return n[len(n)-3:] != ".db" }); i >= 0 {
			t.Fatalf("left %s behind", names[i])
		}
		if !same {
			return
		}
		r, err := d.Open(3)
		must(t, err)
		got, err := readContent(r)
		must(t, err)
		must(t, r.Close())
		for bucket, pairs := range want {
			if !slices.EqualFunc(got[bucket], pairs, func(a, b pair) bool { return bytes.Equal(a.k, b.k) && bytes.Equal(a.v, b.v) }) {
				t.Fatalf("bucket %q is not as written", bucket)
			}
		}
	})
}
