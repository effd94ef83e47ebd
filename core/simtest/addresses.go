package simtest

import (
	"maps"
	"slices"
	"time"

	"github.com/musterhq/muster/core/transport"
)

// addresses is what a member knows of where the others are: core/transport's
// rules, without its connections.
type addresses struct {
	peers map[uint64][]string // as the members' list has them
	said  map[uint64][]string // where senders said they are: strangers, and those that moved
	own   []string            // what others are told
	ids   []uint64            // scratch of greet

	found []*member // by dial, while what it goes by is
	as    int       // network.changes then
}

// updatePeers follows the members' list; see transport.SetPeers.
func (m *member) updatePeers() {
	m.known.peers, m.known.found = m.n.Peers(), nil
	if own := m.known.peers[m.id]; own != nil {
		m.known.own = own
	}
	maps.DeleteFunc(m.known.said, func(id uint64, _ []string) bool { return m.n.Standing(id) == transport.Removed })
}

// dial finds the host at which a member is, nil if nobody answers there.
func (m *member) dial(to uint64) *member {
	k, n := &m.known, &m.w.net
	if k.as != n.changes {
		k.found, k.as = nil, n.changes
	}
	for _, r := range k.found {
		if r.id == to && r.up() {
			return r
		}
	}
	r := m.lookUp(to)
	if r != nil && !slices.Contains(k.found, r) {
		k.found = append(k.found, r)
	}
	return r
}

func (m *member) lookUp(to uint64) *member {
	for _, urls := range [...][]string{m.known.peers[to], m.known.said[to]} {
		for _, u := range urls {
			if r := m.w.net.at[u]; r != nil && r.up() && r.id == to {
				return r
			}
		}
	}
	return nil
}

// connectedSince is when both ends were there, on this member's clock. That a link
// is cut shows only in what is not heard any more.
func (m *member) connectedSince(id uint64) (time.Duration, bool) {
	r := m.dial(id)
	if r == nil {
		return 0, false
	}
	return m.clockAt(max(m.boot, r.boot)), true
}

// admits decides over a sender as a transport does over a connection.
func (m *member) admits(from uint64, urls []string) bool {
	switch m.n.Standing(from) {
	case transport.Removed:
		return false
	case transport.Stranger:
		if len(urls) == 0 {
			return false
		}
	}
	m.known.said[from] = urls
	return true
}

// greet says hello to everybody this member knows, as a transport does that is not
// connected: who was removed hears of it even if it has nothing to say.
func (m *member) greet() {
	life := m.life
	for _, known := range [...]map[uint64][]string{m.known.peers, m.known.said} {
		ids := m.known.ids[:0]
		for id := range known {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		m.known.ids = ids
		for _, id := range ids {
			r := m.dial(id)
			if r == nil || r == m || m.w.now < r.pause || m.life != life || !m.w.net.reaches(m, r) {
				continue
			}
			if !r.admits(m.id, m.known.own) && r.n.Standing(m.id) == transport.Removed {
				m.expelled(r)
			}
		}
	}
}

// expelled is what a sender learns from one that knows of its removal.
func (m *member) expelled(by *member) {
	if !m.up() {
		return
	}
	if !m.w.truth.roster.isRemoved(m.id) {
		m.w.fail("%s says that %s was removed, which it was not", by.name, m.name)
	}
	m.outlawed = m.life
	m.leave()
}

// listen makes a host reachable at a URL.
func (n *network) listen(url string, m *member) {
	n.changes++
	n.at[url] = m
	if !slices.Contains(m.urls, url) {
		m.urls = append(m.urls, url)
	}
}

// leave frees a URL.
func (n *network) leave(url string, m *member) {
	n.changes++
	if n.at[url] == m {
		delete(n.at, url)
	}
	m.urls = slices.DeleteFunc(m.urls, func(u string) bool { return u == url })
}

// reaches reports whether a question from one host gets to another and the answer back.
func (n *network) reaches(from, to *member) bool {
	return from == to || !n.links[from.slot][to.slot].cut && !n.links[to.slot][from.slot].cut
}
