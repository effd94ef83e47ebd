package h2load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// Client makes single calls, one after the other, on one connection.
type Client struct {
	cfg     Config // of its one session
	worker  *worker
	request []byte
	reply   []byte
	got     bool
}

// Dial connects to a server, host:port.
func Dial(ctx context.Context, addr string) (*Client, error) {
	c := &Client{}
	c.cfg = Config{
		Addrs: []string{addr}, Total: 1,
		Next: func(int) func(int, []byte) []byte {
			return func(_ int, dst []byte) []byte { return append(dst, c.request...) }
		},
		Receive: func(int) func(int, []byte, time.Duration) error {
			return func(_ int, msg []byte, _ time.Duration) error {
				c.reply, c.got = append(c.reply[:0], msg...), true
				return nil
			}
		},
	}
	if err := c.cfg.setDefaults(); err != nil {
		return nil, err
	}
	w, err := dial(ctx, &c.cfg, 0, 1, &load{})
	if err != nil {
		return nil, err
	}
	c.worker = w
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() { c.worker.conn.Close() }

// Call makes a unary call and returns the reply message, valid until the next call. After
// a context's end or a broken connection the Client is of no more use.
func (c *Client) Call(ctx context.Context, method string, request []byte) ([]byte, error) {
	s := c.worker.session
	switch first, again := requestHeaders(c.cfg.authority(), method); {
	case s.nextID == 1:
		s.first = first
	default:
		s.first = withPath(again, method)
	}
	c.request, c.got = request, false
	s.load.left.Store(1)
	s.load.stop.Store(false)
	clear(s.stats.errors)
	if err := c.worker.run(ctx, time.Now()); err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	for failure := range s.stats.errors {
		return nil, fmt.Errorf("%s: %w: %s", method, ErrRefused, failure)
	}
	if !c.got {
		return nil, fmt.Errorf("%s: %w", method, cmp.Or(context.Cause(ctx), ErrProtocol))
	}
	return c.reply, nil
}

// ErrRefused is wrapped where a call was answered with an error.
var ErrRefused = errors.New("refused")
