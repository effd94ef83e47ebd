package transport

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The side that is dialled: who is let in, and what comes from them.

func (t *Transport) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			t.cfg.Logger.Warn("accepting a peer connection failed", "error", err)
			select { // out of descriptors, say: give it a moment
			case <-t.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		if !t.admit(conn) {
			conn.Close()
			continue
		}
		t.wg.Go(func() {
			defer t.forget(conn)
			if err := t.serve(conn); err != nil && t.ctx.Err() == nil && !errors.Is(err, io.EOF) {
				t.cfg.Logger.Warn("rejected connection on peer endpoint", "remote-addr", conn.RemoteAddr().String(), "error", err)
			}
		})
	}
}

func (t *Transport) admit(conn net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil || len(t.mu.conns) >= t.cfg.MaxConns {
		return false
	}
	t.mu.conns[conn] = 0
	return true
}

func (t *Transport) forget(conn net.Conn) {
	conn.Close()
	t.mu.Lock()
	delete(t.mu.conns, conn)
	t.mu.Unlock()
}

func (t *Transport) serve(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	h, err := readHello(conn)
	if err != nil {
		return err
	}
	if code, reason := t.refuse(h); code != statusOK {
		_ = writeStatus(conn, code, reason)
		return errors.New(reason)
	}
	if err := writeStatus(conn, statusOK, ""); err != nil {
		return err
	}
	if h.kind == infoConn {
		return t.serveInfo(conn)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	t.mu.Lock()
	t.mu.conns[conn] = h.from
	t.mu.Unlock()
	if t.cfg.Handler.Standing(h.from) == Removed { // meanwhile, and SetPeers did not know whose this was
		return nil // its next dial tells it why
	}
	r := bufio.NewReaderSize(conn, 128<<10)
	if h.kind == snapshotConn {
		return t.serveSnapshot(conn, r, h.from)
	}
	for {
		f, err := readFrame(r)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		t.cfg.Metrics.Received(h.from, frameHeader+len(f))
		t.cfg.Handler.Receive(h.from, f)
	}
}

func (t *Transport) refuse(h hello) (status, string) {
	no := func(format string, a ...any) (status, string) { return statusRefused, fmt.Sprintf(format, a...) }
	switch {
	case h.kind == infoConn:
		return statusOK, ""
	case h.cluster != t.cfg.ClusterID:
		return no("cluster id mismatch: this member belongs to %s, you to %s; check --initial-cluster-token and the data directory", formatID(t.cfg.ClusterID), formatID(h.cluster))
	case h.to != t.cfg.Self:
		return no("this is member %s, not %s; check the peer URLs", formatID(t.cfg.Self), formatID(h.to))
	case h.kind != streamConn && h.kind != snapshotConn:
		return no("unknown connection kind %d", h.kind)
	}
	switch t.cfg.Handler.Standing(h.from) {
	case Removed:
		return statusRemoved, fmt.Sprintf("member %s was removed from this cluster", formatID(h.from))
	case Stranger:
		if !t.meet(h.from, h.urls) {
			return no("member %s does not belong to this cluster", formatID(h.from))
		}
	case Belongs:
		t.hearFrom(h.from, h.urls)
	}
	return statusOK, ""
}

func (t *Transport) serveInfo(conn net.Conn) error {
	b, err := t.cfg.Handler.Info()
	if err != nil {
		return err
	}
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	w := bufio.NewWriter(conn)
	if err := writeFrame(w, b); err != nil {
		return err
	}
	return w.Flush()
}

func (t *Transport) serveSnapshot(conn net.Conn, r *bufio.Reader, from uint64) error {
	body := &frameReader{r: r, conn: conn, received: func(n int) { t.cfg.Metrics.Received(from, n) }}
	if err := conn.SetReadDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	header, err := readFrame(r)
	if err != nil {
		return err
	}
	body.received(frameHeader + len(header))
	if err := t.cfg.Handler.ReceiveSnapshot(t.ctx, from, header, body); err != nil {
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_ = writeStatus(conn, statusRefused, err.Error())
		return fmt.Errorf("checkpoint from peer %s: %w", formatID(from), err)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return writeStatus(conn, statusOK, "")
}
