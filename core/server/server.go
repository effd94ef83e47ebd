package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/musterhq/muster/core/ops"
	"github.com/musterhq/muster/core/rpc"
)

// What this release says it is on etcd's wire: clients parse it as a plain
// version and switch features by it.
const (
	EtcdVersion    = "3.7.3"
	clusterVersion = "3.7.0"
	storageVersion = "3.7.0"
)

// Server is one running member with its listeners.
type Server struct {
	cfg       Config
	log       *slog.Logger
	node      Node
	listeners *listeners
	mux       *portMux
	rpc       *rpc.Server
	http      []*http.Server

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // everything this package started

	failed    chan struct{} // closed with err set
	failOnce  sync.Once
	err       error
	closeOnce sync.Once
	closeErr  error
}

// Open starts a member: it returns once everything is bound, recovered and
// being served. Whether the cluster has a leader yet is another matter: the
// line "ready to serve client requests" says when.
func Open(ctx context.Context, cfg Config) (_ *Server, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OpenNode == nil {
		cfg.OpenNode = openNode
	}
	s := &Server{cfg: cfg, log: cfg.Logger, failed: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			s.abandon(ctx)
		}
	}()

	// Ports first: what is taken is found out before a file is touched.
	if s.listeners, err = bind(&s.cfg); err != nil {
		return nil, err
	}
	s.cfg.ListenClientURLs = bound(s.cfg.ListenClientURLs, s.listeners.client)
	s.cfg.ListenPeerURLs = bound(s.cfg.ListenPeerURLs, s.listeners.peer)
	s.cfg.ListenMetricsURLs = bound(s.cfg.ListenMetricsURLs, s.listeners.metrics)
	s.cfg.fill()
	s.log.Info("starting a member", s.cfg.startAttrs(EtcdVersion)...)

	registry := s.cfg.Registry
	if registry == nil {
		registry = prometheus.NewRegistry()
	}
	instruments, err := ops.NewInstruments(registry)
	if err != nil {
		return nil, err
	}

	// The member: locks the data directory, reads the checkpoint, replays the log.
	nc, err := nodeConfig(&s.cfg, s.listeners.peer, instruments)
	if err != nil {
		return nil, err
	}
	if s.node, err = s.cfg.OpenNode(ctx, nc); err != nil {
		return nil, err
	}

	// What clients and operators talk to.
	if s.rpc, err = rpc.NewServer(s.rpcConfig(registry)); err != nil { //nolint:contextcheck // its goroutines outlive this call, Close ends them
		return nil, err
	}
	operators, err := ops.New(ops.Config{
		Member: opsMember{s.node}, MemberID: s.node.ID(),
		Version: EtcdVersion, ClusterVersion: clusterVersion, StorageVersion: storageVersion,
		CheckTimeout: 5*time.Second + 2*s.cfg.ElectionTimeout,
		Registry:     registry, Logger: s.log,
	})
	if err != nil {
		return nil, err
	}

	// From here on it is served.
	s.serveClients(operators, instruments)
	s.serveMetrics(operators)
	s.startBackground()
	if keep, err := s.cfg.retention(); err == nil && keep != (Retention{}) {
		s.wg.Go(func() { runCompactor(s.ctx, s.node, keep, s.log) })
	}
	s.wg.Go(s.watchNode)
	s.wg.Go(s.announceReady)
	return s, nil
}

func (s *Server) rpcConfig(registry *prometheus.Registry) rpc.Config {
	// The longest message is settled here for good; what a request may be is the
	// cluster's to say at any time.
	maxMessage := max(int(s.cfg.MaxRequestBytes), int(s.node.View().Settings.MaxRequestBytes)) + 512<<10
	return rpc.Config{
		Node:      s.node,
		ClusterID: s.node.ClusterID(), MemberID: s.node.ID(),
		Watch: rpc.NewWatchServer(rpc.WatchConfig{
			Hub: s.node.Hub(), ClusterID: s.node.ClusterID(), MemberID: s.node.ID(), Term: s.node.Term,
			ProgressInterval: s.cfg.WatchProgressNotifyInterval,
			MaxFragmentBytes: maxMessage,
			Logger:           s.log,
		}),
		Services: s.cfg.Services,
		Version:  EtcdVersion, StorageVersion: storageVersion,
		MaxMessageBytes:      maxMessage,
		MaxConcurrentStreams: s.cfg.MaxConcurrentStreams,
		Room:                 s.node.Room,
		ElectionTimeout:      s.cfg.ElectionTimeout,
		WarnAfter:            s.cfg.WarningUnaryRequestDuration,
		LatencyHistogram:     s.cfg.Metrics == "extensive",
		Registerer:           registry,
		Logger:               s.log,
	}
}

func (s *Server) serveClients(operators *ops.Ops, in *ops.Instruments) {
	s.mux = newPortMux(s.log, maxConns(), s.listeners.client[0].Addr(), in.ClientRecvBytes, in.ClientSentBytes)
	handlers := http.NewServeMux()
	operators.Register(handlers)
	if s.cfg.EnablePprof {
		operators.RegisterProfiles(handlers)
	}
	for pattern, h := range s.cfg.Handlers {
		handlers.Handle(pattern, h)
	}
	s.wg.Go(func() { s.check("gRPC", s.rpc.Serve(s.mux.grpc)) })
	s.serveHTTP(s.mux.http, handlers)
	for i, lis := range s.listeners.client {
		s.mux.serve(lis)
		s.log.Info("serving client traffic", "address", lis.Addr().String(), "url", s.cfg.ListenClientURLs[i])
	}
}

func (s *Server) serveMetrics(operators *ops.Ops) {
	handlers := http.NewServeMux()
	operators.RegisterMetrics(handlers)
	for _, lis := range s.listeners.metrics {
		s.serveHTTP(lis, handlers)
	}
}

// serveHTTP bounds how long a client may take to say what it wants, and how
// much it may say.
func (s *Server) serveHTTP(lis net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
	}
	s.http = append(s.http, srv)
	s.wg.Go(func() {
		if err := srv.Serve(lis); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.check("HTTP", err)
		}
	})
}

func (s *Server) startBackground() {
	for _, run := range s.cfg.Background {
		s.wg.Go(func() {
			if err := run(s.ctx, s.InProcess()); err != nil && s.ctx.Err() == nil {
				s.fail(err)
			}
		})
	}
}

// check ends the server if serving ended for another reason than Close.
func (s *Server) check(what string, err error) {
	if err != nil && s.ctx.Err() == nil {
		s.fail(fmt.Errorf("serving %s to clients: %w", what, err))
	}
}

func (s *Server) fail(err error) {
	s.failOnce.Do(func() {
		s.err = err
		close(s.failed)
	})
}

// watchNode ends the server when the member has stopped by itself.
func (s *Server) watchNode() {
	select {
	case <-s.node.Done():
		if err := s.node.Err(); err != nil {
			s.fail(err)
		}
	case <-s.ctx.Done():
	}
}

func (s *Server) announceReady() {
	if err := s.node.WaitReady(s.ctx); err != nil {
		return
	}
	s.log.Info("ready to serve client requests")
}

// InProcess reaches the member's gRPC services without a network.
func (s *Server) InProcess() InProcess { return InProcess{s.mux.grpc} }

// ClientURLs are where clients are served, with the ports that were chosen for 0.
func (s *Server) ClientURLs() []string { return s.cfg.ListenClientURLs }

// MetricsURLs likewise.
func (s *Server) MetricsURLs() []string { return s.cfg.ListenMetricsURLs }

// Failed is closed when the member can't go on; Err says why.
func (s *Server) Failed() <-chan struct{} { return s.failed }

// Err is why the member stopped by itself. It is nil until Failed is closed.
func (s *Server) Err() error {
	select {
	case <-s.failed:
		return s.err
	default:
		return nil
	}
}

// drainTime is what calls under way get before they are broken off.
const drainTime = 400 * time.Millisecond

// Close hands leadership over, lets calls under way finish within ctx and
// releases everything. It may be called again.
func (s *Server) Close(ctx context.Context) error {
	s.closeOnce.Do(func() {
		s.log.Info("closing the member", "name", s.cfg.Name)
		// No new callers; what runs beside the services goes before them.
		s.cancel()
		s.mux.close()
		drain, done := context.WithTimeout(ctx, drainTime)
		defer done()
		s.rpc.Shutdown(drain)
		s.closeHTTP(drain)
		s.closeErr = s.node.Close(ctx)
		s.wg.Wait()
		s.log.Info("closed the member", "name", s.cfg.Name)
	})
	return s.closeErr
}

func (s *Server) closeHTTP(ctx context.Context) {
	for _, srv := range s.http {
		if err := srv.Shutdown(ctx); err != nil {
			srv.Close()
		}
	}
}

// abandon undoes a half-finished Open, latest first.
func (s *Server) abandon(ctx context.Context) {
	s.cancel()
	if s.rpc != nil {
		s.rpc.Shutdown(ctx)
	}
	if s.node != nil {
		if err := s.node.Close(ctx); err != nil {
			s.log.Warn("closing the member", "error", err)
		}
	}
	if s.listeners != nil {
		s.listeners.close()
	}
}
