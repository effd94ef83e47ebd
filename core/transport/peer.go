package transport

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	dialTimeout  = 3 * time.Second
	writeTimeout = 5 * time.Second
	minBackoff   = 50 * time.Millisecond
	maxBackoff   = time.Second
	// silenceTime is how long a stream's bytes may go without an acknowledgement.
	// TCP itself would wait for twice as long each time, up to minutes, and peers
	// stay apart for as long again as a partition had lasted.
	silenceTime = 2 * time.Second
	retireTime  = time.Second // what a removed peer gets to hear of it
)

// peer sends to one other member: a bounded queue and the goroutine that
// drains it into a connection which it dials again whenever it breaks.
type peer struct {
	t    *Transport
	id   uint64
	ctx  context.Context // ends with the peer
	stop context.CancelFunc
	wake chan struct{}
	here chan struct{} // the peer has dialled this member: it can be dialled now

	stranger bool // guarded by Transport.mu: not one of SetPeers's

	mu struct {
		sync.Mutex
		urls   []string
		said   []string // where it said it is, see heardFrom
		queue  [][]byte
		queued int // bytes
		active time.Time
		up     bool
		last   bool // to be sent: what is queued, and no more

		stale, greeting bool // see greetAgain
	}
}

var errRetired = errors.New("peer was removed")

func (t *Transport) startPeer(id uint64, urls []string) *peer {
	ctx, stop := context.WithCancel(t.ctx)
	p := &peer{t: t, id: id, ctx: ctx, stop: stop, wake: make(chan struct{}, 1), here: make(chan struct{}, 1)}
	p.mu.urls = slices.Clone(urls)
	t.wg.Go(p.run)
	return p
}

func (p *peer) hello(kind connKind) hello {
	return hello{kind: kind, cluster: p.t.cfg.ClusterID, from: p.t.cfg.Self, to: p.id, urls: p.t.ownURLs()}
}

// greetAgain tells a peer that is connected where this member is now, beside the stream,
// which is not disturbed: it counts how long that has been up. One that is not
// connected is told by the stream's own hello.
func (p *peer) greetAgain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.mu.up {
		return
	}
	p.mu.stale = true
	if p.mu.greeting {
		return
	}
	p.mu.greeting = true
	p.t.wg.Go(func() {
		for backoff := minBackoff; p.toGreet(); {
			conn, err := p.t.dial(p.ctx, p.urls(), p.hello(streamConn))
			if err == nil {
				conn.Close()
				continue
			}
			select { // it may have no room for a connection just now
			case <-p.ctx.Done():
			case <-time.After(backoff):
			}
			backoff = min(backoff*2, maxBackoff)
			p.mu.Lock()
			p.mu.stale = p.mu.up && p.ctx.Err() == nil
			p.mu.Unlock()
		}
	})
}

func (p *peer) toGreet() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.greeting = p.mu.stale
	p.mu.stale = false
	return p.mu.greeting
}

// send queues a frame; false if the queue is full or the peer is down, since
// raft's messages age badly: better to hear of the loss now.
func (p *peer) send(frame []byte) bool {
	p.mu.Lock()
	ok := p.mu.up && !p.mu.last && (p.mu.queued+len(frame) <= p.t.cfg.QueueBytes || len(p.mu.queue) == 0)
	if ok {
		p.mu.queue = append(p.mu.queue, frame)
		p.mu.queued += len(frame)
	}
	p.mu.Unlock()
	if ok {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	return ok
}

// retire ends the peer once what is queued has been sent, or soon.
func (p *peer) retire() {
	p.mu.Lock()
	p.mu.last = true
	idle := !p.mu.up
	p.mu.Unlock()
	if idle {
		p.stop()
		return
	}
	time.AfterFunc(retireTime, p.stop)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *peer) retired() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.last && len(p.mu.queue) == 0
}

func (p *peer) take(into [][]byte) [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.mu.queue
	p.mu.queue, p.mu.queued = into[:0], 0
	return q
}

func (p *peer) setUp(up bool) {
	p.mu.Lock()
	p.mu.up = up
	p.mu.queue, p.mu.queued = nil, 0
	if up {
		p.mu.active = time.Now()
	}
	p.mu.Unlock()
}

// run dials and drains until the peer is removed. It never gives up.
func (p *peer) run() {
	ctx, backoff := p.ctx, p.t.cfg.retry
	var lastErr string
	for ctx.Err() == nil {
		if p.retired() {
			p.stop()
			return
		}
		h := p.hello(streamConn)
		conn, err := p.t.dial(ctx, p.urls(), h)
		if err == nil {
			if err = limitSilence(conn, silenceTime); err != nil {
				conn.Close()
			}
		}
		if err != nil {
			if msg := err.Error(); msg != lastErr && ctx.Err() == nil {
				lastErr = msg
				p.t.cfg.Logger.Warn("cannot reach peer; trying on", "peer", formatID(p.id), "urls", p.urls(), "error", err)
			}
			if errors.Is(err, ErrRemoved) {
				p.t.cfg.Handler.Expelled(p.id)
			}
			p.t.cfg.Handler.Unreachable(p.id)
			select {
			case <-ctx.Done():
			case <-p.here:
			case <-time.After(backoff):
			}
			backoff = min(backoff*2, maxBackoff)
			continue
		}
		backoff, lastErr = p.t.cfg.retry, ""
		p.t.cfg.Logger.Info("connected to peer", "peer", formatID(p.id))
		p.setUp(true)
		if !slices.Equal(h.urls, p.t.ownURLs()) {
			p.greetAgain()
		}
		err = p.drain(ctx, conn)
		p.setUp(false)
		conn.Close()
		if errors.Is(err, errRetired) {
			p.stop()
			return
		}
		if ctx.Err() == nil {
			p.t.cfg.Metrics.Lost(p.id)
			p.t.cfg.Logger.Warn("lost connection to peer", "peer", formatID(p.id), "error", err)
			p.t.cfg.Handler.Unreachable(p.id)
		}
	}
}

func (p *peer) drain(ctx context.Context, conn net.Conn) error {
	// The other side never writes on this connection: a read ends when it
	// closes, which a writer with nothing to say would not notice.
	closed := make(chan error, 1)
	readDone := make(chan struct{})
	go func() {
		defer close(readDone)
		_, err := io.Copy(io.Discard, conn)
		if err == nil {
			err = io.EOF
		}
		closed <- err
	}()
	defer func() { conn.Close(); <-readDone }()
	defer context.AfterFunc(ctx, func() { conn.Close() })() // ends a write that waits for the other side

	w := bufio.NewWriterSize(conn, 64<<10)
	var batch [][]byte
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-closed:
			return err
		case <-p.wake:
		}
		for {
			batch = p.take(batch)
			if len(batch) == 0 {
				break
			}
			if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
				return err
			}
			bytes := 0
			for i, f := range batch {
				if err := writeFrame(w, f); err != nil {
					return err
				}
				bytes += frameHeader + len(f)
				batch[i] = nil
			}
			if err := w.Flush(); err != nil {
				return err
			}
			p.t.cfg.Metrics.Sent(p.id, bytes)
		}
		if p.retired() {
			return errRetired
		}
	}
}

// heardFrom notes that the peer is there, and where it says it is. Hellos that waited together are read in any
// order, so that the one before may be the newer: its URLs stay behind these.
func (p *peer) heardFrom(urls []string) {
	const most = 8 // that one moved through
	p.mu.Lock()
	said := union(urls, p.mu.said)
	p.mu.said = said[:min(len(said), max(len(urls), most))]
	p.mu.Unlock()
	select {
	case p.here <- struct{}{}:
	default:
	}
}

// urls is where to dial the peer: where it is known to be, then where it says it is.
func (p *peer) urls() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return union(p.mu.urls, p.mu.said)
}

// union gives a copy of first, and what then has besides.
func union(first, then []string) []string {
	all := slices.Clone(first)
	for _, u := range then {
		if !slices.Contains(all, u) {
			all = append(all, u)
		}
	}
	return all
}

// dial tries a member's URLs in order and says hello on the first that answers.
func (t *Transport) dial(ctx context.Context, urls []string, h hello) (net.Conn, error) {
	var errs []error
	for _, u := range urls {
		conn, err := t.dialOne(ctx, u, h)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", u, err))
	}
	if len(errs) == 0 {
		return nil, errors.New("peer has no URL")
	}
	return nil, errors.Join(errs...)
}

func (t *Transport) dialOne(ctx context.Context, raw string, h hello) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return greet(ctx, t.cfg.Dial, raw, h)
}

// greet dials and says hello; ctx has a deadline.
func greet(ctx context.Context, dial func(context.Context, string) (net.Conn, error), raw string, h hello) (net.Conn, error) {
	conn, err := dial(ctx, raw)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })() // a deadline alone would have Close wait for it
	deadline, _ := ctx.Deadline()
	err = conn.SetDeadline(deadline)
	if err == nil {
		_, err = conn.Write(h.encode())
	}
	if err == nil {
		err = readStatus(conn)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("no answer to a hello: %w", cmp.Or(ctx.Err(), err))
		}
		return nil, err
	}
	return conn, nil
}

// Ask asks the member at a peer URL who belongs to its cluster: what its
// Handler.Info gave. It needs no membership, so that one who is about to join
// can learn which cluster it joins, and as whom. dial nil means DialURL.
func Ask(ctx context.Context, raw string, dial func(context.Context, string) (net.Conn, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if dial == nil {
		dial = DialURL
	}
	conn, err := greet(ctx, dial, raw, hello{kind: infoConn})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, err
	}
	return readFrame(bufio.NewReader(conn))
}

// TurnAway closes whatever connects to the listeners, until stop is called: whoever
// asks a member that has just begun to start need not wait for an answer.
func TurnAway(listeners []net.Listener) (stop func()) {
	var open []interface{ SetDeadline(time.Time) error }
	var wg sync.WaitGroup
	for _, l := range listeners {
		d, ok := l.(interface{ SetDeadline(time.Time) error })
		if !ok {
			continue
		}
		open = append(open, d)
		wg.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_ = conn.Close()
			}
		})
	}
	return func() {
		for _, d := range open {
			_ = d.SetDeadline(time.Now()) // what is wrong with a listener shows when it is used
		}
		wg.Wait()
		for _, d := range open {
			_ = d.SetDeadline(time.Time{})
		}
	}
}

// DialURL connects to a peer URL: http://host:port or unix://path.
func DialURL(ctx context.Context, raw string) (net.Conn, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	switch u.Scheme {
	case "http":
		return d.DialContext(ctx, "tcp", u.Host)
	case "unix":
		return d.DialContext(ctx, "unix", u.Host+u.Path)
	}
	return nil, fmt.Errorf("peer URL scheme %q is not supported yet: use http or unix", u.Scheme)
}
