package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// wire is the network between one client process and the members: a proxy for
// each of them, whose connections can stand still, break, or end on one side.
type wire struct {
	Endpoints []string

	wg sync.WaitGroup
	mu struct {
		sync.Mutex
		up, down chan struct{} // closed while bytes flow to, and from, the members
		conns    []*net.TCPConn
		toServer []*net.TCPConn
		closed   bool
	}
}

func flowing() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func newWire(t *testing.T, members []*Member) *wire {
	t.Helper()
	w := &wire{}
	w.mu.up, w.mu.down = flowing(), flowing()
	var listeners []net.Listener
	for _, m := range members {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		w.Endpoints = append(w.Endpoints, l.Addr().String())
		w.wg.Go(func() { w.serve(l, m.Client) })
	}
	t.Cleanup(func() {
		for _, l := range listeners {
			l.Close()
		}
		w.mu.Lock()
		w.mu.closed = true
		w.mu.Unlock()
		w.flow()
		w.cut()
		w.wg.Wait()
	})
	return w
}

func (w *wire) serve(l net.Listener, target string) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		server, err := net.DialTimeout("tcp", target, time.Second)
		if err != nil {
			client.Close()
			continue
		}
		c, s := client.(*net.TCPConn), server.(*net.TCPConn)
		w.mu.Lock()
		if w.mu.closed {
			c.Close()
			s.Close()
		}
		w.mu.conns = append(w.mu.conns, c, s)
		w.mu.toServer = append(w.mu.toServer, s)
		w.mu.Unlock()
		w.wg.Go(func() { w.pump(s, c, func() chan struct{} { return w.mu.up }) })
		w.wg.Go(func() { w.pump(c, s, func() chan struct{} { return w.mu.down }) })
	}
}

// pump copies while bytes may flow in its direction.
func (w *wire) pump(to, from *net.TCPConn, gate func() chan struct{}) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		w.mu.Lock()
		g := gate()
		w.mu.Unlock()
		<-g
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				from.Close()
				return
			}
		}
		if errors.Is(err, io.EOF) {
			_ = to.CloseWrite() // the other direction goes on
			return
		}
		if err != nil {
			to.Close()
			return
		}
	}
}

// stall stops the flow of bytes; connections stay open.
func (w *wire) stall(up, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if up {
		w.mu.up = make(chan struct{})
	}
	if down {
		w.mu.down = make(chan struct{})
	}
}

// flow lets everything through again, what was held first.
func (w *wire) flow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range []*chan struct{}{&w.mu.up, &w.mu.down} {
		select {
		case <-*c:
		default:
			close(*c)
		}
	}
}

// cut breaks all connections.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.mu.conns {
		c.Close()
	}
	w.mu.conns, w.mu.toServer = nil, nil
}

// halfClose ends the direction towards the members: they may still answer.
func (w *wire) halfClose() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.mu.toServer {
		_ = c.CloseWrite()
	}
}

// standstill is a time in which a client process was stopped.
type standstill struct {
	name     string
	from, to time.Duration
}

// nemesis does harm to a cluster and its clients, one fault after the other; only
// stopped clients overlap with others.
type nemesis struct {
	t       *testing.T
	c       *Cluster
	admin   *clientv3.Client
	clients []*recipeClient
	rng     *rand.Rand

	done    map[string]int
	revoked map[int64]bool
	pauses  sync.WaitGroup
	mu      struct {
		sync.Mutex
		stopped     map[*recipeClient]bool
		standstills []standstill
	}
}

// fault is one kind of harm. It returns when it is over, but for a stopped client.
type fault struct {
	name string
	do   func(*nemesis)
}

func recipeFaults() []fault {
	return []fault{
		{"client stopped for longer than its TTL", (*nemesis).stopClient},
		{"leader killed", func(n *nemesis) { n.kill(n.c.Leader(n.t, n.admin)) }},
		{"lease revoked under the holder", (*nemesis).revoke},
		{"member stopped", func(n *nemesis) { n.stop(n.c.Members[n.rng.IntN(len(n.c.Members))]) }},
		{"connections stall", func(n *nemesis) { n.stall(true, true) }},
		{"connections cut", func(n *nemesis) { n.anyClient().wire.cut(); pause(n.between(20, 200)) }},
		{"leader stopped", func(n *nemesis) { n.stop(n.c.Leader(n.t, n.admin)) }},
		{"answers stall, then connections break", func(n *nemesis) { n.stall(false, true); n.anyClient().wire.cut() }},
		{"requests stall", func(n *nemesis) { n.stall(true, false) }},
		{"connections half closed", func(n *nemesis) { n.anyClient().wire.halfClose(); pause(n.between(20, 200)) }},
		{"member killed", func(n *nemesis) { n.kill(n.c.Members[n.rng.IntN(len(n.c.Members))]) }},
	}
}

// between is a random time; faults are shorter if each comes only once.
func (n *nemesis) between(ms, toMS int) time.Duration {
	d := time.Duration(ms+n.rng.IntN(toMS-ms)) * time.Millisecond
	if *recipesFor == 0 {
		d /= 3
	}
	return d
}

func (n *nemesis) anyClient() *recipeClient { return n.clients[n.rng.IntN(len(n.clients))] }

// inflict does each kind of harm once, and then goes on at random until the time is over.
func (n *nemesis) inflict(until time.Time) {
	all := recipeFaults()
	for i := 0; i < len(all) || time.Now().Before(until); i++ {
		f := all[i%len(all)]
		if i >= len(all) {
			f = all[n.rng.IntN(len(all))]
		}
		f.do(n)
		n.done[f.name]++
		pause(n.between(50, 300))
	}
	n.pauses.Wait()
}

func (n *nemesis) kill(m *Member) {
	m.Kill()
	pause(n.between(10, 500))
	m.Start(n.t)
}

func (n *nemesis) stop(m *Member) {
	m.Pause(n.t)
	pause(n.between(200, 1500))
	m.Cont(n.t)
}

func (n *nemesis) stall(up, down bool) {
	w := n.anyClient().wire
	w.stall(up, down)
	pause(n.between(200, 2000))
	w.flow()
}

// stopClient stops a client process that holds something until its lease has
// ended, while other harm goes on.
func (n *nemesis) stopClient() {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		c := n.anyClient()
		n.mu.Lock()
		stopped := n.mu.stopped[c]
		n.mu.Unlock()
		if stopped {
			return
		}
		from := clock()
		c.signal(n.t, syscall.SIGSTOP)
		// Standing still it can't leave any more, once what it had sent has arrived.
		if lease := n.front(c.spec.Line); lease == 0 || !strings.Contains(c.Log(), fmt.Sprintf(`"lease":%d`, lease)) {
			c.signal(n.t, syscall.SIGCONT)
			pause(n.between(1, 50))
			continue
		}
		n.mu.Lock()
		n.mu.stopped[c] = true
		n.mu.Unlock()
		d := recipeTTL + n.between(300, 3000)
		n.pauses.Go(func() {
			pause(d)
			to := clock()
			c.signal(n.t, syscall.SIGCONT)
			n.mu.Lock()
			defer n.mu.Unlock()
			delete(n.mu.stopped, c)
			n.mu.standstills = append(n.mu.standstills, standstill{c.spec.Name, from, to})
		})
		return
	}
	n.t.Errorf("no client holds anything for %v", patience)
}

// front is the lease of whoever stands first in a line, 0 if nobody does or nobody can tell.
func (n *nemesis) front(line string) int64 {
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Second)
	defer cancel()
	r, err := n.admin.Get(ctx, line+"/", clientv3.WithFirstCreate()...)
	if err != nil || len(r.Kvs) == 0 {
		return 0
	}
	return r.Kvs[0].Lease
}

// revoke takes the lease of whoever stands first in a line away.
func (n *nemesis) revoke() {
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	line := n.anyClient().spec.Line
	for ctx.Err() == nil {
		lease := n.front(line)
		if lease == 0 {
			continue
		}
		n.revoked[lease] = true // also if nobody can tell whether it was
		if _, err := n.admin.Revoke(ctx, clientv3.LeaseID(lease)); err == nil {
			return
		}
	}
	n.t.Errorf("nobody stands in %s for %v", line, patience)
}

func (n *nemesis) String() string {
	var s string
	for _, f := range recipeFaults() {
		s += fmt.Sprintf("  %4d × %s\n", n.done[f.name], f.name)
	}
	return s
}

// stoppedWhile is the time, if there is one, that a process was stopped for after
// a moment and before another.
func stoppedWhile(all []standstill, name string, after, before time.Duration) bool {
	return slices.ContainsFunc(all, func(s standstill) bool {
		return s.name == name && after < s.from && s.to <= before
	})
}
