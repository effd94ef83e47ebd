package wal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/vfs"
	"github.com/musterhq/muster/core/wal"
)

// model is what a log should hold.
type model struct {
	hs       *raftpb.HardState
	start    wal.Position
	ents     []*raftpb.Entry
	released uint64 // entries below may be gone
}

func (m model) append(hs *raftpb.HardState, ents []*raftpb.Entry) model {
	if hs != nil {
		m.hs = hs
	}
	if len(ents) > 0 {
		n := ents[0].GetIndex() - m.start.Index - 1
		m.ents = append(append([]*raftpb.Entry(nil), m.ents[:n]...), ents...)
	}
	return m
}

func (m model) last() wal.Position {
	if len(m.ents) == 0 {
		return m.start
	}
	e := m.ents[len(m.ents)-1]
	return wal.Position{Index: e.GetIndex(), Term: e.GetTerm()}
}

// matches compares with what was recovered, of which released entries may be missing.
func (m model) matches(r *wal.Recovered) bool {
	if r.Start.Index < m.start.Index {
		return false
	}
	skip := r.Start.Index - m.start.Index
	if skip > uint64(len(m.ents)) || skip > 0 && r.Start.Index >= m.released {
		return false
	}
	start := m.start
	if skip > 0 {
		start = wal.Position{Index: m.ents[skip-1].GetIndex(), Term: m.ents[skip-1].GetTerm()}
	}
	return text(m.hs, start, m.ents[skip:]) == content(r)
}

// rig runs a workload and keeps the set of contents a crash may leave: the last
// one acknowledged, and all appended since.
type rig struct {
	t       testing.TB
	mem     *vfs.Mem
	log     *wal.Log
	allowed []model
}

func (g *rig) now() model { return g.allowed[len(g.allowed)-1] }

func (g *rig) append(hs *raftpb.HardState, ents ...*raftpb.Entry) {
	g.allowed = append(g.allowed, g.now().append(hs, ents))
	must(g.t, g.log.Append(hs, ents))
}

func (g *rig) sync() {
	must(g.t, g.log.Sync())
	g.allowed = g.allowed[len(g.allowed)-1:]
}

func (g *rig) release(before uint64) {
	for i := range g.allowed {
		g.allowed[i].released = before
	}
	must(g.t, g.log.ReleaseBefore(before))
}

func (g *rig) reset(p wal.Position, hs *raftpb.HardState) {
	g.allowed = append(g.allowed, model{hs: hs, start: p})
	must(g.t, g.log.Reset(p, hs))
	g.allowed = g.allowed[len(g.allowed)-1:]
}

// check opens a crashed disk and returns what it holds.
func (g *rig) check(disk vfs.FS, where string) *wal.Recovered {
	g.t.Helper()
	l, r, err := wal.Open(config(disk, 4096))
	if err != nil {
		g.t.Fatalf("%s: Open: %v", where, err)
	}
	must(g.t, l.Close())
	for _, m := range g.allowed {
		if m.matches(r) {
			return r
		}
	}
	g.t.Fatalf("%s: recovered %s, which is none of %d allowed; the last acknowledged: %s", where,
		content(r), len(g.allowed), text(g.allowed[0].hs, g.allowed[0].start, g.allowed[0].ents))
	return nil
}

// workload touches everything the log does, cutting several segments.
func workload(g *rig) {
	data := func(i uint64, n int) string { return strings.Repeat(string(rune('a'+i%26)), n) }
	for i := uint64(1); i <= 8; i++ {
		g.append(hardState(1, 1, i-1), entry(i, 1, data(i, 700)))
		if i%3 != 0 {
			g.sync()
		}
	}
	g.append(hardState(2, 2, 5), entry(7, 2, "x"), entry(8, 2, "y")) // replaces a tail
	g.sync()
	g.append(nil, entry(9, 2, data(9, 9000))) // larger than a segment
	g.append(hardState(2, 2, 8))
	g.sync()
	for i := uint64(10); i <= 14; i++ {
		g.append(nil, entry(i, 3, data(i, 1500)))
		g.sync()
	}
	g.release(9)
	g.append(nil, entry(15, 3, data(15, 3000)), entry(16, 3, ""))
	g.sync()
	g.reset(wal.Position{Index: 100, Term: 4}, hardState(4, 0, 100))
	for i := uint64(101); i <= 106; i++ {
		g.append(hardState(4, 1, i-1), entry(i, 4, data(i, 900)))
		g.sync()
	}
	g.append(nil, entry(107, 4, "closing"))
}

func TestCrashAtEveryOperationLosesNothingSyncedAndInventsNothing(t *testing.T) {
	mem := vfs.NewMem()
	g := &rig{t: t, mem: mem, allowed: []model{{}}}
	crashes := 0
	inject := func(op vfs.Op) error {
		if g.log == nil || !op.Kind.Changes() {
			return nil
		}
		for mode, seeds := range map[vfs.CrashMode]uint64{vfs.CrashDrop: 1, vfs.CrashKeep: 1, vfs.CrashRandom: 6, vfs.CrashTorn: 6} {
			for seed := range seeds {
				where := fmt.Sprintf("before %v of %s (op %d), %v, seed %d", op.Kind, op.Name, op.Seq, mode, seed)
				g.check(mem.Crash(rand.New(rand.NewPCG(seed, uint64(op.Seq))), mode), where)
				crashes++
			}
		}
		return nil
	}
	l, err := wal.Create(config(vfs.NewFault(mem, inject), 4096), md, wal.Position{})
	must(t, err)
	g.log = l
	workload(g)
	must(t, l.Close())
	g.allowed = g.allowed[len(g.allowed)-1:]
	g.check(mem.Crash(nil, vfs.CrashDrop), "at the end")
	t.Logf("%d crashes", crashes)
}

// TestCrashBetweenWriteAndSyncOfALargeBatchIsATornTail has batches in a file, and segments
// cut, with nothing synced in between: what is appended exceeds the buffer.
func TestCrashBetweenWriteAndSyncOfALargeBatchIsATornTail(t *testing.T) {
	for _, segment := range []int64{4096, 1 << 16} {
		t.Run(fmt.Sprint("segment=", segment), func(t *testing.T) {
			mem := vfs.NewMem()
			g := &rig{t: t, mem: mem, allowed: []model{{}}}
			inject := func(op vfs.Op) error {
				if g.log == nil || !op.Kind.Changes() {
					return nil
				}
				for seed := range uint64(12) {
					for _, mode := range []vfs.CrashMode{vfs.CrashDrop, vfs.CrashKeep, vfs.CrashRandom, vfs.CrashTorn} {
						g.check(mem.Crash(rand.New(rand.NewPCG(seed, uint64(op.Seq))), mode), fmt.Sprintf("op %d, %v, seed %d", op.Seq, mode, seed))
					}
				}
				return nil
			}
			l, err := wal.Create(wal.WithFlushAt(config(vfs.NewFault(mem, inject), segment), 1000), md, wal.Position{})
			must(t, err)
			g.log = l
			for i := uint64(1); i <= 12; i++ {
				g.append(hardState(1, 1, i-1), entry(i, 1, strings.Repeat("x", 1500)))
				if i == 2 || i == 9 {
					g.sync()
				}
			}
			must(t, l.Close())
		})
	}
}

func TestCrashDuringRepairFindsTheSameLogAgain(t *testing.T) {
	mem := vfs.NewMem()
	g := &rig{t: t, mem: mem, allowed: []model{{}}}
	rng := rand.New(rand.NewPCG(7, 7))
	inject := func(op vfs.Op) error {
		if g.log == nil || !op.Kind.Changes() || rng.IntN(3) > 0 {
			return nil
		}
		for _, mode := range []vfs.CrashMode{vfs.CrashKeep, vfs.CrashRandom, vfs.CrashTorn} {
			crashed := mem.Crash(rng, mode)
			want := ""
			again := func(inner vfs.Op) error {
				if inner.Kind.Changes() {
					for _, mode := range []vfs.CrashMode{vfs.CrashDrop, vfs.CrashRandom, vfs.CrashTorn} {
						r := g.check(crashed.Crash(rng, mode), fmt.Sprintf("op %d, then op %d of repair", op.Seq, inner.Seq))
						if want == "" {
							want = content(r)
						}
						if got := content(r); got != want {
							t.Fatalf("op %d, then op %d of repair: got %s, want %s as before", op.Seq, inner.Seq, got, want)
						}
					}
				}
				return nil
			}
			g.check(vfs.NewFault(crashed, again), "repair itself")
		}
		return nil
	}
	l, err := wal.Create(config(vfs.NewFault(mem, inject), 4096), md, wal.Position{})
	must(t, err)
	g.log = l
	workload(g)
	must(t, l.Close())
}

func TestCrashDuringCreateLeavesNoLogOrAnEmptyOne(t *testing.T) {
	mem := vfs.NewMem()
	inject := func(op vfs.Op) error {
		for seed := range uint64(8) {
			for _, mode := range []vfs.CrashMode{vfs.CrashDrop, vfs.CrashRandom, vfs.CrashTorn, vfs.CrashKeep} {
				cfg := config(mem.Crash(rand.New(rand.NewPCG(seed, 0)), mode), 4096)
				l, r, err := wal.Open(cfg)
				if errors.Is(err, wal.ErrNotExist) {
					l, err = wal.Create(cfg, md, wal.Position{Index: 3, Term: 1})
				} else if err == nil && content(r) != "none (3,1)" {
					t.Fatalf("got %s", content(r))
				}
				if err != nil {
					t.Fatalf("before %+v, %v: %v", op, mode, err)
				}
				must(t, l.Close())
			}
		}
		return nil
	}
	l, err := wal.Create(config(vfs.NewFault(mem, inject), 4096), md, wal.Position{Index: 3, Term: 1})
	must(t, err)
	must(t, l.Close())
}

// TestRandomHistoriesWithRestartsMatchTheModel drives random operations with
// random crashes in between; each restart goes on where the crash left off.
func TestRandomHistoriesWithRestartsMatchTheModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 99))
			g := &rig{t: t, mem: vfs.NewMem(), allowed: []model{{}}}
			var err error
			g.log, err = wal.Create(g.config(), md, wal.Position{})
			must(t, err)
			term := uint64(1)
			for step := range 200 {
				m := g.now()
				last := m.last()
				switch p := rng.IntN(100); {
				case p < 55:
					first := last.Index + 1
					if low := max(m.start.Index, m.released) + 1; rng.IntN(6) == 0 && last.Index > low {
						first = low + rng.Uint64N(last.Index-low)
						term++
					}
					var ents []*raftpb.Entry
					for i := range rng.Uint64N(4) {
						ents = append(ents, entry(first+i, term, strings.Repeat("z", rng.IntN(1500))))
					}
					var hs *raftpb.HardState
					if rng.IntN(2) == 0 {
						hs = hardState(term, rng.Uint64N(3), last.Index)
					}
					g.append(hs, ents...)
				case p < 85:
					g.sync()
				case p < 90 && last.Index > m.start.Index && len(g.allowed) == 1:
					g.release(max(m.released, m.start.Index+rng.Uint64N(last.Index-m.start.Index)))
				case p < 92:
					term++
					g.reset(wal.Position{Index: last.Index + rng.Uint64N(50), Term: term}, hardState(term, 0, last.Index))
				case p < 97:
					mode := vfs.CrashMode(rng.IntN(4))
					g.mem = g.mem.Crash(rng, mode)
					var r *wal.Recovered
					g.log, r, err = wal.Open(g.config())
					if err != nil {
						t.Fatalf("step %d, %v: %v", step, mode, err)
					}
					g.adopt(r, fmt.Sprintf("step %d, %v", step, mode))
				default:
					must(t, g.log.Close())
					g.allowed = g.allowed[len(g.allowed)-1:]
					var r *wal.Recovered
					g.log, r, err = wal.Open(g.config())
					must(t, err)
					g.adopt(r, fmt.Sprintf("step %d, clean restart", step))
				}
			}
			must(t, g.log.Close())
		})
	}
}

// config of the random histories: small segments, and a small buffer.
func (g *rig) config() wal.Config { return wal.WithFlushAt(config(g.mem, 8192), 3000) }

// adopt makes what was recovered the only allowed content, if it is one of them.
func (g *rig) adopt(r *wal.Recovered, where string) {
	g.t.Helper()
	for _, m := range g.allowed {
		if m.matches(r) {
			g.allowed = []model{{hs: r.HardState, start: r.Start, ents: r.Entries, released: m.released}}
			return
		}
	}
	g.t.Fatalf("%s: recovered %s, allowed at least %s", where, content(r), text(g.allowed[0].hs, g.allowed[0].start, g.allowed[0].ents))
}

// TestWhatOpenReturnedIsDurable has a tail that only the page cache holds, as a
// killed process or a failed sync leaves it: Open may return it only if no later
// power cut can take it away.
func TestWhatOpenReturnedIsDurable(t *testing.T) {
	for _, size := range []int{10, 1000} { // the old segment is replaced, or kept
		mem := vfs.NewMem()
		cfg := wal.WithFlushAt(config(mem, 4096), 1)
		l, err := wal.Create(cfg, md, wal.Position{})
		must(t, err)
		data := strings.Repeat("x", size)
		must(t, l.Append(nil, []*raftpb.Entry{entry(1, 1, data)}), l.Sync())
		must(t, l.Append(nil, []*raftpb.Entry{entry(2, 1, data)})) // written, never synced, never closed

		_, r := reopen(t, cfg)
		if len(r.Entries) != 2 {
			t.Fatalf("size %d: got %s, want 2 entries", size, content(r))
		}
		want := content(r)
		l, r = reopen(t, config(mem.Crash(nil, vfs.CrashDrop), 4096))
		if got := content(r); got != want {
			t.Errorf("size %d: after a power cut: got %s, want %s", size, got, want)
		}
		must(t, l.Close())
	}
}
