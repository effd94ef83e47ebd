package dnsserver

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"

	"github.com/musterhq/muster/dnsserver/answer"
	"github.com/musterhq/muster/dnsserver/mmsg"
)

// receiveBuffer is asked of the kernel for each UDP socket: some ten thousand queries, a
// tenth of a second's worth for one loop.
const receiveBuffer = 4 << 20

// Server is a running DNS server.
type Server struct {
	cfg  Config
	zone *answer.Zone
	log  *slog.Logger
	addr netip.AddrPort

	udp         []*mmsg.Conn
	tcp         net.Listener
	udpCounters []*counters
	tcpCounters []*counters
	pool        []*lockedResponder
	unregister  func()

	wg        sync.WaitGroup
	closeOnce sync.Once
	closeErr  error

	mu struct {
		sync.Mutex // guards conns and perIP; never held across I/O
		closed     bool
		conns      map[net.Conn]netip.Addr
		perIP      map[netip.Addr]int
	}
}

// Open starts a server. ctx bounds only the opening.
func Open(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	s := &Server{cfg: cfg, log: cfg.Logger, unregister: func() {}}
	s.mu.conns = map[net.Conn]netip.Addr{}
	s.mu.perIP = map[netip.Addr]int{}
	if err := s.listen(ctx); err != nil {
		return nil, err
	}
	var err error
	if s.zone, err = cfg.zone(s.addr); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	loops := make([]*responder, len(s.udp))
	for i := range loops {
		loops[i] = newResponder(s.zone, &s.cfg, false, s.random())
		s.udpCounters = append(s.udpCounters, loops[i].counters)
	}
	for range cfg.Loops {
		r := newResponder(s.zone, &s.cfg, true, s.random())
		s.tcpCounters = append(s.tcpCounters, r.counters)
		s.pool = append(s.pool, &lockedResponder{responder: r})
	}
	if cfg.Registerer != nil {
		c := newCollector(s)
		if err := cfg.Registerer.Register(c); err != nil {
			return nil, errors.Join(fmt.Errorf("dnsserver: register metrics of zone %s: %w", s.zone.Origin(), err), s.Close())
		}
		s.unregister = func() { cfg.Registerer.Unregister(c) }
	}
	for i, c := range s.udp {
		s.wg.Go(func() { s.serveUDP(c, loops[i]) })
	}
	s.wg.Go(s.accept)
	s.log.Info("dns server is answering", "address", s.addr, "zone", s.zone.Origin(), "udp_sockets", len(s.udp))
	return s, nil
}

// Addr is the address of UDP and TCP.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Zone is the zone answered for.
func (s *Server) Zone() string { return s.zone.Origin() }

// Close stops answering and waits until all has stopped. It may be called again.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		s.unregister()
		var errs []error
		for _, c := range s.udp {
			errs = append(errs, c.Close())
		}
		if s.tcp != nil {
			errs = append(errs, s.tcp.Close())
		}
		s.mu.Lock()
		s.mu.closed = true
		open := make([]net.Conn, 0, len(s.mu.conns))
		for c := range s.mu.conns {
			open = append(open, c)
		}
		s.mu.Unlock()
		for _, c := range open {
			_ = c.Close() // its goroutine may have closed it first
		}
		s.wg.Wait()
		s.closeErr = errors.Join(errs...)
	})
	return s.closeErr
}

func (s *Server) random() *rand.Rand {
	if s.cfg.Seed != nil {
		return rand.New(rand.NewPCG(s.cfg.Seed(), s.cfg.Seed()))
	}
	var b [16]byte
	_, _ = crand.Read(b[:]) // never fails
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])))
}

// portTries bounds the search for a port that is free for both UDP and TCP.
const portTries = 20

// listen binds TCP and all UDP sockets to one address.
func (s *Server) listen(ctx context.Context) error {
	addr, err := listenAddr(s.cfg.Listen)
	if err != nil {
		return err
	}
	tries := 1
	if addr.Port() == 0 {
		tries = portTries
	}
	for range tries {
		if err = s.bind(ctx, addr); err == nil {
			return nil
		}
		for _, c := range s.udp {
			_ = c.Close()
		}
		if s.tcp != nil {
			_ = s.tcp.Close()
		}
		s.udp, s.tcp = nil, nil
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("dnsserver: listen on %s: %w: stop what holds the port (ss -lnptu 'sport = :%d' shows it) or listen elsewhere", addr, err, addr.Port())
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("dnsserver: listen on %s: %w: ports below 1024 need CAP_NET_BIND_SERVICE; grant it or use a port such as 8600", addr, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("dnsserver: listen on %s: %w: use an address of this machine", addr, err)
	}
	return fmt.Errorf("dnsserver: listen on %s: %w", addr, err)
}

func (s *Server) bind(ctx context.Context, addr netip.AddrPort) error {
	network := "tcp4"
	if addr.Addr().Is6() {
		network = "tcp6"
		if addr.Addr().IsUnspecified() {
			network = "tcp"
		}
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, network, addr.String())
	if err != nil {
		return err
	}
	s.tcp = ln
	addr = netip.AddrPortFrom(addr.Addr(), ln.Addr().(*net.TCPAddr).AddrPort().Port())

	sockets := s.cfg.Loops
	reuse := mmsg.CanReusePort && sockets > 1
	if reuse {
		// A shared port would also be shared with another process of the same user that
		// shares it: half the queries would go astray. An unshared socket finds out.
		probe, err := mmsg.Listen(ctx, addr, mmsg.ListenConfig{})
		if err != nil {
			return err
		}
		if err := probe.Close(); err != nil {
			return err
		}
	} else {
		sockets = 1
	}
	for range sockets {
		c, err := mmsg.Listen(ctx, addr, mmsg.ListenConfig{ReusePort: reuse, ReadBuffer: receiveBuffer})
		if err != nil {
			return err
		}
		s.udp = append(s.udp, c)
	}
	s.addr = addr
	return nil
}

// batchSize is how many datagrams one system call moves.
const batchSize = 32

// maxQuery is the longest query taken; none that this server understands comes near it.
const maxQuery = 4096

// serveUDP is one loop. It isn't locked to its thread: that was measured and costs a thread
// switch at each wait, which doubled the latency under light load and gained nothing.
func (s *Server) serveUDP(c *mmsg.Conn, r *responder) {
	b := c.NewBatch(batchSize, maxQuery, maxUDP)
	for {
		n, err := b.Recv()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// An ICMP error of some client's, or no memory for a moment: nothing that the
			// next call can't do better.
			s.log.Debug("dns receive", "error", err)
			runtime.Gosched()
			continue
		}
		r.sync()
		for i := range n {
			if b.Truncated(i) {
				r.counters.dropped.Add(1)
				continue
			}
			if size := r.serve(b.Packet(i), b.Out(i)); size > 0 {
				b.Queue(i, size)
			}
		}
		if err := b.Flush(); err != nil && errors.Is(err, net.ErrClosed) {
			return
		}
	}
}
