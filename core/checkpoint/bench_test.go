package checkpoint_test

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"github.com/musterhq/muster/core/checkpoint"
	"github.com/musterhq/muster/core/vfs"
)

// synthetic is a key bucket that costs next to nothing to walk.
func synthetic(n int) []checkpoint.Bucket {
	value := make([]byte, 100)
	return []checkpoint.Bucket{{Name: "key", Pairs: func(yield func(k, v []byte) bool) {
		var k []byte
		for i := range n {
			k = checkpoint.AppendRevisionKey(k[:0], int64(i+2), 0, false)
			if !yield(k, value) {
				return
			}
		}
	}}}
}

func BenchmarkWrite(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprint("records=", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w, err := checkpoint.Write(io.Discard, synthetic(n))
				must(b, err)
				b.SetBytes(w.Size)
			}
		})
	}
}

func BenchmarkSave(b *testing.B) {
	const n = 1_000_000
	d, err := checkpoint.OpenDir(checkpoint.Config{FS: vfs.OS(), Dir: filepath.Join(b.TempDir(), "c")})
	must(b, err)
	b.ReportAllocs()
	index := uint64(0)
	for b.Loop() {
		index++
		info, err := d.Save(context.Background(), index, 1, synthetic(n), nil)
		must(b, err)
		b.SetBytes(info.Size)
	}
}

func BenchmarkRead(b *testing.B) {
	const n = 1_000_000
	dir := filepath.Join(b.TempDir(), "c")
	d, err := checkpoint.OpenDir(checkpoint.Config{FS: vfs.OS(), Dir: dir})
	must(b, err)
	info, err := d.Save(context.Background(), 1, 1, synthetic(n), nil)
	must(b, err)
	for _, verify := range []bool{false, true} {
		b.Run(fmt.Sprintf("records=%d/verify=%v", n, verify), func(b *testing.B) {
			b.SetBytes(info.Size)
			b.ReportAllocs()
			for b.Loop() {
				var r *checkpoint.Reader
				if verify {
					r, err = checkpoint.Open(vfs.OS(), filepath.Join(dir, "0000000000000001-0000000000000001.db"))
				} else {
					r, err = d.Open(1)
				}
				must(b, err)
				count := 0
				must(b, r.Each("key", func(_, _ []byte) error { count++; return nil }), r.Close())
				if count != n {
					b.Fatalf("read %d records", count)
				}
			}
		})
	}
}
