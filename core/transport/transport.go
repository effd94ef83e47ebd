package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Handler receives what peers send. Its methods are called from the
// transport's goroutines and may be called concurrently for different peers.
type Handler interface {
	// Receive takes one frame; the slice is the handler's to keep.
	Receive(from uint64, frame []byte)
	// ReceiveSnapshot takes a checkpoint: header as its sender passed it,
	// then the body to its end. An error refuses it.
	ReceiveSnapshot(ctx context.Context, from uint64, header []byte, body io.Reader) error
	// Unreachable says that messages to a peer were or will be lost.
	Unreachable(id uint64)
	// Standing says what this member knows of a sender.
	Standing(id uint64) Standing
	// Expelled says that a peer holds this member for removed from the cluster.
	// It may come more than once.
	Expelled(by uint64)
	// Info answers Ask: who belongs to the cluster, as far as this member knows.
	Info() ([]byte, error)
}

// Standing of a member in the cluster.
type Standing uint8

// Strangers are members that this one has not heard of: it may lag behind
// changes of the membership, and then nobody else could bring it up.
const (
	Stranger Standing = iota
	Belongs
	Removed
)

// maxStrangers bounds whom a member that lags behind takes on trust.
const maxStrangers = 16

// Config of a Transport. Listeners, ClusterID, Self and Handler are required.
type Config struct {
	Listeners       []net.Listener
	ClusterID, Self uint64
	Handler         Handler
	Peers           map[uint64][]string // see SetPeers; a peer may connect before that could be called
	Logger          *slog.Logger
	QueueBytes      int // per peer, default 64 MiB
	MaxConns        int // accepted at once, default 1024
	Dial            func(ctx context.Context, url string) (net.Conn, error)
	Metrics         Metrics

	retry time.Duration // how long to wait after a dial that failed, at first; default 50 ms
}

// Metrics are told of what goes to and comes from peers, in bytes on the wire;
// nil ones are left out. They must be quick and safe for concurrent use.
type Metrics struct {
	Sent, Received func(peer uint64, bytes int)
	Lost           func(peer uint64) // a message or checkpoint for it was not sent
}

func (m *Metrics) setDefaults() {
	if m.Sent == nil {
		m.Sent = func(uint64, int) {}
	}
	if m.Received == nil {
		m.Received = func(uint64, int) {}
	}
	if m.Lost == nil {
		m.Lost = func(uint64) {}
	}
}

// Transport is a member's end of all peer connections.
type Transport struct {
	cfg  Config
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu struct {
		sync.Mutex
		peers map[uint64]*peer
		urls  []string            // this member's own
		conns map[net.Conn]uint64 // accepted, with its sender once known
	}
}

// Open starts accepting, and dials those of Peers.
func Open(cfg Config) *Transport {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.QueueBytes == 0 {
		cfg.QueueBytes = 64 << 20
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 1024
	}
	if cfg.Dial == nil {
		cfg.Dial = DialURL
	}
	if cfg.retry == 0 {
		cfg.retry = minBackoff
	}
	cfg.Metrics.setDefaults()
	t := &Transport{cfg: cfg}
	t.ctx, t.stop = context.WithCancel(context.Background())
	t.mu.peers, t.mu.conns = map[uint64]*peer{}, map[net.Conn]uint64{}
	t.SetPeers(cfg.Peers)
	for _, l := range cfg.Listeners {
		t.wg.Go(func() { t.accept(l) })
	}
	return t
}

// Close ends every connection and goroutine.
func (t *Transport) Close() {
	t.stop()
	for _, l := range t.cfg.Listeners {
		l.Close()
	}
	t.mu.Lock()
	for c := range t.mu.conns {
		c.Close()
	}
	t.mu.Unlock()
	t.wg.Wait()
}

// SetPeers tells whom to talk to and where. Of self, the URLs are what others
// are told, those that are connected at once. What is queued for a peer that is
// gone is still sent: it may be the news of its removal.
func (t *Transport) SetPeers(peers map[uint64][]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return
	}
	if own := peers[t.cfg.Self]; own != nil && !slices.Equal(own, t.mu.urls) {
		t.mu.urls = own
		for _, p := range t.mu.peers {
			p.greetAgain()
		}
	}
	for id, p := range t.mu.peers {
		if _, ok := peers[id]; !ok && (!p.stranger || t.cfg.Handler.Standing(id) == Removed) {
			p.retire()
			delete(t.mu.peers, id)
		}
	}
	for id, urls := range peers {
		if id == t.cfg.Self {
			continue
		}
		if p := t.mu.peers[id]; p != nil {
			p.stranger = false
			p.mu.Lock()
			p.mu.urls = urls
			p.mu.Unlock()
			continue
		}
		t.mu.peers[id] = t.startPeer(id, urls)
	}
	for c, from := range t.mu.conns {
		if from != 0 && t.cfg.Handler.Standing(from) == Removed {
			c.Close() // its next dial tells it why
		}
	}
}

// meet starts talking to a member that this one has not heard of; false if
// there are too many of those.
func (t *Transport) meet(id uint64, urls []string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil || len(urls) == 0 {
		return false
	}
	if p := t.mu.peers[id]; p != nil {
		p.heardFrom(urls)
		return true
	}
	strangers := 0
	for _, p := range t.mu.peers {
		if p.stranger {
			strangers++
		}
	}
	if strangers >= maxStrangers {
		return false
	}
	p := t.startPeer(id, urls)
	p.stranger = true
	t.mu.peers[id] = p
	return true
}

// hearFrom notes that a member is there and where it says it is: this one may lag
// behind its move, and would only hear of that from a leader that it can answer.
func (t *Transport) hearFrom(id uint64, urls []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.mu.peers[id]; p != nil {
		p.heardFrom(urls)
	}
}

func (t *Transport) ownURLs() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.urls
}

// Send queues a frame for a peer; false means it was dropped.
func (t *Transport) Send(to uint64, frame []byte) bool {
	t.mu.Lock()
	p := t.mu.peers[to]
	t.mu.Unlock()
	if p == nil || !p.send(frame) {
		t.cfg.Metrics.Lost(to)
		return false
	}
	return true
}

// ActiveSince returns since when a peer has been connected; zero if it is not.
func (t *Transport) ActiveSince(id uint64) time.Time {
	t.mu.Lock()
	p := t.mu.peers[id]
	t.mu.Unlock()
	if p == nil {
		return time.Time{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.mu.up {
		return time.Time{}
	}
	return p.mu.active
}

// SendSnapshot streams a checkpoint to a peer over a connection of its own and
// returns once the peer has it on disk.
func (t *Transport) SendSnapshot(ctx context.Context, to uint64, header []byte, body func(io.Writer) error) error {
	err := t.sendSnapshot(ctx, to, header, body)
	if err != nil {
		t.cfg.Metrics.Lost(to)
	}
	return err
}

func (t *Transport) sendSnapshot(ctx context.Context, to uint64, header []byte, body func(io.Writer) error) error {
	t.mu.Lock()
	p := t.mu.peers[to]
	t.mu.Unlock()
	if p == nil {
		return fmt.Errorf("peer %s is not known", formatID(to))
	}
	conn, err := t.dial(ctx, p.urls(), p.hello(snapshotConn))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	w := bufio.NewWriterSize(&deadlineWriter{conn, func(n int) { t.cfg.Metrics.Sent(to, n) }}, 256<<10)
	if err := writeFrame(w, header); err != nil {
		return err
	}
	chunks := &frameWriter{w: w}
	if err := body(chunks); err != nil {
		return err
	}
	if err := writeFrame(w, nil); err != nil { // an empty frame ends the body
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	return readStatus(conn)
}

// frameWriter cuts a body into frames.
type frameWriter struct{ w *bufio.Writer }

func (f *frameWriter) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		c := p[:min(len(p), 256<<10)]
		if err := writeFrame(f.w, c); err != nil {
			return n, err
		}
		n += len(c)
		p = p[len(c):]
	}
	return n, nil
}

// frameReader joins frames into a body that ends at the empty frame.
type frameReader struct {
	r        *bufio.Reader
	conn     net.Conn
	received func(bytes int)
	cur      []byte
	end      bool
}

func (f *frameReader) Read(p []byte) (int, error) {
	for len(f.cur) == 0 {
		if f.end {
			return 0, io.EOF
		}
		if err := f.conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return 0, err
		}
		b, err := readFrame(f.r)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // only an empty frame ends a body
			}
			return 0, err
		}
		f.received(frameHeader + len(b))
		f.cur, f.end = b, len(b) == 0
	}
	n := copy(p, f.cur)
	f.cur = f.cur[n:]
	return n, nil
}

// deadlineWriter gives every write its own time limit.
type deadlineWriter struct {
	conn net.Conn
	sent func(bytes int)
}

func (d *deadlineWriter) Write(p []byte) (int, error) {
	if err := d.conn.SetWriteDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	n, err := d.conn.Write(p)
	d.sent(n)
	return n, err
}

// formatID prints a member id as etcd does: lower-case hexadecimal.
func formatID(id uint64) string { return strconv.FormatUint(id, 16) }
