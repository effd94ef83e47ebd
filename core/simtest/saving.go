package simtest

import (
	"bytes"
	"context"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/node"
)

// How a member's checkpoints come about: its own, and those a leader sends.

// checkpoint saves the view published now, a while later: writing takes time, and
// entries are applied meanwhile.
func (m *member) checkpoint() {
	v, life := m.n.View(), m.life
	m.w.after(m.w.between(0, 50*time.Millisecond), func() { m.do(life, func() { m.save(v) }) })
}

// save writes a view and lets the log go that it covers. That a checkpoint
// fails is not the member's end; that the log does is.
func (m *member) save(v *machine.View) {
	m.w.stats.Seen["checkpoint"]++
	m.w.note('p', m.slot, nil)
	before := m.n.Checkpoints.Oldest()
	err := m.n.Save(context.Background(), v, nil)
	if err != nil && !m.dead {
		m.w.stats.Seen["checkpoint failed"]++
		if !m.disk.hurt {
			m.w.fail("%s: checkpoint: %v", m.name, err)
		}
		return
	}
	if m.n.Checkpoints.Oldest() != before && v.Index > m.installed {
		m.savesSince++
	}
	if err == nil && !m.writing {
		err = m.n.ReleaseLog()
	}
	if err != nil {
		m.die(err)
	}
}

func (m *member) sendSnapshot(announce *raftpb.Message) {
	r, life := m.dial(announce.GetTo()), m.life
	report := func(ok bool) {
		m.do(life, func() { m.step(func(s *node.Stepper) { s.SnapshotSent(announce.GetTo(), ok) }) })
	}
	v := m.n.Offered(announce)
	if v == nil || r == nil {
		m.w.after(time.Millisecond, func() { report(false) })
		return
	}
	m.w.stats.Seen["checkpoint sent"]++
	takes := m.w.between(5*time.Millisecond, 800*time.Millisecond)
	if m.w.transfer != 0 {
		takes = m.w.transfer
	}
	m.w.after(takes, func() {
		from := m.id
		if l := m.w.net.links[m.slot][r.slot]; l.cut || m.w.chance(l.drop) || !r.up() || r.w.now < r.pause || m.life != life || !m.up() || !r.admits(m.id, m.known.own) {
			report(false)
			return
		}
		var body bytes.Buffer
		if err := node.WriteSnapshot(&body, v); err != nil {
			m.w.fail("write a checkpoint for %s: %v", r.name, err)
			return
		}
		ok := r.install(from, announce, body.Bytes())
		report(ok)
	})
}

// install takes a checkpoint from a peer and reports whether it is in place.
func (m *member) install(from uint64, announce *raftpb.Message, body []byte) bool {
	m.w.note('i', m.slot, body)
	news := !m.n.Has(announce)
	if news {
		m.savesSince = 0
	}
	if !m.w.noBreaks && m.w.chance(0.1) {
		body = body[:m.w.rng.IntN(len(body))] // the connection broke
	}
	err := m.n.Install(context.Background(), announce, bytes.NewReader(body))
	switch {
	case err != nil && m.dead:
		m.die(err)
	case err == nil:
		m.w.stats.Seen["checkpoint received"]++
		if news {
			m.installed = announce.GetSnapshot().GetMetadata().GetIndex()
		}
		if f := m.w.onInstall; f != nil {
			f(m)
		}
		if m.up() {
			m.step(func(s *node.Stepper) { s.Receive(from, node.RaftMessage(announce)) })
		}
	}
	return err == nil
}
