package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// preface is how every HTTP/2 connection begins (RFC 9113, 3.4). No
	// HTTP/1 request does: PRI is reserved for it.
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	// sniffTimeout is how long a connection may keep silent about what it is.
	sniffTimeout = 10 * time.Second
	// acceptBackoff is the longest pause after a failed accept.
	acceptBackoff = time.Second
)

// portMux shares a port between gRPC and HTTP/1: each connection is told apart
// by its first bytes, on a goroutine of its own, so that a silent or a garbled
// one holds up nobody. gRPC connections go to grpc's own transport, which is a
// good deal faster than net/http's HTTP/2.
type portMux struct {
	log        *slog.Logger
	slots      chan struct{} // one a connection
	grpc, http *connQueue
	received   prometheus.Counter
	sent       prometheus.Counter
	timeout    time.Duration

	wg sync.WaitGroup
	mu struct {
		sync.Mutex
		closed    bool
		listeners []net.Listener
		sniffing  map[net.Conn]struct{}
	}
}

func newPortMux(log *slog.Logger, maxConns int, addr net.Addr, received, sent prometheus.Counter) *portMux {
	m := &portMux{
		log: log, slots: make(chan struct{}, maxConns), timeout: sniffTimeout,
		grpc: newConnQueue(addr), http: newConnQueue(addr), received: received, sent: sent,
	}
	m.mu.sniffing = map[net.Conn]struct{}{}
	return m
}

// serve accepts from lis until close.
func (m *portMux) serve(lis net.Listener) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		lis.Close()
		return
	}
	m.mu.listeners = append(m.mu.listeners, lis)
	m.wg.Go(func() { m.accept(lis) })
}

func (m *portMux) accept(lis net.Listener) {
	pause := time.Duration(0)
	for {
		conn, err := lis.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, most likely: others may close theirs.
			pause = min(max(2*pause, 5*time.Millisecond), acceptBackoff)
			m.log.Warn("cannot accept client connections", "error", err, "retry-in", pause)
			select {
			case <-m.grpc.done:
				return
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		select {
		case m.slots <- struct{}{}:
		default:
			m.log.Warn("rejected connection on client endpoint", "remote-addr", conn.RemoteAddr().String(),
				"error", "too many connections", "limit", cap(m.slots))
			conn.Close()
			continue
		}
		m.wg.Go(func() { m.route(&clientConn{Conn: conn, mux: m}) })
	}
}

// route hands a connection to whom it is for.
func (m *portMux) route(c *clientConn) {
	if !m.watch(c) {
		c.Close()
		return
	}
	isHTTP2, err := c.sniff(m.timeout)
	m.unwatch(c)
	if err != nil {
		// A probe that connects and leaves, a silent client, a port scanner.
		m.log.Debug("rejected connection on client endpoint", "remote-addr", c.RemoteAddr().String(), "error", err)
		c.Close()
		return
	}
	to := m.http
	if isHTTP2 {
		to = m.grpc
	}
	if !to.put(c) {
		c.Close()
	}
}

// watch remembers a connection nobody else knows yet, for close to end it.
func (m *portMux) watch(c net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.mu.closed {
		m.mu.sniffing[c] = struct{}{}
	}
	return !m.mu.closed
}

func (m *portMux) unwatch(c net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.mu.sniffing, c)
}

// close stops accepting. Connections already handed over are their server's.
func (m *portMux) close() {
	m.mu.Lock()
	m.mu.closed = true
	for _, lis := range m.mu.listeners {
		lis.Close()
	}
	for c := range m.mu.sniffing {
		c.Close()
	}
	m.mu.Unlock()
	m.grpc.Close()
	m.http.Close()
	m.wg.Wait()
}

// clientConn is an accepted connection. It gives the bytes read while finding
// out what it is to its server, counts traffic, and frees its slot once.
type clientConn struct {
	net.Conn
	mux    *portMux
	seen   []byte
	closed sync.Once
}

// sniff reads until the bytes decide.
func (c *clientConn) sniff(timeout time.Duration) (isHTTP2 bool, err error) {
	if err := c.Conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return false, err
	}
	buf := make([]byte, 0, len(preface))
	for {
		n, err := c.Conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		c.seen = buf
		if string(buf) != preface[:len(buf)] {
			return false, c.Conn.SetReadDeadline(time.Time{})
		}
		if len(buf) == len(preface) {
			return true, c.Conn.SetReadDeadline(time.Time{})
		}
		if err != nil {
			return false, err
		}
	}
}

func (c *clientConn) Read(b []byte) (int, error) {
	if len(c.seen) > 0 {
		n := copy(b, c.seen)
		if c.seen = c.seen[n:]; len(c.seen) == 0 {
			c.seen = nil
		}
		c.mux.received.Add(float64(n))
		return n, nil
	}
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.mux.received.Add(float64(n))
	}
	return n, err
}

func (c *clientConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if n > 0 {
		c.mux.sent.Add(float64(n))
	}
	return n, err
}

func (c *clientConn) Close() error {
	err := c.Conn.Close()
	c.closed.Do(func() { <-c.mux.slots })
	return err
}

// connQueue is a net.Listener fed by hand.
type connQueue struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newConnQueue(addr net.Addr) *connQueue {
	return &connQueue{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (q *connQueue) put(c net.Conn) bool {
	select {
	case q.conns <- c:
		return true
	case <-q.done:
		return false
	}
}

func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *connQueue) Addr() net.Addr { return q.addr }

func (q *connQueue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// InProcess connects to this member's own client port without a network, in
// the name of a part of the program rather than of a user.
type InProcess struct{ queue *connQueue }

// Dial connects as identity, which later decides what the connection may do;
// "dns" is the one that answers DNS. The address is not looked at: the
// function has the form that clients take a dialer in.
func (p InProcess) Dial(identity string) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		select {
		case p.queue.conns <- inProcessConn{theirs, identity}:
			return ours, nil
		case <-p.queue.done:
			return nil, errors.Join(io.ErrClosedPipe, ours.Close(), theirs.Close())
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), ours.Close(), theirs.Close())
		}
	}
}

// inProcessConn says who is at the other end in its remote address.
type inProcessConn struct {
	net.Conn
	identity string
}

func (c inProcessConn) RemoteAddr() net.Addr { return Identity(c.identity) }

// Identity is the remote address of an in-process connection.
type Identity string

// Network implements net.Addr.
func (Identity) Network() string { return "in-process" }

func (i Identity) String() string { return "in-process:" + string(i) }
