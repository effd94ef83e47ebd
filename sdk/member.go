package sdk

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// member is one endpoint and its connection, which dials only when asked to.
type member struct {
	endpoint
	cc     *grpc.ClientConn
	cancel context.CancelFunc
	done   chan struct{}
	avoid  time.Time // until then others are preferred; guarded by failover.mu
}

// newMember also starts the goroutine that reports every change of the connection's state.
func newMember(ctx context.Context, e endpoint, cfg Config, log *slog.Logger, changed func()) (*member, error) {
	creds := insecure.NewCredentials()
	if t := e.tlsConfig(cfg.TLS); t != nil {
		creds = credentials.NewTLS(t)
	}
	size := cfg.MaxMsgSize
	if size == 0 {
		size = math.MaxInt32
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			if cfg.Dial != nil {
				return cfg.Dial(ctx, e.addr)
			}
			return e.dial(ctx)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(size)),
		// A member that neither answers pings nor closes is found out within 13 s while calls or watches are open.
		// Members allow no more than one ping in 5 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
	}
	target := "passthrough:///" + e.addr
	if e.network == "unix" {
		target = "passthrough:///unix"
		opts = append(opts, grpc.WithAuthority("localhost"))
	}
	cc, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, fmt.Errorf("%w: endpoint %q: %w", ErrInvalid, e.name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	m := &member{endpoint: e, cc: cc, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		for state := cc.GetState(); cc.WaitForStateChange(ctx, state); {
			state = cc.GetState()
			log.Debug("sdk: connection changed", "endpoint", e.name, "state", state.String())
			changed()
		}
	}()
	return m, nil
}

// close waits for the member's goroutine.
func (m *member) close() error {
	m.cancel()
	err := m.cc.Close()
	<-m.done
	return err
}

func (m *member) ready() bool { return m.cc.GetState() == connectivity.Ready }

// pending tells whether the connection is being made, and begins to make it if start is set.
func (m *member) pending(start bool) bool {
	switch m.cc.GetState() {
	case connectivity.Connecting:
		return true
	case connectivity.Idle:
		if start {
			m.cc.Connect()
		}
		return true
	}
	return false
}
