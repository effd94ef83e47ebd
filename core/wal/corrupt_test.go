package wal_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/vfs"
	"github.com/musterhq/muster/core/wal"
)

// readFile and writeFile work on a file of a log as a whole.
func readFile(t testing.TB, fsys vfs.FS, name string) []byte {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	must(t, err)
	size, err := f.Size()
	must(t, err)
	b := make([]byte, size)
	_, err = f.ReadAt(b, 0)
	must(t, err, f.Close())
	return b
}

func writeFile(t testing.TB, fsys vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, vfs.FilePerm)
	must(t, err)
	_, err = f.Write(b)
	must(t, err, f.Sync(), f.Close(), fsys.SyncDir(filepath.Dir(name)))
}

// filled returns a disk with a log of 6 synced entries over 2 segments.
func filled(t testing.TB, closed bool) (*vfs.Mem, []string) {
	mem := vfs.NewMem()
	cfg := config(mem, 4096)
	l, err := wal.Create(cfg, md, wal.Position{})
	must(t, err)
	for i := uint64(1); i <= 6; i++ {
		must(t, l.Append(hardState(1, 1, i-1), []*raftpb.Entry{entry(i, 1, strings.Repeat("x", 800))}), l.Sync())
	}
	if closed {
		must(t, l.Close())
	}
	names, err := mem.ReadDir(cfg.Dir)
	must(t, err)
	if len(names) != 2 {
		t.Fatalf("got %d segments, want 2", len(names))
	}
	for i := range names {
		names[i] = filepath.Join(cfg.Dir, names[i])
	}
	return mem, names
}

func TestEveryFlippedByteIsRefusedOrHarmless(t *testing.T) {
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed=%v", closed), func(t *testing.T) {
			mem, names := filled(t, closed)
			lost, refused := 0, 0
			for _, name := range names {
				clean := readFile(t, mem, name)
				for off := range clean {
					if off > 600 && off%7 != 0 {
						continue // headers in full, of the rest a sample
					}
					disk := mem.Crash(nil, vfs.CrashDrop)
					rotten := append([]byte(nil), clean...)
					rotten[off] ^= 0x40
					writeFile(t, disk, name, rotten)
					l, r, err := wal.Open(config(disk, 4096))
					if err != nil {
						if !errors.Is(err, wal.ErrCorrupt) {
							t.Fatalf("%s, byte %d: got %v, want ErrCorrupt", name, off, err)
						}
						if !strings.Contains(err.Error(), name) {
							t.Fatalf("the error doesn't name the file: %v", err)
						}
						refused++
						continue
					}
					must(t, l.Close())
					switch n := len(r.Entries); {
					case n == 6:
					case n == 5 && !closed && r.Repaired != "":
						lost++ // nothing was written after the last batch, so this can't be told from a torn tail
					default:
						t.Fatalf("%s, byte %d: %d entries, repaired %q, closed %v", name, off, n, r.Repaired, closed)
					}
				}
			}
			if refused == 0 || closed && lost > 0 {
				t.Errorf("refused %d, lost the tail %d times", refused, lost)
			}
		})
	}
}

func TestDamageBelowTheWatermarkIsRefusedNamingTheRemedy(t *testing.T) {
	mem, names := filled(t, false)
	b := readFile(t, mem, names[1])
	clear(b[512:1024]) // the first batch of the last segment, as a lost sector
	writeFile(t, mem, names[1], b)
	_, _, err := wal.Open(config(mem, 4096))
	if !errors.Is(err, wal.ErrCorrupt) {
		t.Fatalf("got %v, want ErrCorrupt", err)
	}
	for _, want := range []string{names[1], "offset 512", "restore this member"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q doesn't say %q", err, want)
		}
	}
}

func TestAMissingOrForeignSegmentIsRefused(t *testing.T) {
	mem, names := filled(t, true)
	l, _ := reopen(t, config(mem, 4096))
	for i := uint64(7); i <= 12; i++ {
		must(t, l.Append(nil, []*raftpb.Entry{entry(i, 1, strings.Repeat("x", 800))}), l.Sync())
	}
	must(t, l.Close())
	header := readFile(t, mem, names[1])
	tests := map[string]func(disk *vfs.Mem){
		"a hole": func(disk *vfs.Mem) { must(t, disk.Remove(names[1])) },
		"a renamed file": func(disk *vfs.Mem) {
			must(t, disk.Rename(names[1], filepath.Dir(names[1])+"/00000000000000ff-0000000000000004.wal"))
		},
		"a cut file":    func(disk *vfs.Mem) { writeFile(t, disk, names[1], header[:100]) },
		"an empty file": func(disk *vfs.Mem) { writeFile(t, disk, names[1], nil) },
		"another text":  func(disk *vfs.Mem) { writeFile(t, disk, names[1], []byte(strings.Repeat("hello ", 1000))) },
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			disk := mem.Crash(nil, vfs.CrashDrop)
			damage(disk)
			if _, _, err := wal.Open(config(disk, 4096)); !errors.Is(err, wal.ErrCorrupt) {
				t.Errorf("got %v, want ErrCorrupt", err)
			}
		})
	}
}

func TestATornTailIsCutAndReported(t *testing.T) {
	mem, names := filled(t, false)
	b := readFile(t, mem, names[1])
	for off := len(b) - 1; off > 0; off-- { // garbage where the next batch would go
		if b[off] != 0 {
			copy(b[(off/8+1)*8:], "garbage that is no batch")
			break
		}
	}
	writeFile(t, mem, names[1], b)
	l, r := reopen(t, config(mem, 4096))
	if len(r.Entries) != 6 || !strings.Contains(r.Repaired, "torn tail of 24 bytes") {
		t.Errorf("got %d entries, repaired %q", len(r.Entries), r.Repaired)
	}
	must(t, l.Close())
	l, r = reopen(t, config(mem, 4096))
	if r.Repaired != "" {
		t.Errorf("a repaired log was repaired again: %s", r.Repaired)
	}
	must(t, l.Close())
}

func TestABatchBehindAHoleNeverComesBack(t *testing.T) {
	mem := vfs.NewMem()
	cfg := config(mem, 4096)
	l, err := wal.Create(cfg, md, wal.Position{})
	must(t, err)
	must(t, l.Append(nil, []*raftpb.Entry{entry(1, 1, "a")}), l.Sync())
	name := filepath.Join(cfg.Dir, "0000000000000001-0000000000000000.wal")
	before := readFile(t, mem, name)
	must(t, l.Append(nil, []*raftpb.Entry{entry(2, 1, strings.Repeat("b", 1000))}), l.Sync())
	must(t, l.Append(nil, []*raftpb.Entry{entry(3, 1, "c")}), l.Sync())
	// What a disk that lied about both syncs may leave: entry 3 without entry 2.
	after := readFile(t, mem, name)
	copy(after[:1500], before[:1500])
	writeFile(t, mem, name, after)
	if _, _, err := wal.Open(cfg); !errors.Is(err, wal.ErrCorrupt) {
		t.Fatalf("got %v, want ErrCorrupt: entry 3's watermark proves that entry 2 had been durable", err)
	}
}

func TestANewerFormatIsRefusedByName(t *testing.T) {
	mem, names := filled(t, true)
	b := readFile(t, mem, names[1])
	copy(b, wal.HeaderOfVersion(b, 9))
	writeFile(t, mem, names[1], b)
	_, _, err := wal.Open(config(mem, 4096))
	if !errors.Is(err, wal.ErrVersion) || errors.Is(err, wal.ErrCorrupt) || !strings.Contains(err.Error(), "version 9") {
		t.Errorf("got %v, want ErrVersion naming version 9", err)
	}
}

func FuzzOpenSegment(f *testing.F) {
	mem, names := filled(f, true)
	for _, n := range names {
		b := readFile(f, mem, n)
		f.Add(b[512:1500], uint16(0), false)
		f.Add(b[512:], uint16(3), true)
	}
	f.Add([]byte{}, uint16(9), false)
	clean := readFile(f, mem, names[1])
	f.Fuzz(func(t *testing.T, body []byte, at uint16, splice bool) {
		// Either the input replaces the batches, or it overwrites some valid ones.
		seg := append(append([]byte(nil), clean[:512]...), body...)
		if splice {
			seg = append([]byte(nil), clean...)
			copy(seg[512+int(at)%(len(seg)-512):], body)
		}
		for reframe := range 2 {
			disk := mem.Crash(nil, vfs.CrashDrop)
			if reframe == 1 {
				// Give the input a valid frame, to reach the records.
				seg = append(append([]byte(nil), clean[:512]...), wal.Frame(clean, 512, body)...)
			}
			writeFile(t, disk, names[1], seg)
			l, r, err := wal.Open(config(disk, 4096))
			if err != nil {
				if !errors.Is(err, wal.ErrCorrupt) {
					t.Fatalf("got %v, want ErrCorrupt", err)
				}
				continue
			}
			for i, e := range r.Entries {
				if e.GetIndex() != r.Start.Index+uint64(i)+1 {
					t.Fatalf("entries aren't contiguous: %s", content(r))
				}
			}
			must(t, l.Close())
			l, again := reopen(t, config(disk, 4096))
			if content(again) != content(r) || again.Repaired != "" {
				t.Fatalf("reopened: got %s (%s), want %s", content(again), again.Repaired, content(r))
			}
			must(t, l.Close())
		}
	})
}
