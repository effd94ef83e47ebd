package server

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// slicedConn is a connection whose peer has sent all it will, in pieces.
type slicedConn struct {
	net.Conn
	pieces [][]byte
	closed bool
}

func (c *slicedConn) Read(b []byte) (int, error) {
	if len(c.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.pieces[0])
	if c.pieces[0] = c.pieces[0][n:]; len(c.pieces[0]) == 0 {
		c.pieces = c.pieces[1:]
	}
	return n, nil
}

func (c *slicedConn) Close() error                    { c.closed = true; return nil }
func (c *slicedConn) SetReadDeadline(time.Time) error { return nil }
func (c *slicedConn) RemoteAddr() net.Addr            { return Identity("test") }

// tally is a counter that can be read.
type tally struct {
	prometheus.Counter
	sum float64
}

func (c *tally) Add(n float64) { c.sum += n }

// FuzzPortMux sends any bytes to the port that gRPC and HTTP share, cut at any
// places: the one they are for gets each of them once, and the connection's slot is
// free when it is closed.
func FuzzPortMux(f *testing.F) {
	f.Add([]byte(preface+"\x00\x00\x00\x04"), []byte{3, 5, 0, 40})
	f.Add([]byte(preface), []byte{1, 1, 1, 1})
	f.Add([]byte(preface[:20]), []byte{7})
	f.Add([]byte("PRI * HTTP/1.1\r\n\r\n"), []byte{10, 2})
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), []byte{})
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, sent, cuts []byte) {
		conn := &slicedConn{}
		for rest := sent; len(rest) > 0; {
			n := len(rest)
			if len(cuts) > 0 {
				n, cuts = min(n, int(cuts[0])), cuts[1:] // 0: a read may give nothing
			}
			conn.pieces, rest = append(conn.pieces, bytes.Clone(rest[:n])), rest[n:]
		}
		received := new(tally)
		m := newPortMux(slog.New(slog.DiscardHandler), 1, Identity("port"), received, new(tally))
		m.slots <- struct{}{}
		routed := make(chan struct{})
		go func() { m.route(&clientConn{Conn: conn, mux: m}); close(routed) }()
		var to *connQueue
		var got net.Conn
		select {
		case got = <-m.grpc.conns:
			to = m.grpc
		case got = <-m.http.conns:
			to = m.http
		case <-routed:
		}
		<-routed
		m.close()
		var want *connQueue
		switch {
		case strings.HasPrefix(string(sent), preface):
			want = m.grpc
		case !strings.HasPrefix(preface, string(sent)):
			want = m.http
		}
		if to != want {
			t.Fatalf("%q went to %p; gRPC is %p, HTTP %p", sent, to, m.grpc, m.http)
		}
		if got != nil {
			b, err := io.ReadAll(got)
			if err != nil || !bytes.Equal(b, sent) || received.sum != float64(len(sent)) {
				t.Fatalf("sent %q, handed on %q, counted %v: %v", sent, b, received.sum, err)
			}
			for range 2 { // whoever gives up first, and whoever cleans up
				if err := got.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !conn.closed || len(m.slots) != 0 {
			t.Fatalf("%q: closed: %t, slots taken: %d", sent, conn.closed, len(m.slots))
		}
	})
}
