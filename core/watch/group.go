package watch

import "github.com/musterhq/muster/core/interval"

// group finds the watchers of a key: by map for those that watch exactly one,
// by interval tree for ranges. Watchers of equal ranges share a bucket, so a
// thousand watchers of one prefix cost one tree node.
type group struct {
	points map[string]*bucket
	ranges map[interval.Range]*bucket
	tree   interval.Tree[*bucket]
	size   int
}

// bucket holds the watchers of one range. A watcher knows its slot, so that
// leaving is O(1); the order follows from the sequence of adds and removes only.
type bucket struct {
	members []*watcher
	node    *interval.Handle[*bucket] // nil for a single key
}

func (g *group) add(w *watcher) {
	b := g.bucket(w.keys)
	w.home, w.slot = b, len(b.members)
	b.members = append(b.members, w)
	g.size++
}

// bucket finds or makes the bucket of r.
func (g *group) bucket(r interval.Range) *bucket {
	if isPoint(r) {
		b := g.points[r.Begin()]
		if b == nil {
			if g.points == nil {
				g.points = make(map[string]*bucket)
			}
			b = new(bucket)
			g.points[r.Begin()] = b
		}
		return b
	}
	b := g.ranges[r]
	if b == nil {
		if g.ranges == nil {
			g.ranges = make(map[interval.Range]*bucket)
		}
		b = new(bucket)
		b.node = g.tree.Insert(r, b)
		g.ranges[r] = b
	}
	return b
}

func (g *group) remove(w *watcher) {
	b, last := w.home, len(w.home.members)-1
	moved := b.members[last]
	b.members[w.slot], moved.slot = moved, w.slot
	b.members[last] = nil
	b.members = b.members[:last]
	w.home, w.slot = nil, 0
	g.size--
	switch {
	case last > 0:
	case b.node == nil:
		delete(g.points, w.keys.Begin())
	default:
		g.tree.Delete(b.node)
		delete(g.ranges, w.keys)
	}
}

// visit calls f for each watcher of key, each once: a watcher is in one bucket.
// f must not change the group.
func (g *group) visit(key []byte, f func(*watcher)) {
	if b := g.points[string(key)]; b != nil {
		for _, w := range b.members {
			f(w)
		}
	}
	if g.tree.Len() == 0 {
		return
	}
	g.tree.VisitPoint(key, func(h *interval.Handle[*bucket]) bool {
		for _, w := range h.Value.members {
			f(w)
		}
		return true
	})
}

// isPoint tells whether r is the range of exactly one key.
func isPoint(r interval.Range) bool {
	end, ok := r.End()
	n := len(r.Begin())
	return ok && len(end) == n+1 && end[:n] == r.Begin() && end[n] == 0
}
