package sdk

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
)

const (
	defaultTimeout = 5 * time.Second
	// connectTimeout bounds one connection attempt, handshakes included.
	connectTimeout = 3 * time.Second
)

// Config says how to reach a cluster. Only Endpoints is needed.
type Config struct {
	// Endpoints are client addresses of members: host:port, http://, https://, unix:// or unixs://.
	Endpoints []string
	// TLS is used for https endpoints and for those without a scheme; nil there means plain text.
	TLS *tls.Config
	// Username and Password authenticate; a token is fetched when first needed and renewed when refused.
	Username, Password string
	// DialTimeout, if set, makes Open wait this long for a first connection and fail without one.
	DialTimeout time.Duration
	// Timeout is the deadline of a unary call whose context has none; 5 s if zero.
	Timeout time.Duration
	// Logger gets reconnects and lost sessions; none if nil.
	Logger *slog.Logger
	// Dial replaces the network, for in-process servers; addr is the endpoint without its scheme.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// MaxMsgSize bounds a received message in bytes; unbounded if zero.
	MaxMsgSize int
}

// Validate names the first field that can't be used.
func (cfg Config) Validate() error {
	if len(cfg.Endpoints) == 0 {
		return ErrNoEndpoints
	}
	for _, s := range cfg.Endpoints {
		if _, err := parseEndpoint(s, cfg.TLS != nil); err != nil {
			return err
		}
	}
	switch {
	case cfg.Timeout < 0:
		return fmt.Errorf("%w: Config.Timeout is %v; use zero for 5 s", ErrInvalid, cfg.Timeout)
	case cfg.DialTimeout < 0:
		return fmt.Errorf("%w: Config.DialTimeout is %v; use zero not to wait", ErrInvalid, cfg.DialTimeout)
	case cfg.MaxMsgSize < 0:
		return fmt.Errorf("%w: Config.MaxMsgSize is %d; use zero for no bound", ErrInvalid, cfg.MaxMsgSize)
	case cfg.Username == "" && cfg.Password != "":
		return fmt.Errorf("%w: Config.Password without Username; set both", ErrInvalid)
	}
	return nil
}

// Client talks to one cluster. See the package comment for its rules.
type Client struct {
	cfg  Config
	conn *failover
	log  *slog.Logger
}

// Open makes a client. Unless Config.DialTimeout asks for it, it doesn't wait for a connection: members are dialed when
// the first call needs one.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f, err := newFailover(context.WithoutCancel(ctx), cfg, log)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, conn: f, log: log}
	if cfg.DialTimeout > 0 {
		ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
		defer cancel()
		if err := f.waitReady(ctx); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// Close ends all connections, calls and watches, and waits for the client's goroutines. Sessions should be closed
// first: without a connection they can only expire.
func (c *Client) Close() error { return c.conn.close() }

// Endpoints lists the configured endpoints.
func (c *Client) Endpoints() []string { return c.conn.endpoints() }

// SetEndpoints replaces the endpoints. Connections to those that stay are kept; calls under way on the others fail over.
func (c *Client) SetEndpoints(endpoints ...string) error { return c.conn.setEndpoints(endpoints) }

// Conn is the fail-over connection, for generated stubs: deadlines, retries, authentication and errors are as for the
// Client's own calls.
func (c *Client) Conn() grpc.ClientConnInterface { return c.conn }

// ConnTo is a connection to one endpoint, whether configured or not: no fail-over, no repeating, no demand for a
// leader. It lives as long as the client.
func (c *Client) ConnTo(endpoint string) (grpc.ClientConnInterface, error) {
	return c.conn.pinned(endpoint)
}
