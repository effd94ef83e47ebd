package simtest

import (
	"time"

	"github.com/musterhq/muster/core/node"
)

// link is the way from one member to another.
type link struct {
	cut       bool
	drop      float64
	duplicate float64
	lo, hi    time.Duration
}

type network struct {
	w     *World
	links [][]link // by slots
	spare []*delivery

	at      map[string]*member // who listens at a URL
	changes int                // of that
}

// delivery is a frame on its way. There are so many that they are used again.
type delivery struct {
	n        *network
	from, to *member
	urls     []string // where the sender says it is
	frame    []byte
	lives    int
	arrive   func() // its method, made once
}

func (n *network) init(w *World) { n.w, n.at = w, map[string]*member{} }

// grow connects one more host.
func (n *network) grow() {
	n.links = append(n.links, make([]link, len(n.links)))
	for i := range n.links {
		n.links[i] = append(n.links[i], good())
	}
	for j := range n.links {
		n.links[len(n.links)-1][j] = good()
	}
}

func good() link { return link{lo: 100 * time.Microsecond, hi: 2 * time.Millisecond} }

// repair makes all links good.
func (n *network) repair() {
	for i := range n.links {
		for j := range n.links[i] {
			n.links[i][j] = good()
		}
	}
}

// send delivers a frame after a while, or twice, or never.
func (n *network) send(sender, receiver *member, frame []byte) {
	from, to := sender.slot, receiver.slot
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
	for range copies {
		d := n.delivery()
		d.from, d.to, d.frame, d.urls = sender, receiver, frame, sender.known.own
		d.lives = sender.life + receiver.life
		w.after(w.between(l.lo, l.hi), d.arrive)
	}
}

func (n *network) delivery() *delivery {
	if last := len(n.spare) - 1; last >= 0 {
		d := n.spare[last]
		n.spare = n.spare[:last]
		return d
	}
	d := &delivery{n: n}
	d.arrive = d.end
	return d
}

// end hands the frame over, unless the link was cut meanwhile. What is under way
// does not outlive the connection, hence neither process.
func (d *delivery) end() {
	n, from, to, urls, frame := d.n, d.from, d.to, d.urls, d.frame
	alive := !n.links[from.slot][to.slot].cut && from.life+to.life == d.lives
	d.frame = nil
	n.spare = append(n.spare, d)
	if alive {
		to.receive(from, urls, frame)
	}
}

// frames is memory for frames, which nobody keeps for long.
type frames struct{ chunk []byte }

func (f *frames) encode(m *node.Message) ([]byte, error) {
	const chunk, most = 64 << 10, 512
	if cap(f.chunk)-len(f.chunk) < most {
		f.chunk = make([]byte, 0, chunk)
	}
	at := len(f.chunk)
	frame, err := m.AppendTo(f.chunk[at:at:cap(f.chunk)])
	if at+len(frame) <= cap(f.chunk) {
		f.chunk = f.chunk[:at+len(frame)]
	}
	return frame[:len(frame):len(frame)], err
}
