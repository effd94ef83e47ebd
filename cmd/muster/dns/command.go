package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/catalog"
	"github.com/musterhq/muster/dnsserver"
	"github.com/musterhq/muster/sdk"
)

// options are the flags.
type options struct {
	endpoints     []string
	user          string
	listen        string
	zone          string
	advertise     []string
	ttl           time.Duration
	negativeTTL   time.Duration
	maxStale      time.Duration
	metricsListen string
	verbose       bool
}

// Command is "muster dns".
func Command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Answer DNS questions about registered services",
		Long: `Answer DNS questions about registered services over UDP and TCP.

Names are <service>[.<namespace>].svc.<zone> (A, AAAA, SRV), _<port>._<proto>.<service>[.<namespace>].svc.<zone>
(SRV) and <instance>.<service>.<namespace>.svc.<zone> (A, AAAA, TXT). Only healthy instances are answered. While the
store is out of reach the last known state is answered, marked stale, for --max-stale.`,
		Example: `  muster dns --endpoints 127.0.0.1:2379
  dig -p 8600 @127.0.0.1 web.svc.muster.internal SRV`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			level := slog.LevelInfo
			if o.verbose {
				level = slog.LevelDebug
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			return o.run(ctx, log, func(*dnsserver.Server, net.Addr) {})
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "the store's members")
	f.StringVar(&o.user, "user", "", "user of the store, name:password")
	f.StringVar(&o.listen, "listen", "127.0.0.1:8600", "address for UDP and TCP")
	f.StringVar(&o.zone, "zone", discovery.DefaultZone, "zone to answer for")
	f.StringSliceVar(&o.advertise, "advertise", nil, "addresses of this server for ns.dns.<zone>; those of --listen if empty")
	f.DurationVar(&o.ttl, "ttl", 5*time.Second, "TTL of answers whose service states none")
	f.DurationVar(&o.negativeTTL, "negative-ttl", 5*time.Second, "how long resolvers may remember that a name isn't there")
	f.DurationVar(&o.maxStale, "max-stale", 24*time.Hour, "how long to answer from the last known state without the store")
	f.StringVar(&o.metricsListen, "metrics-listen", "", "address for HTTP /metrics, /livez and /readyz; none if empty")
	f.BoolVar(&o.verbose, "verbose", false, "log more")
	return cmd
}

// run serves until ctx ends. opened is told what was bound.
func (o *options) run(ctx context.Context, log *slog.Logger, opened func(*dnsserver.Server, net.Addr)) (err error) {
	closing := func(what string, fn func() error) {
		if cerr := fn(); cerr != nil {
			err = errors.Join(err, fmt.Errorf("close %s: %w", what, cerr))
		}
	}
	for flag, d := range map[string]time.Duration{"--ttl": o.ttl, "--negative-ttl": o.negativeTTL, "--max-stale": o.maxStale} {
		if d < time.Second {
			return fmt.Errorf("%s is %v: use at least 1s", flag, d)
		}
	}
	var advertise []netip.Addr
	for _, s := range o.advertise {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("--advertise %q: use IP addresses: %w", s, err)
		}
		advertise = append(advertise, ip)
	}
	user, password, _ := strings.Cut(o.user, ":")
	client, err := sdk.Open(ctx, sdk.Config{Endpoints: o.endpoints, Username: user, Password: password, Logger: log})
	if err != nil {
		return err
	}
	defer closing("store connection", client.Close)
	cat, err := catalog.Open(ctx, catalog.Config{Client: client, Logger: log})
	if err != nil {
		return err
	}
	defer closing("catalog", cat.Close)

	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	server, err := dnsserver.Open(ctx, dnsserver.Config{
		Listen: o.listen, Zone: o.zone, Advertise: advertise, Source: cat,
		TTL: o.ttl, NegativeTTL: o.negativeTTL, MaxStale: o.maxStale,
		Logger: log, Registerer: reg,
	})
	if err != nil {
		return err
	}
	defer closing("dns server", server.Close)

	var bound net.Addr
	if o.metricsListen != "" {
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", o.metricsListen)
		if err != nil {
			return fmt.Errorf("--metrics-listen: %w", err)
		}
		bound = ln.Addr()
		web := &http.Server{Handler: o.handler(reg, cat), ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
		done := make(chan error, 1)
		go func() { done <- web.Serve(ln) }()
		defer func() {
			closing("metrics listener", web.Close)
			<-done //nolint:errcheck // http.ErrServerClosed
		}()
	}
	opened(server, bound)
	<-ctx.Done()
	log.Info("stopping", "cause", context.Cause(ctx))
	return nil
}

// handler serves metrics and health. Alive is who answers at all; ready is who has an
// index to answer from.
func (o *options) handler(reg *prometheus.Registry, source dnsserver.Source) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		switch {
		case source.Snapshot() == nil:
			http.Error(w, "the service index is not synced yet", http.StatusServiceUnavailable)
		case source.Staleness() > o.maxStale:
			http.Error(w, "the service index is too old", http.StatusServiceUnavailable)
		default:
			fmt.Fprintln(w, "ok")
		}
	})
	return mux
}
