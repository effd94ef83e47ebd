package wal_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/vfs"
	"github.com/musterhq/muster/core/wal"
)

var md = wal.Metadata{NodeID: 0xabc, ClusterID: 0xdef}

func config(fsys vfs.FS, segment int64) wal.Config {
	return wal.Config{FS: fsys, Dir: "/data/wal", SegmentSize: segment, Now: func() time.Time { return time.Unix(1, 0) }}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func entry(index, term uint64, data string) *raftpb.Entry {
	typ := raftpb.EntryNormal
	e := &raftpb.Entry{Index: &index, Term: &term, Type: &typ}
	if data != "" {
		e.Data = []byte(data)
	}
	return e
}

func hardState(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
}

// text renders a log's content: hard state, start, and each entry.
func text(hs *raftpb.HardState, start wal.Position, ents []*raftpb.Entry) string {
	var b strings.Builder
	if hs == nil {
		b.WriteString("none")
	} else {
		fmt.Fprintf(&b, "%d/%d/%d", hs.GetTerm(), hs.GetVote(), hs.GetCommit())
	}
	fmt.Fprintf(&b, " (%d,%d)", start.Index, start.Term)
	for _, e := range ents {
		data := string(e.GetData())
		if len(data) > 20 {
			data = fmt.Sprintf("%s..%d", data[:8], len(data))
		}
		fmt.Fprintf(&b, " %d.%d", e.GetIndex(), e.GetTerm())
		if e.GetType() != raftpb.EntryNormal {
			fmt.Fprintf(&b, "c%d", e.GetType())
		}
		if data != "" {
			b.WriteString("=" + data)
		}
	}
	return b.String()
}

func content(r *wal.Recovered) string { return text(r.HardState, r.Start, r.Entries) }

func reopen(t testing.TB, cfg wal.Config) (*wal.Log, *wal.Recovered) {
	t.Helper()
	l, r, err := wal.Open(cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	if r.Metadata != md {
		t.Fatalf("metadata: got %+v, want %+v", r.Metadata, md)
	}
	return l, r
}

func TestLogReadsBackWhatWasAppended(t *testing.T) {
	conf := entry(3, 2, "conf")
	typ := raftpb.EntryConfChangeV2
	conf.Type = &typ
	tests := []struct {
		name string
		run  func(l *wal.Log) error
		want string
	}{
		{"nothing", func(*wal.Log) error { return nil }, "none (0,0)"},
		{"a hard state alone", func(l *wal.Log) error { return l.Append(hardState(1, 2, 0), nil) }, "1/2/0 (0,0)"},
		{"entries of every kind", func(l *wal.Log) error {
			return l.Append(hardState(2, 7, 1), []*raftpb.Entry{entry(1, 1, ""), entry(2, 1, "b"), conf})
		}, "2/7/1 (0,0) 1.1 2.1=b 3.2c2=conf"},
		{"a tail replaced", func(l *wal.Log) error {
			return errors.Join(
				l.Append(nil, []*raftpb.Entry{entry(1, 1, "a"), entry(2, 1, "b"), entry(3, 1, "c")}), l.Sync(),
				l.Append(hardState(2, 0, 1), []*raftpb.Entry{entry(2, 2, "B")}), l.Sync())
		}, "2/0/1 (0,0) 1.1=a 2.2=B"},
		{"everything replaced", func(l *wal.Log) error {
			return errors.Join(l.Append(nil, []*raftpb.Entry{entry(1, 1, "a"), entry(2, 1, "b")}),
				l.Append(nil, []*raftpb.Entry{entry(1, 3, "A")}))
		}, "none (0,0) 1.3=A"},
		{"an entry larger than a segment", func(l *wal.Log) error {
			return errors.Join(l.Append(nil, []*raftpb.Entry{entry(1, 1, "a")}), l.Sync(),
				l.Append(nil, []*raftpb.Entry{entry(2, 1, strings.Repeat("x", 10000))}), l.Sync(),
				l.Append(nil, []*raftpb.Entry{entry(3, 1, "c")}))
		}, "none (0,0) 1.1=a 2.1=xxxxxxxx..10000 3.1=c"},
		{"a reset", func(l *wal.Log) error {
			return errors.Join(l.Append(hardState(1, 1, 1), []*raftpb.Entry{entry(1, 1, "a")}), l.Sync(),
				l.Append(nil, []*raftpb.Entry{entry(2, 1, "never synced")}),
				l.Reset(wal.Position{Index: 100, Term: 5}, hardState(5, 0, 100)),
				l.Append(nil, []*raftpb.Entry{entry(101, 6, "n")}))
		}, "5/0/100 (100,5) 101.6=n"},
		{"a reset that keeps the hard state", func(l *wal.Log) error {
			return errors.Join(l.Append(hardState(9, 9, 9), nil), l.Reset(wal.Position{Index: 9, Term: 9}, nil))
		}, "9/9/9 (9,9)"},
	}
	for _, tt := range tests {
		for _, closed := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/closed=%v", tt.name, closed), func(t *testing.T) {
				mem := vfs.NewMem()
				cfg := config(mem, 4096)
				l, err := wal.Create(cfg, md, wal.Position{})
				must(t, err)
				must(t, tt.run(l), l.Sync())
				if closed {
					must(t, l.Close(), l.Close())
				} else {
					mem = mem.Crash(nil, vfs.CrashDrop)
					cfg.FS = mem
				}
				for range 3 { // each open rewrites the tail; nothing may change
					l, r := reopen(t, cfg)
					if got := content(r); got != tt.want || r.Repaired != "" {
						t.Fatalf("got %s (%s), want %s", got, r.Repaired, tt.want)
					}
					must(t, l.Close())
				}
			})
		}
	}
}

func TestSegmentsAreCutNamedInOrderAndReleased(t *testing.T) {
	mem := vfs.NewMem()
	cfg := config(mem, 4096)
	l, err := wal.Create(cfg, md, wal.Position{Index: 10, Term: 1})
	must(t, err)
	for i := uint64(11); i <= 40; i++ {
		must(t, l.Append(hardState(1, 1, i-1), []*raftpb.Entry{entry(i, 1, strings.Repeat("x", 500))}), l.Sync())
	}
	names, err := mem.ReadDir(cfg.Dir)
	must(t, err)
	if len(names) != 5 || names[0] != "0000000000000001-000000000000000a.wal" {
		t.Fatalf("segments: got %q", names)
	}
	if got := l.Size(); got != 5*4096 {
		t.Errorf("Size: got %d, want %d", got, 5*4096)
	}
	must(t, l.ReleaseBefore(25))
	released := l.Size()
	if released >= 5*4096 {
		t.Error("ReleaseBefore released nothing")
	}
	l, r := reopen(t, wal.Config{FS: mem.Crash(nil, vfs.CrashDrop), Dir: cfg.Dir, SegmentSize: 4096})
	if r.Start.Index >= 25 || r.Start.Index < 10 || r.Start.Term != 1 {
		t.Errorf("start after release: got %+v, want just below 25", r.Start)
	}
	if want := int(40 - r.Start.Index); len(r.Entries) != want || r.HardState.GetCommit() != 39 {
		t.Errorf("got %d entries, commit %d, want %d, 39", len(r.Entries), r.HardState.GetCommit(), want)
	}
	must(t, l.ReleaseBefore(1000))
	if l.Last() != (wal.Position{Index: 40, Term: 1}) {
		t.Errorf("Last after releasing all: %+v", l.Last())
	}
	must(t, l.Append(nil, []*raftpb.Entry{entry(41, 2, "y")}), l.Close())
}

func TestRewrittenEntriesBelowAReleasedSegmentOnlySayWhereTheLogBegins(t *testing.T) {
	mem := vfs.NewMem()
	cfg := config(mem, 4096)
	l, err := wal.Create(cfg, md, wal.Position{})
	must(t, err)
	big := strings.Repeat("x", 1000)
	must(t, l.Append(nil, []*raftpb.Entry{entry(1, 1, big), entry(2, 1, big), entry(3, 1, big)}), l.Sync())
	// A new segment begins after entry 3, and its first entries replace 2 and 3.
	must(t, l.Append(nil, []*raftpb.Entry{entry(2, 2, big), entry(3, 2, "c"), entry(4, 2, "d"), entry(5, 2, "e")}), l.Sync())
	must(t, l.ReleaseBefore(5), l.Close())
	l, r := reopen(t, cfg)
	if got, want := content(r), "none (2,2) 3.2=c 4.2=d 5.2=e"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	must(t, l.Close())
}

func TestAppendRefusesGapsAndEntriesBelowTheStart(t *testing.T) {
	l, err := wal.Create(config(vfs.NewMem(), 4096), md, wal.Position{Index: 5, Term: 1})
	must(t, err)
	for _, ents := range [][]*raftpb.Entry{
		{entry(7, 1, "")}, {entry(5, 1, "")}, {entry(6, 1, ""), entry(8, 1, "")},
	} {
		if err := l.Append(nil, ents); !errors.Is(err, wal.ErrOutOfOrder) {
			t.Errorf("entry %d: got %v, want ErrOutOfOrder", ents[0].GetIndex(), err)
		}
	}
	must(t, l.Append(nil, []*raftpb.Entry{entry(6, 1, "")}), l.Close())
	if err := l.Append(nil, nil); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
}

func TestOpenAndCreateSayWhetherThereIsALog(t *testing.T) {
	cfg := config(vfs.NewMem(), 4096)
	if _, _, err := wal.Open(cfg); !errors.Is(err, wal.ErrNotExist) {
		t.Errorf("Open of nothing: got %v, want ErrNotExist", err)
	}
	l, err := wal.Create(cfg, md, wal.Position{})
	must(t, err)
	must(t, l.Close())
	if _, err := wal.Create(cfg, md, wal.Position{}); !errors.Is(err, wal.ErrExist) {
		t.Errorf("Create over a log: got %v, want ErrExist", err)
	}
	if _, err := wal.Create(wal.Config{}, md, wal.Position{}); err == nil {
		t.Error("a config without FS was accepted")
	}
}

func TestTheFirstFailedWriteOrSyncIsFinal(t *testing.T) {
	for _, kind := range []vfs.Kind{vfs.OpWrite, vfs.OpSync, vfs.OpPreallocate, vfs.OpRename, vfs.OpSyncDir, vfs.OpOpen} {
		for _, fault := range []error{syscall.EIO, &vfs.ShortWrite{N: 700, Err: syscall.ENOSPC}} {
			t.Run(fmt.Sprintf("%v/%v", kind, fault), func(t *testing.T) {
				mem := vfs.NewMem()
				armed := false
				cfg := config(vfs.NewFault(mem, func(op vfs.Op) error {
					if armed && op.Kind == kind {
						armed = false // fails once; a retry would succeed, and must not be made
						return fault
					}
					return nil
				}), 4096)
				l, err := wal.Create(cfg, md, wal.Position{})
				must(t, err)
				must(t, l.Append(nil, []*raftpb.Entry{entry(1, 1, strings.Repeat("a", 2000))}), l.Sync())
				armed = true
				must(t, l.Append(nil, []*raftpb.Entry{entry(2, 1, strings.Repeat("b", 2000))}))
				if err := l.Sync(); !errors.Is(err, wal.ErrFailed) || !errors.Is(err, errors.Unwrap(fault)) && !errors.Is(err, fault) {
					t.Fatalf("Sync: got %v, want ErrFailed and the cause", err)
				}
				for what, err := range map[string]error{
					"Append": l.Append(nil, nil), "Sync": l.Sync(),
					"Reset": l.Reset(wal.Position{}, nil), "ReleaseBefore": l.ReleaseBefore(9),
				} {
					if !errors.Is(err, wal.ErrFailed) {
						t.Errorf("%s after the failure: got %v, want ErrFailed", what, err)
					}
				}
				must(t, l.Close())
				cfg.FS = mem
				l, r := reopen(t, cfg)
				if len(r.Entries) < 1 || r.Entries[0].GetIndex() != 1 {
					t.Errorf("the acknowledged entry is gone: %s", content(r))
				}
				must(t, l.Close())
			})
		}
	}
}

func TestOneBatchIsOneWriteAndOneSync(t *testing.T) {
	fault := vfs.NewFault(vfs.NewMem(), nil)
	syncs, writes, bytes := 0, 0, 0
	cfg := config(fault, 1<<20)
	cfg.OnSync = func(time.Duration) { syncs++ }
	cfg.OnWrite = func(_ time.Duration, n int) { writes, bytes = writes+1, bytes+n }
	l, err := wal.Create(cfg, md, wal.Position{})
	must(t, err)
	ops := fault.Ops()
	for i := uint64(1); i <= 10; i++ {
		must(t, l.Append(hardState(1, 1, i-1), []*raftpb.Entry{entry(i, 1, "data")}))
	}
	must(t, l.Sync(), l.Sync())
	if got := fault.Ops() - ops; got != 2 || syncs != 1 || writes != 1 || bytes < 10*len("data") {
		t.Errorf("ten appends and a sync: got %d operations, %d syncs and %d writes of %d bytes reported, want 2, 1, 1", got, syncs, writes, bytes)
	}
	must(t, l.Close())
}

func TestNoSyncNeverSyncs(t *testing.T) {
	mem := vfs.NewMem()
	fault := vfs.NewFault(mem, nil)
	must(t, vfs.EnsureDir(fault, "/data/wal"))
	cfg := config(fault, 4096)
	cfg.NoSync = true
	l, err := wal.Create(cfg, md, wal.Position{})
	must(t, err)
	before := fault.Count(vfs.OpSyncDir) // the directory itself has been made durable
	for i := uint64(1); i <= 20; i++ {
		must(t, l.Append(nil, []*raftpb.Entry{entry(i, 1, strings.Repeat("a", 1000))}), l.Sync())
	}
	if n := fault.Count(vfs.OpSync) + fault.Count(vfs.OpSyncDir) - before; n != 0 {
		t.Errorf("got %d syncs, want none", n)
	}
	cfg.FS = mem.Crash(nil, vfs.CrashKeep)
	l, r := reopen(t, cfg)
	if len(r.Entries) != 20 {
		t.Errorf("after the process was killed: got %d entries, want 20", len(r.Entries))
	}
	must(t, l.Close())
}

func TestRestartsDontPileUpFiles(t *testing.T) {
	mem := vfs.NewMem()
	cfg := config(mem, 1<<16)
	l, err := wal.Create(cfg, md, wal.Position{})
	must(t, err)
	for i := range uint64(50) {
		must(t, l.Append(hardState(i+1, 0, 0), []*raftpb.Entry{entry(i+1, 1, "x")}), l.Sync())
		if i%2 == 0 {
			must(t, l.Close())
		} else {
			mem = mem.Crash(nil, vfs.CrashKeep)
			cfg.FS = mem
		}
		l, _ = reopen(t, cfg)
	}
	names, err := mem.ReadDir(cfg.Dir)
	must(t, err)
	if len(names) != 1 {
		t.Errorf("got %d files after 50 restarts, want 1: %q", len(names), names)
	}
	must(t, l.Close())
}

func TestLogOnTheOperatingSystemSurvivesReopening(t *testing.T) {
	cfg := wal.Config{FS: vfs.OS(), Dir: filepath.Join(t.TempDir(), "a", "wal"), SegmentSize: 1 << 16}
	l, err := wal.Create(cfg, md, wal.Position{})
	must(t, err)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := uint64(1); i <= 300; i++ {
		must(t, l.Append(hardState(1, 1, i-1), []*raftpb.Entry{entry(i, 1, strings.Repeat("d", rng.IntN(2000)))}), l.Sync())
	}
	must(t, l.Close())
	l, r := reopen(t, cfg)
	if len(r.Entries) != 300 || r.Repaired != "" {
		t.Errorf("got %d entries, repaired %q, want 300, nothing", len(r.Entries), r.Repaired)
	}
	must(t, l.Close())
	names, err := os.ReadDir(cfg.Dir)
	must(t, err)
	for _, n := range names {
		info, err := n.Info()
		must(t, err)
		if info.Mode().Perm() != vfs.FilePerm {
			t.Errorf("%s: mode %v", n.Name(), info.Mode())
		}
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, "next.wal.tmp")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a temporary file stayed: %v", err)
	}
}
