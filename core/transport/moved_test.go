package transport

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
)

// movers are members 1, which moves, and 2, which knows 1 as far as a test says.
type movers struct {
	a, b   *Transport
	ha, hb *inbox
	// Where 1 is reached, where nobody is, and 2.
	is, was, other string
}

// newMovers starts both; change is for member 2's configuration.
func newMovers(t *testing.T, strict bool, change func(*Config)) *movers {
	t.Helper()
	la, lb, was := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	was.Close()
	m := &movers{ha: newInbox(), hb: newInbox(), is: urlOf(la), was: urlOf(was), other: urlOf(lb)}
	m.hb.strict = strict
	m.a = open(t, 1, 7, m.ha, la)
	cfg := Config{Listeners: []net.Listener{lb}, Self: 2, ClusterID: 7, Handler: m.hb}
	if change != nil {
		change(&cfg)
	}
	m.b = Open(cfg)
	t.Cleanup(m.b.Close)
	return m
}

// at tells member 1 where it is itself.
func (m *movers) at(urls ...string) { m.a.SetPeers(map[uint64][]string{1: urls, 2: {m.other}}) }

// knows tells member 2 where 1 is, or nothing of it.
func (m *movers) knows(urls ...string) {
	peers := map[uint64][]string{2: {m.other}}
	if len(urls) > 0 {
		peers[1] = urls
	}
	m.b.SetPeers(peers)
}

func (m *movers) hears(t *testing.T, what string) {
	t.Helper()
	sendUntilUp(t, m.a, 2, what)
	m.hb.want(t, what)
}

func (m *movers) answers(t *testing.T, what string) {
	t.Helper()
	sendUntilUp(t, m.b, 1, what)
	m.ha.want(t, what)
}

func TestAStrangerThatSaysWhereItIsReachedIsAnswered(t *testing.T) {
	m := newMovers(t, true, nil)
	m.at(m.is)
	m.hears(t, "you lag behind")
	m.answers(t, "now I know you")
	m.knows() // as far as it goes
	m.answers(t, "still")
}

// What a member away knows of where the leader is may be of the past, and the news
// of it would only come by its answers.
func TestAMemberThatMovedIsAnsweredByOneThatKnowsOnlyWhereItWas(t *testing.T) {
	m := newMovers(t, false, nil)
	m.knows(m.was)
	m.at(m.is)
	m.hears(t, "I have moved")
	m.answers(t, "so I see")
}

// It need not restart for that: it may be reached through somebody who is told elsewhere.
func TestAMemberThatMovesTellsThoseItIsConnectedTo(t *testing.T) {
	m := newMovers(t, false, nil)
	m.knows(m.was)
	m.at(m.was)
	m.hears(t, "before")
	if m.b.Send(1, []byte("lost")) {
		t.Fatal("a peer that is nowhere was sent to")
	}
	since := m.a.ActiveSince(2)
	m.at(m.was, m.is)
	m.answers(t, "so I see")
	if now := m.a.ActiveSince(2); now != since {
		t.Fatalf("the stream has been up since %v, and before it moved since %v", now, since)
	}
}

func TestAMemberThatMovesTellsThemAgainWhoHadNoRoom(t *testing.T) {
	m := newMovers(t, false, func(c *Config) { c.MaxConns = 2 })
	m.knows(m.was)
	m.at(m.was)
	m.hears(t, "before")
	other, err := net.Dial("tcp", strings.TrimPrefix(m.other, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { m.b.mu.Lock(); defer m.b.mu.Unlock(); return len(m.b.mu.conns) == 2 })
	m.at(m.was, m.is)
	p := m.a.mu.peers[2]
	eventually(t, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.mu.greeting && !p.mu.stale }) // it tries
	other.Close()
	m.answers(t, "so I see")
}

// A member that has just joined has no state: whom it was told of are strangers to it.
func TestAMemberWithoutStateAnswersOneThatMoved(t *testing.T) {
	m := newMovers(t, true, nil)
	m.knows(m.was)
	m.at(m.is)
	m.hears(t, "I have moved")
	m.answers(t, "so I see")
}

func TestAStrangerThatRestartsElsewhereIsAnswered(t *testing.T) {
	m := newMovers(t, true, nil)
	m.knows()
	m.at(m.is)
	m.hears(t, "before")
	m.answers(t, "welcome")
	m.a.Close()
	eventually(t, func() bool { return m.b.ActiveSince(1).IsZero() })
	moved := listen(t, "127.0.0.1:0")
	m.ha = newInbox()
	m.a = open(t, 1, 7, m.ha, moved)
	m.at(urlOf(moved))
	m.answers(t, "there you are")
}

// A member may be connected to before it could tell its transport of anybody.
func TestAHelloThatWaitsForAStartIsHeard(t *testing.T) {
	was := listen(t, "127.0.0.1:0")
	was.Close()
	for range 20 {
		la, lb := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
		ha, hb := newInbox(), newInbox()
		a := open(t, 1, 7, ha, la)
		a.SetPeers(map[uint64][]string{1: {urlOf(la)}, 2: {urlOf(lb)}})
		b := Open(Config{
			Listeners: []net.Listener{lb}, Self: 2, ClusterID: 7, Handler: hb,
			Peers: map[uint64][]string{1: {urlOf(was)}, 2: {urlOf(lb)}},
		})
		t.Cleanup(b.Close)
		sendUntilUp(t, b, 1, "so I see")
		ha.want(t, "so I see")
	}
}

// Of hellos that waited together the one that is read last may be the oldest.
func TestAnOldHelloDoesNotHideANewerOne(t *testing.T) {
	p := &peer{}
	p.mu.urls = []string{"http://list:1"}
	p.heardFrom([]string{"http://new:1", "http://list:1"})
	p.heardFrom([]string{"http://old:1"})
	if got, want := p.urls(), []string{"http://list:1", "http://old:1", "http://new:1"}; !slices.Equal(got, want) {
		t.Fatalf("it is looked for at %v, want %v", got, want)
	}
	for i := range 100 {
		p.heardFrom([]string{fmt.Sprintf("http://h:%d", i)})
	}
	if got := p.urls(); len(got) > 10 || !slices.Contains(got, "http://h:99") || !slices.Contains(got, "http://h:98") {
		t.Fatalf("after many moves it is looked for at %v", got)
	}
}

func TestAHelloHasRoomForTheFirstURLs(t *testing.T) {
	h := hello{kind: streamConn, cluster: 7, from: 1, to: 2}
	for i := range 1000 {
		h.urls = append(h.urls, fmt.Sprintf("http://host-%d:2380", i))
	}
	got, err := readHello(bytes.NewReader(h.encode()))
	if err != nil || len(got.urls) < 100 || !slices.Equal(got.urls, h.urls[:len(got.urls)]) {
		t.Fatalf("%d URLs arrived: %v", len(got.urls), err)
	}
	h.urls = []string{strings.Repeat("x", 5000)}
	if got, err := readHello(bytes.NewReader(h.encode())); err != nil || len(got.urls) != 0 {
		t.Fatalf("one URL without end: %v, %v", got.urls, err)
	}
}
