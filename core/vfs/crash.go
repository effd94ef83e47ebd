package vfs

import "math/rand/v2"

// CrashMode says what a crash leaves of the things that weren't synced.
type CrashMode uint8

const (
	// CrashDrop loses everything unsynced.
	CrashDrop CrashMode = iota
	// CrashRandom keeps a random part: any subset of the sectors, of the
	// directory operations, and any size between the synced one and the last.
	CrashRandom
	// CrashTorn keeps, of each file and directory, a beginning: sectors up to
	// a random one, which is half written; directory operations up to a random one.
	CrashTorn
	// CrashKeep keeps everything: the process died, the machine lived on.
	CrashKeep
)

func (m CrashMode) String() string {
	switch m {
	case CrashDrop:
		return "drop"
	case CrashRandom:
		return "random"
	case CrashTorn:
		return "torn"
	case CrashKeep:
		return "keep"
	}
	return "unknown"
}

// Crash returns the file system a restart would find, all of it durable. m
// itself is untouched and may be crashed again, in another way. Equal seeds
// give equal results. Locks are released.
func (m *Mem) Crash(rng *rand.Rand, mode CrashMode) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := crash{rng: rng, mode: mode, files: make(map[*memFile]*memFile)}
	after := NewMem()
	after.mu.root = c.dir(m.mu.root)
	after.mu.capacity = m.mu.capacity
	return after
}

type crash struct {
	rng   *rand.Rand
	mode  CrashMode
	files map[*memFile]*memFile // a file may have two names after a half-done rename
}

func (c *crash) dir(d *memDir) *memDir {
	left := make(map[string]memNode, len(d.durable))
	for n, node := range d.durable {
		left[n] = node
	}
	prefix := len(d.pending)
	if c.mode == CrashTorn {
		prefix = c.rng.IntN(len(d.pending) + 1)
	}
	for i, op := range d.pending {
		var keep bool
		switch c.mode {
		case CrashDrop:
		case CrashRandom:
			keep = c.rng.IntN(2) == 0
		case CrashTorn:
			keep = i < prefix
		case CrashKeep:
			keep = true
		}
		if keep {
			op.apply(left)
		}
	}
	out := newMemDir()
	for _, n := range names(left) {
		var node memNode
		switch old := left[n].(type) {
		case *memDir:
			node = c.dir(old)
		case *memFile:
			node = c.file(old)
		}
		out.now[n], out.durable[n] = node, node
	}
	return out
}

func (c *crash) file(f *memFile) *memFile {
	if done, ok := c.files[f]; ok {
		return done
	}
	f.shared = true
	out := &memFile{shared: true}
	c.files[f] = out
	switch c.mode {
	case CrashDrop:
		out.now, out.size = f.durable, f.durableSize
	case CrashKeep:
		out.now, out.size = f.now, f.size
	default:
		out.size = f.durableSize
		if lo, hi := min(f.size, f.durableSize), max(f.size, f.durableSize); lo < hi {
			switch c.rng.IntN(3) {
			case 0:
				out.size = lo
			case 1:
				out.size = hi
			default:
				out.size = lo + c.rng.Int64N(hi-lo)
			}
		}
		out.now = c.sectors(f, out.size)
	}
	// Pages of now that aren't in durable belong to the living file, which
	// writes them in place.
	shared := out.now
	out.now = make([]*page, pages(out.size))
	for i := range out.now {
		if i >= len(shared) || shared[i] == nil {
			continue
		}
		p := shared[i]
		if i >= len(f.durable) || f.durable[i] != p {
			cp := *p
			p = &cp
		}
		out.now[i] = p
	}
	if at := out.size % pageSize; at != 0 {
		if last := len(out.now) - 1; out.now[last] != nil {
			cp := *out.now[last]
			clear(cp[at:])
			out.now[last] = &cp
		}
	}
	out.durable = append([]*page(nil), out.now...)
	out.durableSize = out.size
	return out
}

// sectors mixes durable and current pages sector by sector.
func (c *crash) sectors(f *memFile, size int64) []*page {
	out := make([]*page, pages(size))
	copy(out, f.durable)
	type sector struct{ page, at int }
	var changed []sector
	for i := range out {
		was, is := pageOf(f.durable, i), pageOf(f.now, i)
		if was == is {
			continue
		}
		for at := 0; at < pageSize; at += Sector {
			if [Sector]byte(was[at:]) != [Sector]byte(is[at:]) {
				changed = append(changed, sector{i, at})
			}
		}
	}
	end := len(changed)
	if c.mode == CrashTorn {
		end = c.rng.IntN(len(changed) + 1)
	}
	for i, s := range changed {
		n := Sector
		switch {
		case c.mode == CrashRandom && c.rng.IntN(2) == 0, i > end:
			continue
		case c.mode == CrashTorn && i == end:
			n = c.rng.IntN(Sector)
		}
		if was := pageOf(f.durable, s.page); out[s.page] == nil || s.page < len(f.durable) && out[s.page] == f.durable[s.page] {
			cp := *was
			out[s.page] = &cp
		}
		copy(out[s.page][s.at:s.at+n], pageOf(f.now, s.page)[s.at:])
	}
	return out
}

// pageOf returns page i, or zeros.
func pageOf(pages []*page, i int) *page {
	if i < len(pages) && pages[i] != nil {
		return pages[i]
	}
	return new(page)
}
