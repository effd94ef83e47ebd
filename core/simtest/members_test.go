package simtest

import (
	"testing"
	"time"

	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/node"
)

// campaign has the first member become leader at once.
func campaign(w *World) {
	w.after(5*time.Millisecond, func() { w.members[0].step(func(s *node.Stepper) { s.Campaign() }) })
}

// A frame may come twice: a change that was taken must not be taken again, nor
// must its copy have the asking member told that it was refused.
func TestACopyOfAForwardedChangeIsNeitherTakenNorCalledRefused(t *testing.T) {
	var asked *request
	w := prepare(t, Options{
		Seed: 1, Members: 3, Clients: 1, Duration: 3 * time.Second, shape: small(),
		script: func(w *World) {
			campaign(w)
			for i := range w.net.links {
				for j := range w.net.links[i] {
					w.net.links[i][j].duplicate, w.net.links[i][j].hi = 1, 50*time.Millisecond
				}
			}
			w.after(2*time.Second, func() {
				m := w.members[2]
				c := membership.Change{Op: membership.UpdatePeer, Member: membership.Member{ID: m.id, PeerURLs: []string{"http://elsewhere:2380"}}}
				w.net.listen("http://elsewhere:2380", m)
				w.operator.request(m, c, func(q *request) { asked = q })
			})
		},
	})
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	if asked == nil || !asked.accepted() {
		t.Fatalf("the change came to %+v", asked)
	}
}
