package sdk

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
)

// endpoint is one address a member listens on, taken apart.
type endpoint struct {
	name    string // as configured; what callers and errors see
	network string // tcp or unix
	addr    string
	tls     bool
}

// parseEndpoint accepts host:port, http://host:port, https://host:port, unix://path and unixs://path. Without a scheme,
// TLS is used if the client has a TLS config; https and unixs use it always, http and unix never.
func parseEndpoint(s string, hasTLS bool) (endpoint, error) {
	e := endpoint{name: s, network: "tcp", addr: s, tls: hasTLS}
	if scheme, rest, found := strings.Cut(s, "://"); found {
		e.addr = rest
		switch scheme {
		case "http":
			e.tls = false
		case "https":
			e.tls = true
		case "unix", "unixs":
			e.network, e.tls = "unix", scheme == "unixs"
		default:
			return e, fmt.Errorf("%w: endpoint %q has scheme %q; use http, https, unix or unixs", ErrInvalid, s, scheme)
		}
	}
	if e.network == "unix" {
		if e.addr == "" {
			return e, fmt.Errorf("%w: endpoint %q has no path", ErrInvalid, s)
		}
		return e, nil
	}
	e.addr = strings.TrimSuffix(e.addr, "/")
	if _, port, err := net.SplitHostPort(e.addr); err != nil || port == "" {
		return e, fmt.Errorf("%w: endpoint %q is not host:port, such as 127.0.0.1:2379", ErrInvalid, s)
	}
	return e, nil
}

func (e endpoint) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, e.network, e.addr)
}

// tlsConfig is nil for plain text. With no configuration of one's own, https trusts the system's authorities.
func (e endpoint) tlsConfig(c *tls.Config) *tls.Config {
	switch {
	case !e.tls:
		return nil
	case c == nil:
		return &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return c.Clone()
}
