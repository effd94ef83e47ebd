package simtest

import "time"

// link is the way from one member to another.
type link struct {
	cut       bool
	drop      float64
	duplicate float64
	lo, hi    time.Duration
}

type network struct {
	w     *World
	links [][]link
}

func (n *network) init(w *World) {
	n.w = w
	n.links = make([][]link, w.opts.Members)
	for i := range n.links {
		n.links[i] = make([]link, w.opts.Members)
	}
	n.repair()
}

// repair makes all links good.
func (n *network) repair() {
	for i := range n.links {
		for j := range n.links[i] {
			n.links[i][j] = link{lo: 100 * time.Microsecond, hi: 2 * time.Millisecond}
		}
	}
}

// send delivers a frame after a while, or twice, or never.
func (n *network) send(from, to int, frame []byte) {
	w, l := n.w, &n.links[from][to]
	w.stats.Messages++
	w.note('m', from<<4|to, frame)
	if l.cut || w.chance(l.drop) {
		return
	}
	copies := 1
	if w.chance(l.duplicate) {
		copies = 2
	}
	// What is under way does not outlive the connection, hence neither process.
	sender, receiver := w.members[from], w.members[to]
	id, lives := sender.id, sender.life+receiver.life
	for range copies {
		w.after(w.between(l.lo, l.hi), func() {
			if !n.links[from][to].cut && sender.life+receiver.life == lives {
				receiver.receive(id, frame)
			}
		})
	}
}
