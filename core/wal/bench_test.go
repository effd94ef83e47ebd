package wal_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/vfs"
	"github.com/musterhq/muster/core/wal"
)

func TestAppendAndSyncDoNotAllocate(t *testing.T) {
	l, err := wal.Create(config(vfs.NewMem(), 64<<20), md, wal.Position{})
	must(t, err)
	e := entry(0, 1, strings.Repeat("x", 100))
	hs := hardState(1, 1, 0)
	ents := []*raftpb.Entry{e}
	next := func() {
		*e.Index++
		*hs.Commit++
		if err := l.Append(hs, ents); err != nil {
			t.Fatal(err)
		}
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	// The in-memory disk allocates a page now and then; the log itself nothing.
	if got := testing.AllocsPerRun(2000, next); got >= 2 {
		t.Errorf("got %v allocations a batch, want next to none", got)
	}
	must(t, l.Close())
}

func BenchmarkAppendSync(b *testing.B) {
	for _, n := range []int{1, 16, 256} {
		for _, nosync := range []bool{false, true} {
			b.Run(fmt.Sprintf("entries=%d/nosync=%v", n, nosync), func(b *testing.B) {
				cfg := wal.Config{FS: vfs.OS(), Dir: filepath.Join(b.TempDir(), "wal"), NoSync: nosync}
				l, err := wal.Create(cfg, md, wal.Position{})
				must(b, err)
				ents := make([]*raftpb.Entry, n)
				for i := range ents {
					ents[i] = entry(uint64(i+1), 1, strings.Repeat("x", 200))
				}
				hs := hardState(1, 1, 0)
				b.SetBytes(int64(200 * n))
				b.ReportAllocs()
				for b.Loop() {
					if err := l.Append(hs, ents); err != nil {
						b.Fatal(err)
					}
					if err := l.Sync(); err != nil {
						b.Fatal(err)
					}
					for _, e := range ents {
						*e.Index += uint64(n)
					}
					if l.Size() > 512<<20 {
						must(b, l.ReleaseBefore(*ents[0].Index))
					}
				}
				must(b, l.Close())
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	cfg := wal.Config{FS: vfs.OS(), Dir: filepath.Join(b.TempDir(), "wal")}
	l, err := wal.Create(cfg, md, wal.Position{})
	must(b, err)
	const n = 200_000
	for i := uint64(1); i <= n; i++ {
		must(b, l.Append(nil, []*raftpb.Entry{entry(i, 1, strings.Repeat("x", 200))}))
	}
	must(b, l.Close())
	b.SetBytes(200 * n)
	b.ReportAllocs()
	for b.Loop() {
		l, r, err := wal.Open(cfg)
		must(b, err)
		if len(r.Entries) != n {
			b.Fatalf("got %d entries", len(r.Entries))
		}
		must(b, l.Close())
	}
}
