package lock_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/recipes/lock"
	"github.com/musterhq/muster/sdk"
	"github.com/musterhq/muster/sdk/mustertest"
)

// Answers that are lost on their way, and requests that arrive late.

// cutter loses the answers to what it is armed for: the request gets through, then the connection breaks.
type cutter struct {
	net.Conn
	armed *atomic.Int32
}

func (c *cutter) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && strings.Contains(string(p[:n]), "cut/") && c.armed.Add(-1) >= 0 {
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// through opens a client whose connections are wrapped.
func through(cluster *mustertest.Cluster, wrap func(net.Conn) net.Conn) *sdk.Client {
	return cluster.Open(sdk.Config{Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		return wrap(conn), nil
	}})
}

// cuttable is a mutex, and how many answers about it are still to be lost.
func cuttable(t *testing.T, cluster *mustertest.Cluster) (*lock.Mutex, *atomic.Int32) {
	armed := new(atomic.Int32)
	armed.Store(-1 << 20)
	faulty := through(cluster, func(conn net.Conn) net.Conn { return &cutter{Conn: conn, armed: armed} })
	return lock.NewMutex(session(t, faulty), "cut"), armed
}

// lostAnswers breaks the connection when the answer to the acquiring transaction arrives: it names the own key.
func lostAnswers(t *testing.T, cluster *mustertest.Cluster, c *sdk.Client) {
	m, armed := cuttable(t, cluster)
	armed.Store(3)
	l, err := m.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waiters(t, c, "cut", 1)
	if n := armed.Load(); n > 0 {
		t.Errorf("%d answers were not lost", n)
	}
	if err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if err := l.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	armed.Store(2)
	if _, err := m.TryLock(t.Context()); err != nil {
		t.Errorf("try: %v", err)
	}
	waiters(t, c, "cut", 1)
}

// noSpace has a holder, the answer to whose first try was lost, give its lock back while nothing may be written any more.
func noSpace(t *testing.T, cluster *mustertest.Cluster, c *sdk.Client) {
	m, armed := cuttable(t, cluster)
	armed.Store(1)
	l, err := m.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if armed.Load() > 0 {
		t.Fatal("no answer was lost")
	}
	conn, err := c.ConnTo(cluster.Endpoints()[0])
	if err != nil {
		t.Fatal(err)
	}
	alarm := func(action pb.AlarmRequest_AlarmAction) {
		t.Helper()
		if _, err := pb.NewMaintenanceClient(conn).Alarm(t.Context(), &pb.AlarmRequest{Action: action, Alarm: pb.AlarmType_NOSPACE}); err != nil {
			t.Error(err)
		}
	}
	alarm(pb.AlarmRequest_ACTIVATE)
	defer alarm(pb.AlarmRequest_DEACTIVATE)
	if _, err := c.Put(t.Context(), "more", nil); !errors.Is(err, sdk.ErrNoSpace) {
		t.Fatalf("put: %v; want %v", err, sdk.ErrNoSpace)
	}
	if err := l.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	waiters(t, c, "cut", 0)
}

// parking holds a request back: when it is armed, what is written from the first mention of the lock on is kept, and
// the connection is dead to the client, while the member's side of it stays open.
type parking struct {
	net.Conn
	armed *atomic.Bool
	held  chan *parking // gets the connection that was parked

	mu     sync.Mutex
	parked bool
	bytes  []byte
}

func (p *parking) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.parked && strings.Contains(string(b), "late/") && p.armed.CompareAndSwap(true, false) {
		p.parked = true
		_ = p.Conn.SetReadDeadline(time.Now()) // wakes the reader, which sees a broken connection
		p.held <- p
	}
	if p.parked {
		p.bytes = append(p.bytes, b...)
		return len(b), nil
	}
	return p.Conn.Write(b)
}

func (p *parking) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parked {
		return nil
	}
	return p.Conn.Close()
}

// deliver lets the member have what was held back, and returns once it has answered.
func (p *parking) deliver(t *testing.T) {
	t.Helper()
	if err := p.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Conn.Write(p.bytes); err != nil {
		t.Fatal(err)
	}
	const data = 0 // HTTP/2's frame type
	for header := make([]byte, 9); ; {
		if _, err := io.ReadFull(p.Conn, header); err != nil {
			t.Fatal(err)
		}
		n := int64(header[0])<<16 | int64(header[1])<<8 | int64(header[2])
		if _, err := io.CopyN(io.Discard, p.Conn, n); err != nil {
			t.Fatal(err)
		}
		if header[3] == data {
			break
		}
	}
	if err := p.Conn.Close(); err != nil {
		t.Error(err)
	}
}

// lateCopy has the acquiring transaction executed once more after everything is over: by a member that was stopped
// with it in hand, say. Its session lives on, so what it leaves would stand in the way of everybody else.
func lateCopy(t *testing.T, cluster *mustertest.Cluster, c *sdk.Client) {
	for name, use := range map[string]func(*testing.T, *lock.Mutex){
		"lock and unlock": func(t *testing.T, m *lock.Mutex) {
			l, err := m.Lock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Unlock(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		"refused try": func(t *testing.T, m *lock.Mutex) {
			holder, err := lock.NewMutex(session(t, c), "late").Lock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.TryLock(t.Context()); !errors.Is(err, lock.ErrLocked) {
				t.Fatalf("try: %v", err)
			}
			if err := holder.Unlock(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var armed atomic.Bool
			held := make(chan *parking, 1)
			faulty := through(cluster, func(conn net.Conn) net.Conn { return &parking{Conn: conn, armed: &armed, held: held} })
			s := session(t, faulty)
			armed.Store(true)
			use(t, lock.NewMutex(s, "late"))
			select {
			case p := <-held:
				p.deliver(t)
			default:
				t.Fatal("no request was held back")
			}
			if r, err := c.Get(t.Context(), "late/", sdk.WithPrefix()); err != nil || r.Count != 0 {
				t.Errorf("the line holds %v, %v; want nothing", r.KVs, err)
			}
			if s.Err() != nil {
				t.Errorf("the session has ended meanwhile: %v", s.Err())
			}
		})
	}
}

// deaf keeps from the member what is sent of a lock while it is armed, and nothing else.
type deaf struct {
	net.Conn
	armed *atomic.Bool
}

func (d *deaf) Write(b []byte) (int, error) {
	if !d.armed.Load() {
		return d.Conn.Write(b)
	}
	const header, data = 9, 0 // of HTTP/2's frames: size, and the type
	var heard []byte
	for rest := b; len(rest) > 0; {
		n := len(rest)
		if n > header {
			n = min(n, header+(int(rest[0])<<16|int(rest[1])<<8|int(rest[2])))
		}
		if n <= header || rest[3] != data || !strings.Contains(string(rest[:n]), "deaf/") {
			heard = append(heard, rest[:n]...)
		}
		rest = rest[n:]
	}
	_, err := d.Conn.Write(heard)
	return len(b), err
}

// lateGivingUp has a waiter lose patience while nothing it says of the lock is heard, for longer than its lease lives. Its
// session lives on, with the key: it would stand in the way of everybody else.
func lateGivingUp(t *testing.T, cluster *mustertest.Cluster, c *sdk.Client) {
	t.Parallel()
	var armed atomic.Bool
	faulty := through(cluster, func(conn net.Conn) net.Conn { return &deaf{conn, &armed} })
	holder, err := lock.NewMutex(session(t, c), "deaf").Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := session(t, faulty, sdk.WithTTL(2*time.Second))
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := lock.NewMutex(s, "deaf").Lock(ctx)
		failed <- err
	}()
	waiters(t, c, "deaf", 2)
	armed.Store(true)
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want context.Canceled", err)
	}
	waiters(t, c, "deaf", 2)
	armed.Store(false)
	if err := holder.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	waiters(t, c, "deaf", 0)
	if s.Err() != nil {
		t.Errorf("the session has ended meanwhile: %v", s.Err())
	}
}
