package h2load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Run calls and waits for the end. Cancelling ctx ends it early, without an error; what
// was measured until then is reported. With an error too, of a connection that broke.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if err := cfg.setDefaults(); err != nil {
		return Report{}, err
	}
	var l load
	l.left.Store(int64(cfg.Total))
	if cfg.Total <= 0 {
		l.left.Store(1 << 62)
	}
	workers := make([]*worker, cfg.Conns)
	var wg sync.WaitGroup
	errs := make([]error, len(workers))
	for i := range workers {
		clients := cfg.Clients / cfg.Conns
		if i < cfg.Clients%cfg.Conns {
			clients++
		}
		wg.Go(func() { workers[i], errs[i] = dial(ctx, &cfg, i, clients, &l) })
	}
	wg.Wait()
	defer func() {
		for _, w := range workers {
			if w != nil {
				w.conn.Close()
			}
		}
	}()
	if err := errors.Join(errs...); err != nil {
		return Report{}, firstOf(errs)
	}

	if cfg.Begin != nil {
		cfg.Begin()
	}
	start := time.Now()
	end := time.AfterFunc(cfg.durationOrEver(), func() { l.stop.Store(true) })
	defer end.Stop()
	progressed := make(chan struct{})
	watching, cancel := context.WithCancel(ctx)
	go func() {
		defer close(progressed)
		l.report(watching, cfg.Progress)
	}()
	for i, w := range workers {
		wg.Go(func() { errs[i] = w.run(ctx, start) })
	}
	wg.Wait()
	r := Report{Errors: map[string]uint64{}, Elapsed: time.Since(start)}
	if cfg.End != nil {
		cfg.End()
	}
	cancel()
	<-progressed
	for _, w := range workers {
		r.add(&w.session.stats)
	}
	return r, firstOf(errs)
}

// firstOf is the first error, and how many there are of its like: a hundred connections
// that are refused need saying once.
func firstOf(errs []error) error {
	var first error
	n := 0
	for _, err := range errs {
		if err != nil && first == nil {
			first = err
		}
		if err != nil {
			n++
		}
	}
	if n > 1 {
		return fmt.Errorf("%d of %d connections failed, the first: %w", n, len(errs), first)
	}
	return first
}

func (cfg *Config) durationOrEver() time.Duration {
	if cfg.Duration > 0 {
		return cfg.Duration
	}
	return timeless
}

// report tells progress four times a second.
func (l *load) report(ctx context.Context, progress func(int64)) {
	if progress == nil {
		return
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			progress(l.done.Load())
		}
	}
}

// worker moves a session's bytes. Its session is its goroutine's.
type worker struct {
	cfg     *Config
	conn    net.Conn
	session *session
	start   time.Time
	buf     []byte
	have    int // bytes of buf that are not worked off yet
}

// readBuffer holds several of the largest frames.
const readBuffer = 128 << 10

// dial connects and waits for the server's settings.
func dial(ctx context.Context, cfg *Config, number, clients int, l *load) (*worker, error) {
	addr := cfg.Addrs[number%len(cfg.Addrs)]
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	w := &worker{cfg: cfg, conn: conn, session: newSession(cfg, number, clients, l), start: time.Now(), buf: make([]byte, readBuffer)}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	for !w.session.settled && err == nil {
		if err = w.flush(); err == nil {
			err = w.read()
		}
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("HTTP/2 with %s: %w", addr, err)
	}
	return w, nil
}

func (w *worker) flush() error {
	if len(w.session.out) == 0 {
		return nil
	}
	_, err := w.conn.Write(w.session.out)
	w.session.out = w.session.out[:0]
	return err
}

// read waits for bytes and works them off.
func (w *worker) read() error {
	n, err := w.conn.Read(w.buf[w.have:])
	w.have += n
	used, ferr := w.session.feed(w.buf[:w.have], time.Since(w.start))
	w.have = copy(w.buf, w.buf[used:w.have])
	if ferr != nil {
		return ferr
	}
	return err
}

// run calls until none may begin and all are answered.
func (w *worker) run(ctx context.Context, start time.Time) error {
	defer context.AfterFunc(ctx, func() { _ = w.conn.SetReadDeadline(time.Unix(1, 0)) })()
	s := w.session
	w.start = start
	var heard, deadline time.Duration
	for {
		now := time.Since(start)
		next, err := s.pump(now)
		if err != nil {
			return err
		}
		if err := w.flush(); err != nil {
			return w.failed(err)
		}
		if !s.waiting() && s.load.stop.Load() {
			return nil
		}
		if !s.waiting() && s.goingAway {
			return w.failed(errors.New("the server is going away"))
		}
		// Moving a deadline costs; so that of a silent server is moved twice in a time-out.
		if wake := min(next, now+w.cfg.Timeout); wake == next || deadline < now+w.cfg.Timeout/2 {
			deadline = wake
			_ = w.conn.SetReadDeadline(start.Add(deadline))
		}
		if ctx.Err() != nil {
			return nil
		}
		switch err := w.read(); {
		case err == nil:
			heard = time.Since(start)
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return w.failed(err)
		case !s.waiting() || w.cfg.Push:
			heard = time.Since(start)
		case time.Since(start)-heard >= w.cfg.Timeout:
			return w.failed(fmt.Errorf("no answer for %v", w.cfg.Timeout))
		}
	}
}

// failed names the server, and counts the calls that nobody will answer now.
func (w *worker) failed(err error) error {
	for range len(w.session.stream) - len(w.session.idle) {
		w.session.stats.fail("connection broke")
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("the server closed the connection: %w", err)
	}
	return fmt.Errorf("%s: %w", w.conn.RemoteAddr(), err)
}
