package registrar

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	lib "github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/sdk"
)

// service is what serve does.
type service struct {
	cfg     lib.Config
	reload  func() (lib.Config, error) // nil: SIGHUP isn't ours
	command []string                   // empty: none
	logger  *slog.Logger
}

// hurryTimeout bounds deregistration after a second signal.
const hurryTimeout = 2 * time.Second

// serve runs until a signal, or until the command ends.
func serve(ctx context.Context, s service) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGCONT)
	defer signal.Stop(signals)

	client, err := openClient(ctx, s.cfg.Store, s.logger)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	listeners, url, err := listen(s.cfg.API)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()

	// The command first: what can't be started must not be registered.
	var cmd *child
	if len(s.command) > 0 {
		if cmd, err = startChild(s.command, childEnv(url, s.cfg.API.Unix)); err != nil {
			return err
		}
	}
	reg, err := lib.Open(ctx, s.cfg, lib.Options{Store: lib.NewStore(client), Logger: s.logger})
	if err != nil {
		if cmd != nil {
			stop(cmd, syscall.SIGTERM, s.cfg.Drain.Timeout, nil)
		}
		return err
	}
	stopAPI := serveAPI(listeners, reg.API(), s.logger)
	defer stopAPI()

	l := leaving{reg: reg, cmd: cmd, signals: signals, logger: s.logger, timeout: s.cfg.Drain.Timeout}
	for {
		select {
		case sig := <-signals:
			switch {
			case sig == syscall.SIGTERM || sig == syscall.SIGINT:
				return l.leave(ctx, sig.(syscall.Signal)) //nolint:forcetypeassert // signals on unix are
			case sig == syscall.SIGHUP && s.reload != nil:
				reload(reg, s)
			case cmd != nil:
				cmd.signal(sig.(syscall.Signal)) //nolint:forcetypeassert // as above
			case sig == syscall.SIGHUP || sig == syscall.SIGQUIT:
				return l.leave(ctx, syscall.SIGTERM) // nothing to pass it on to: what it does to any program
			}
		case <-ctx.Done():
			return l.leave(context.WithoutCancel(ctx), syscall.SIGTERM)
		case <-ended(cmd):
			s.logger.Info("command ended; deregistering")
			return l.finish(context.WithoutCancel(ctx), s.cfg.Drain.Timeout)
		}
	}
}

// ended is nil, which blocks for ever, without a command.
func ended(c *child) <-chan struct{} {
	if c == nil {
		return nil
	}
	return c.done
}

func reload(reg *lib.Registrar, s service) {
	cfg, err := s.reload()
	if err == nil {
		err = reg.Reload(cfg)
	}
	if err != nil {
		s.logger.Error("configuration not reloaded; the old one stays in force", "error", err)
		return
	}
	s.logger.Info("configuration reloaded", "services", len(cfg.Services))
}

// leaving is the way out: drain, stop the command, deregister.
type leaving struct {
	reg     *lib.Registrar
	cmd     *child
	signals <-chan os.Signal
	logger  *slog.Logger
	timeout time.Duration
}

// leave goes the whole way. A second SIGTERM or SIGINT cuts the waiting short, a third kills.
func (l *leaving) leave(ctx context.Context, sig syscall.Signal) error {
	l.logger.Info("draining", "signal", sig.String())
	dctx, hurry := context.WithCancel(ctx)
	defer hurry()
	hurried := make(chan struct{})
	stopWatching := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stopWatching)
	wg.Go(func() {
		n := 0
		for {
			select {
			case s := <-l.signals:
				again, isSignal := s.(syscall.Signal)
				switch {
				case again == syscall.SIGTERM || again == syscall.SIGINT:
					switch n++; n {
					case 1:
						hurry()
						close(hurried)
					case 2:
						if l.cmd == nil {
							os.Exit(1) // told three times: not even deregistration is waited for
						}
						l.cmd.signal(syscall.SIGKILL)
					default:
						os.Exit(1)
					}
				case isSignal && l.cmd != nil && again != syscall.SIGCHLD:
					l.cmd.signal(again)
				}
			case <-ended(l.cmd):
				hurry() // nothing is left to drain
				<-stopWatching
				return
			case <-stopWatching:
				return
			}
		}
	})
	if err := l.reg.Drain(dctx); err != nil && dctx.Err() == nil {
		l.logger.Warn("going on without a drain", "error", err)
	}
	if l.cmd != nil {
		stop(l.cmd, sig, l.timeout, l.logger)
	}
	timeout := l.timeout
	select {
	case <-hurried:
		timeout = hurryTimeout
	default:
	}
	return l.finish(ctx, timeout)
}

// finish deregisters and returns what to exit with.
func (l *leaving) finish(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := l.reg.Close(ctx); err != nil {
		l.logger.Warn("not deregistered; the lease will end it", "error", err)
	} else {
		l.logger.Info("deregistered")
	}
	if l.cmd != nil {
		return l.cmd.exit()
	}
	return nil
}

// stop ends the command: by the signal, and by force if it doesn't heed it in time.
func stop(c *child, sig syscall.Signal, timeout time.Duration, logger *slog.Logger) {
	c.signal(sig)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		if logger != nil {
			logger.Warn("command didn't stop in time; killing it", "timeout", timeout)
		}
		c.signal(syscall.SIGKILL)
		<-c.done
	}
}

// openClient connects to the store; it doesn't wait for it.
func openClient(ctx context.Context, c lib.StoreConfig, logger *slog.Logger) (*sdk.Client, error) {
	cfg := sdk.Config{Endpoints: c.Endpoints, Username: c.User, Logger: logger}
	if c.PasswordFile != "" {
		f, err := os.Open(c.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("store.password_file: %w", err)
		}
		defer func() { _ = f.Close() }()
		line := bufio.NewScanner(f)
		line.Scan()
		if cfg.Password = line.Text(); cfg.Password == "" {
			return nil, fmt.Errorf("store.password_file %s: the first line is empty: write the password there", c.PasswordFile)
		}
	}
	var err error
	if cfg.TLS, err = tlsConfig(c); err != nil {
		return nil, err
	}
	return sdk.Open(ctx, cfg)
}

// tlsConfig is nil if nothing asks for TLS. The client certificate is read at each handshake, so that a renewed one is
// used without a restart.
func tlsConfig(c lib.StoreConfig) (*tls.Config, error) {
	needed := c.TLS != lib.TLSConfig{}
	for _, e := range c.Endpoints {
		needed = needed || strings.HasPrefix(e, "https://") || strings.HasPrefix(e, "unixs:")
	}
	if !needed {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLS.CA != "" {
		pem, err := os.ReadFile(c.TLS.CA)
		if err != nil {
			return nil, fmt.Errorf("store.tls.ca: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("store.tls.ca %s: no certificate in it: give a PEM file", c.TLS.CA)
		}
	}
	if c.TLS.Cert != "" {
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key)
			return &cert, err
		}
		if _, err := load(); err != nil {
			return nil, fmt.Errorf("store.tls: %w", err)
		}
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return out, nil
}

// listen opens the API's listeners and returns the URL of the one on loopback.
func listen(c lib.APIConfig) (out []net.Listener, url string, err error) {
	if c.HTTP != "" {
		l, err := net.Listen("tcp", c.HTTP)
		if err != nil {
			return nil, "", fmt.Errorf("api.http: %w", err)
		}
		out, url = append(out, l), "http://"+l.Addr().String()
	}
	if c.Unix != "" {
		l, err := listenUnix(c.Unix)
		if err != nil {
			for _, o := range out {
				_ = o.Close()
			}
			return nil, "", fmt.Errorf("api.unix: %w", err)
		}
		out = append(out, l)
	}
	return out, url, nil
}

// listenUnix replaces a socket that nobody serves any more.
func listenUnix(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if conn, derr := net.Dial("unix", path); derr == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("%s is served by another process: give each registrar its own", path)
		}
		if rerr := os.Remove(path); rerr != nil {
			return nil, rerr
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o660)
}

// serveAPI serves until the returned function is called.
func serveAPI(listeners []net.Listener, h http.Handler, logger *slog.Logger) (stop func()) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	var wg sync.WaitGroup
	for _, l := range listeners {
		logger.Info("api is served", "addr", l.Addr().String())
		wg.Go(func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				logger.Error("api ended", "error", err)
			}
		})
	}
	return func() {
		_ = srv.Close()
		wg.Wait()
	}
}
