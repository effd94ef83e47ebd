package dnsserver

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// lockedResponder is shared by TCP connections, one at a time, never across I/O.
type lockedResponder struct {
	mu sync.Mutex
	*responder
	out [maxTCP]byte // guarded by mu
}

// serve appends the reply to msg, with its length before it, to dst.
func (l *lockedResponder) serve(dst, msg []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sync()
	n := l.responder.serve(msg, l.out[:])
	if n == 0 {
		return dst
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	return append(dst, l.out[:n]...)
}

// acceptPause is waited after a failure to accept, such as too many open files.
const acceptPause = 50 * time.Millisecond

func (s *Server) accept() {
	next := 0
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.log.Warn("dns accept failed; trying again", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		if !s.admit(c) {
			_ = c.Close()
			continue
		}
		r := s.pool[next%len(s.pool)]
		next++
		s.wg.Go(func() {
			s.serveTCP(c, r)
			s.release(c)
		})
	}
}

// admit takes a connection in if there is room for it.
func (s *Server) admit(c net.Conn) bool {
	ip := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed || len(s.mu.conns) >= s.cfg.TCPConns || s.mu.perIP[ip] >= s.cfg.TCPConnsPerIP {
		return false
	}
	s.mu.conns[c] = ip
	s.mu.perIP[ip]++
	return true
}

func (s *Server) release(c net.Conn) {
	_ = c.Close() // Close may have been first
	s.mu.Lock()
	defer s.mu.Unlock()
	ip := s.mu.conns[c]
	delete(s.mu.conns, c)
	if s.mu.perIP[ip]--; s.mu.perIP[ip] <= 0 {
		delete(s.mu.perIP, ip)
	}
}

func (s *Server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.conns)
}

// flushAt is how much is gathered for a client that sends many queries at once.
const flushAt = 32 << 10

// serveTCP answers a connection's queries in their order; those that arrive together are
// answered in one write. A client that is silent, or doesn't take its answers, for
// TCPIdle is cut off.
func (s *Server) serveTCP(c net.Conn, r *lockedResponder) {
	in := bufio.NewReaderSize(c, 4096)
	var msg, out []byte
	for {
		if err := c.SetReadDeadline(time.Now().Add(s.cfg.TCPIdle)); err != nil {
			return
		}
		var length [2]byte
		if _, err := io.ReadFull(in, length[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(length[:]))
		if n > maxQuery {
			return
		}
		if cap(msg) < n {
			msg = make([]byte, n, maxQuery)
		}
		msg = msg[:n]
		if _, err := io.ReadFull(in, msg); err != nil {
			return
		}
		out = r.serve(out, msg)
		if len(out) < flushAt && completeQuery(in) {
			continue
		}
		if len(out) == 0 {
			continue
		}
		if err := c.SetWriteDeadline(time.Now().Add(s.cfg.TCPIdle)); err != nil {
			return
		}
		if _, err := c.Write(out); err != nil {
			return
		}
		if cap(out) > 2*flushAt {
			out = nil // one large answer isn't held for the connection's life
		}
		out = out[:0]
	}
}

// completeQuery reports whether a whole query has been read ahead, so that no answer is
// held back waiting for the client.
func completeQuery(in *bufio.Reader) bool {
	if in.Buffered() < 2 {
		return false
	}
	head, err := in.Peek(2)
	return err == nil && in.Buffered() >= 2+int(binary.BigEndian.Uint16(head))
}
