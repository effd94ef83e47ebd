package rpc

import (
	"context"
	"net"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc/peer"
)

// turnstile has connections whose requests were just refused take turns. A crowd
// that asks again at once would otherwise keep a goroutine a connection ready to
// run, and whoever renews a lease or leads a term waits behind all of them at
// each step of his way. Connections that are not refused never meet it.
type turnstile struct{ turns chan struct{} }

const (
	// turnBytes is how much a refused connection reads in a turn: some dozens of requests.
	turnBytes = 8 << 10
	// longestTurn ends a turn that goes on because the client does not take its answers.
	longestTurn = 100 * time.Millisecond
)

// newTurnstile leaves half of the processors to everybody else.
func newTurnstile() *turnstile {
	return &turnstile{turns: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
}

// turnListener wraps the connections of another.
type turnListener struct {
	net.Listener
	turnstile *turnstile
}

func (l turnListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	switch c.RemoteAddr().(type) {
	case *net.TCPAddr, *net.UnixAddr:
		return &turnConn{Conn: c, turnstile: l.turnstile, gone: make(chan struct{})}, nil
	}
	return c, nil // of this process: services know it by its address
}

// turnConn is one connection. Its refused and took belong to the goroutine that reads it.
type turnConn struct {
	net.Conn
	turnstile *turnstile
	refused   bool // a request, since the last Read
	took      bool // a turn, which may have ended by itself

	mu   sync.Mutex // guards the fields below
	has  bool       // it is this connection's turn
	turn int        // counts them, for the timer of an earlier one to know

	once sync.Once
	gone chan struct{} // closed with the connection
}

// Read ends the turn, if there is one, and waits for the next if it has to.
func (c *turnConn) Read(b []byte) (int, error) {
	if c.took {
		c.took = false
		c.end()
	}
	if !c.refused {
		return c.Conn.Read(b)
	}
	c.refused = false
	n, err := c.Conn.Read(b[:min(len(b), turnBytes)])
	if err == nil {
		c.await()
	}
	return n, err
}

func (c *turnConn) await() {
	select {
	case c.turnstile.turns <- struct{}{}:
	case <-c.gone:
		return
	}
	c.took = true
	c.mu.Lock()
	c.has = true
	c.turn++
	turn := c.turn
	c.mu.Unlock()
	time.AfterFunc(longestTurn, func() { c.endTurn(turn) })
	select {
	case <-c.gone: // Close may have come before the turn
		c.end()
	default:
	}
}

func (c *turnConn) end() {
	c.mu.Lock()
	turn := c.turn
	c.mu.Unlock()
	c.endTurn(turn)
}

func (c *turnConn) endTurn(turn int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.has && c.turn == turn {
		c.has = false
		<-c.turnstile.turns
	}
}

func (c *turnConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	c.end()
	return c.Conn.Close()
}

// RemoteAddr leads from a call's peer to its connection, which grpc doesn't show otherwise.
func (c *turnConn) RemoteAddr() net.Addr { return turnAddr{c.Conn.RemoteAddr(), c} }

type turnAddr struct {
	net.Addr
	conn *turnConn
}

// noteRefusal has the connection of a refused call wait for its turn.
func noteRefusal(ctx context.Context) {
	if p, ok := peer.FromContext(ctx); ok {
		if a, ok := p.Addr.(turnAddr); ok {
			a.conn.refused = true
		}
	}
}
