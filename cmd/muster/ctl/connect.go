package ctl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/musterhq/muster/sdk"
)

// config is what the flags say about how to connect.
func (g *globals) config(ctx context.Context, v *invocation) (sdk.Config, error) {
	for _, f := range []struct{ name, value string }{{"cert", g.cert}, {"key", g.key}, {"cacert", g.cacert}} {
		if f.value == "" && g.flags.Changed(f.name) {
			return sdk.Config{}, badArgs("empty string is passed to --%s option", f.name)
		}
	}
	cfg := sdk.Config{Timeout: g.commandTimeout, MaxMsgSize: g.maxReceiveBytes}
	if g.debug {
		cfg.Logger = slog.New(slog.NewTextHandler(v.err, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	var err error
	if cfg.Endpoints, err = g.members(ctx, v); err != nil {
		return cfg, err
	}
	if cfg.TLS, err = g.tlsConfig(); err != nil {
		return cfg, failed(exitArgs, "", err)
	}
	if cfg.Username, cfg.Password, err = g.credentials(v); err != nil {
		return cfg, err
	}
	cfg.Dial = g.dialer(cfg.Endpoints)
	return cfg, nil
}

// members lists the endpoints: those of --discovery-srv if it is given.
func (g *globals) members(ctx context.Context, v *invocation) ([]string, error) {
	if g.discoveryDomain == "" {
		for i, e := range g.endpoints {
			g.endpoints[i] = strings.TrimSpace(e)
		}
		return g.endpoints, nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.commandTimeout)
	defer cancel()
	suffix := ""
	if g.discoveryName != "" {
		suffix = "-" + g.discoveryName
	}
	var found []string
	var last error
	for _, s := range []struct{ service, scheme string }{{"etcd-client-ssl", "https"}, {"etcd-client", "http"}} {
		_, records, err := net.DefaultResolver.LookupSRV(ctx, s.service+suffix, "tcp", g.discoveryDomain)
		if err != nil {
			last = err
			continue
		}
		for _, r := range records {
			e := s.scheme + "://" + net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port)))
			if s.scheme == "http" && !g.insecureDiscovery {
				fmt.Fprintf(v.err, "ignoring discovered insecure endpoint %q\n", e)
				continue
			}
			found = append(found, e)
		}
	}
	if len(found) == 0 {
		return nil, &failure{
			code: exitError, text: fmt.Sprintf("--discovery-srv %s: no usable SRV record for etcd-client", g.discoveryDomain),
			hint: fmt.Sprintf("publish _etcd-client._tcp.%s, or name members with --endpoints", g.discoveryDomain), cause: last,
		}
	}
	g.endpoints = found
	return found, nil
}

// tlsConfig is nil where nothing asks for TLS; https endpoints then use the system's authorities.
func (g *globals) tlsConfig() (*tls.Config, error) {
	if g.cert == "" && g.key == "" && g.cacert == "" && g.insecureTransport && !g.insecureSkipVerify {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: g.insecureSkipVerify}
	if g.discoveryDomain != "" && !g.insecureDiscovery {
		cfg.ServerName = g.discoveryDomain
	}
	if g.cacert != "" {
		pem, err := os.ReadFile(g.cacert)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--cacert %s: no PEM certificate in it", g.cacert)
		}
	}
	if g.cert != "" || g.key != "" {
		if g.cert == "" || g.key == "" {
			return nil, fmt.Errorf("--cert %q and --key %q: give both", g.cert, g.key)
		}
		pair, err := tls.LoadX509KeyPair(g.cert, g.key)
		if err != nil {
			return nil, fmt.Errorf("--cert and --key: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

func (g *globals) credentials(v *invocation) (user, password string, err error) {
	switch {
	case g.token != "" && g.user != "":
		return "", "", badArgs("--auth-jwt-token and --user are both given; choose one")
	case g.user == "" && g.password != "":
		return "", "", badArgs("--password without --user; give both")
	case g.user == "" || g.password != "":
		return g.user, g.password, nil
	}
	user, password, given := strings.Cut(g.user, ":")
	if !given {
		password, err = askPassword(v)
	}
	return user, password, err
}

// dialer applies --dial-timeout and the keep-alive flags. Unix sockets have no use for them, and sdk dials those.
func (g *globals) dialer(endpoints []string) func(context.Context, string) (net.Conn, error) {
	for _, e := range endpoints {
		if strings.HasPrefix(e, "unix") {
			return nil
		}
	}
	d := &net.Dialer{Timeout: g.dialTimeout, KeepAliveConfig: net.KeepAliveConfig{
		Enable: g.keepAliveTime > 0, Idle: g.keepAliveTime, Interval: g.keepAliveTimeout / 3, Count: 3,
	}}
	return func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
}
