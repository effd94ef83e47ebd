package simtest

import (
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/machine"
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

// The removed member goes on answering for a moment: what it acknowledged last
// must be seen by reads of the one that is alone now, even if that applies slowly.
func TestALoneMemberReadsWhatTheRemovedOneAcknowledged(t *testing.T) {
	removed, reads := false, 0
	w := prepare(t, Options{
		Seed: 1, Members: 2, Clients: 1, Duration: 3 * time.Second, shape: small(), think: 10 * time.Second,
		script: func(w *World) {
			campaign(w)
			const at = 2 * time.Second
			w.after(at, func() {
				alone, leaves := w.members[0], w.members[1]
				alone.lag = 20 * time.Millisecond
				w.operator.request(leaves, membership.Change{Op: membership.Remove, Member: membership.Member{ID: leaves.id}}, func(q *request) { removed = q.accepted() })
			})
			w.after(at+5*time.Millisecond, func() {
				leaves := w.members[1]
				id := leaves.drawID()
				leaves.waiting[id] = func(o outcome) { w.acked = max(w.acked, o.res.Rev) }
				leaves.propose(id, machine.Put, &pb.PutRequest{Key: []byte("last"), Value: []byte("word")})
			})
			for i := range 60 {
				w.after(at+time.Duration(i)*time.Millisecond, func() {
					alone, floor := w.members[0], w.acked
					id := alone.drawID()
					alone.waiting[id] = func(o outcome) {
						reads++
						w.truth.read(w, alone, o.view, floor, []string{"last"})
					}
					alone.read(id)
				})
			}
		},
	})
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	if !removed || reads != 60 || w.acked < 2 {
		t.Fatalf("removed: %v, %d reads, revision %d acknowledged", removed, reads, w.acked)
	}
}
