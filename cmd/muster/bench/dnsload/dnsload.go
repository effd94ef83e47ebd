package dnsload

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/cmd/muster/bench/histogram"
	"github.com/musterhq/muster/dnsserver/mmsg"
)

// Config says what to ask, of whom, and for how long.
type Config struct {
	// Addr is the server, ip:port.
	Addr string
	// Names and Types are asked in turn, every name with every type. Types may be empty: A.
	Names []string
	Types []uint16
	// Connections is the number of sockets, each with a goroutine; 0 means 4. The server
	// spreads sockets over its loops, so use several times its cores.
	Connections int
	// Window is how many queries a connection keeps in flight; 0 means 32.
	Window int
	// Total ends the run after so many queries, Duration after a time; at least one is
	// needed, the first reached counts.
	Total    int
	Duration time.Duration
	// Timeout is when an unanswered query is counted as lost; 0 means 1 s.
	Timeout time.Duration
	// UDPSize is stated in an OPT record; 0 sends none.
	UDPSize uint16
}

// Report is what a run found.
type Report struct {
	Sent, Received, Lost uint64
	Truncated            uint64
	// Rcodes counts replies by response code, such as "NOERROR".
	Rcodes map[string]uint64
	// Answers counts records in the replies' answer sections.
	Answers uint64
	// Bytes are of replies, without UDP and IP headers.
	Bytes   uint64
	Elapsed time.Duration
	Latency histogram.Histogram
}

// QPS is the rate of replies.
func (r *Report) QPS() float64 { return float64(r.Received) / r.Elapsed.Seconds() }

func (cfg *Config) setDefaults() error {
	if len(cfg.Names) == 0 {
		return errors.New("dnsload: no names: give at least one to ask for")
	}
	if cfg.Total <= 0 && cfg.Duration <= 0 {
		return errors.New("dnsload: neither a number of queries nor a duration: give one")
	}
	if cfg.Connections == 0 {
		cfg.Connections = 4
	}
	if cfg.Window == 0 {
		cfg.Window = 32
	}
	if cfg.Connections < 0 || cfg.Window < 0 || cfg.Window > maxWindow {
		return fmt.Errorf("dnsload: %d connections with a window of %d: use at least 1, and a window up to %d", cfg.Connections, cfg.Window, maxWindow)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Second
	}
	if len(cfg.Types) == 0 {
		cfg.Types = []uint16{dns.TypeA}
	}
	return nil
}

// maxWindow leaves each slot of a connection 64 ids in turn, so that a late reply isn't
// taken for a newer query's.
const maxWindow = 1024

// Run asks and waits for the end. Cancelling ctx ends it early, without an error.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if err := cfg.setDefaults(); err != nil {
		return Report{}, err
	}
	addr, err := netip.ParseAddrPort(cfg.Addr)
	if err != nil {
		return Report{}, fmt.Errorf("dnsload: server %q: use an IP address and a port: %w", cfg.Addr, err)
	}
	queries, err := pack(&cfg)
	if err != nil {
		return Report{}, err
	}
	if cfg.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cfg.Duration)
		defer cancel()
	}
	var left atomic.Int64
	left.Store(int64(cfg.Total))
	if cfg.Total <= 0 {
		left.Store(1 << 62)
	}

	workers := make([]*worker, cfg.Connections)
	for i := range workers {
		c, err := mmsg.Dial(context.WithoutCancel(ctx), addr) // UDP: nothing to wait for
		if err != nil {
			for _, w := range workers[:i] {
				_ = w.conn.Close()
			}
			return Report{}, fmt.Errorf("dnsload: connect to %s: %w", addr, err)
		}
		workers[i] = &worker{
			cfg: &cfg, conn: c, queries: queries, next: i * len(queries) / len(workers), left: &left,
			slots: make([]slot, cfg.Window), free: make([]uint16, 0, cfg.Window),
		}
	}
	start := time.Now()
	errs := make([]error, len(workers))
	var wg sync.WaitGroup
	for i, w := range workers {
		wg.Go(func() { errs[i] = w.run(ctx) })
	}
	wg.Wait()
	r := Report{Rcodes: map[string]uint64{}, Elapsed: time.Since(start)}
	for _, w := range workers {
		w.addTo(&r)
	}
	return r, errors.Join(errs...)
}

// pack makes the queries, ids zero.
func pack(cfg *Config) ([][]byte, error) {
	var queries [][]byte
	for _, name := range cfg.Names {
		for _, t := range cfg.Types {
			var m dns.Msg
			m.SetQuestion(dns.Fqdn(name), t)
			m.Id, m.RecursionDesired = 0, false
			if cfg.UDPSize > 0 {
				m.SetEdns0(cfg.UDPSize, false)
			}
			b, err := m.Pack()
			if err != nil {
				return nil, fmt.Errorf("dnsload: name %q: %w", name, err)
			}
			queries = append(queries, b)
		}
	}
	return queries, nil
}

// slot is one place in a connection's window.
type slot struct {
	id   uint16
	busy bool
	sent time.Time
}

type worker struct {
	cfg     *Config
	conn    *mmsg.Conn
	queries [][]byte
	next    int
	left    *atomic.Int64
	slots   []slot
	free    []uint16
	ended   bool // no more is to be sent

	sent, received, lost, truncated, answers, bytes uint64
	rcodes                                          [16]uint64
	latency                                         histogram.Histogram
}

// maxQuery holds any query pack makes: header, name, type, class, OPT.
const maxQuery = 12 + 255 + 4 + 11

// maxReply is the longest reply received whole; only its header is looked at anyway.
const maxReply = 4096

func (w *worker) run(ctx context.Context) error {
	defer func() { _ = w.conn.Close() }()
	for i := range w.slots {
		w.slots[i].id = uint16(i)
		w.free = append(w.free, uint16(i))
	}
	batch := w.conn.NewBatch(min(w.cfg.Window, 64), maxReply, maxQuery)
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var deadline time.Time
	for {
		w.ended = w.ended || ctx.Err() != nil
		now := time.Now()
		for !w.ended && len(w.free) > 0 {
			if err := w.send(batch, now); err != nil {
				return err
			}
		}
		busy := len(w.slots) - len(w.free)
		if ctx.Err() != nil || busy == 0 {
			return nil // what is in flight at the end of time is neither received nor lost
		}
		// Moving a deadline costs; so it is moved twice in a time-out.
		if deadline.Sub(now) < w.cfg.Timeout/2 {
			deadline = now.Add(w.cfg.Timeout)
			_ = w.conn.SetReadDeadline(deadline)
			if ctx.Err() != nil {
				return nil
			}
		}
		n, err := batch.Recv()
		now = time.Now()
		switch {
		case err == nil:
			w.receive(batch, n, now)
		case errors.Is(err, os.ErrDeadlineExceeded):
			w.expire(now)
		case errors.Is(err, net.ErrClosed):
			return err
		default: // refused: nobody listens there now
			w.expire(now.Add(w.cfg.Timeout))
			if w.received == 0 {
				return fmt.Errorf("dnsload: receive from %s: %w", w.cfg.Addr, err)
			}
		}
	}
}

// send fills a batch with queries from free slots.
func (w *worker) send(b *mmsg.Batch, now time.Time) error {
	n := min(len(w.free), b.Size())
	if left := w.left.Add(int64(-n)); left < 0 {
		n += int(max(left, int64(-n)))
		w.ended = true
	}
	for i := range n {
		at := w.free[len(w.free)-1]
		w.free = w.free[:len(w.free)-1]
		s := &w.slots[at]
		s.id += uint16(len(w.slots)) // keeps id modulo window, unless it wraps
		if int(s.id)%len(w.slots) != int(at) {
			s.id = at
		}
		s.busy, s.sent = true, now
		out := b.Out(i)
		size := copy(out, w.queries[w.next])
		binary.BigEndian.PutUint16(out, s.id)
		b.Queue(i, size)
		if w.next++; w.next == len(w.queries) {
			w.next = 0
		}
	}
	w.sent += uint64(n)
	return b.Flush()
}

func (w *worker) receive(b *mmsg.Batch, n int, now time.Time) {
	for i := range n {
		p := b.Packet(i)
		if len(p) < 12 || p[2]&0x80 == 0 {
			continue
		}
		id := binary.BigEndian.Uint16(p)
		at := int(id) % len(w.slots)
		s := &w.slots[at]
		if !s.busy || s.id != id {
			continue // late: it has been counted as lost
		}
		s.busy = false
		w.free = append(w.free, uint16(at))
		w.received++
		w.bytes += uint64(len(p))
		w.rcodes[p[3]&0x0f]++
		w.answers += uint64(binary.BigEndian.Uint16(p[6:]))
		if p[2]&0x02 != 0 {
			w.truncated++
		}
		w.latency.Add(now.Sub(s.sent))
	}
}

// expire gives up on queries sent a time-out ago.
func (w *worker) expire(now time.Time) {
	for i := range w.slots {
		if s := &w.slots[i]; s.busy && now.Sub(s.sent) >= w.cfg.Timeout {
			s.busy = false
			w.free = append(w.free, uint16(i))
			w.lost++
		}
	}
}

func (w *worker) addTo(r *Report) {
	r.Sent += w.sent
	r.Received += w.received
	r.Lost += w.lost
	r.Truncated += w.truncated
	r.Answers += w.answers
	r.Bytes += w.bytes
	r.Latency.Merge(&w.latency)
	for rcode, n := range w.rcodes {
		if n > 0 {
			r.Rcodes[dns.RcodeToString[rcode]] += n
		}
	}
}
