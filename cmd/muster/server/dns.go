package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/musterhq/muster/core/server"
	"github.com/musterhq/muster/discovery/catalog"
	"github.com/musterhq/muster/dnsserver"
	"github.com/musterhq/muster/sdk"
)

// dnsIdentity is the name DNS reads the registry under: once there are
// permissions it may read /muster/v1/ and nothing else.
const dnsIdentity = "dns"

// mountDNS makes the member answer DNS from a catalog that it watches through
// its own client port.
func mountDNS(cfg *server.Config, reg prometheus.Registerer) {
	if cfg.DNSListen == "" {
		return
	}
	listen, zone, required, log := cfg.DNSListen, cfg.DNSZone, cfg.DNSRequired, cfg.Logger
	cfg.Background = append(cfg.Background, func(ctx context.Context, local server.InProcess) error {
		err := serveDNS(ctx, local, dnsserver.Config{Listen: listen, Zone: zone, Logger: log, Registerer: reg})
		if err == nil || required || ctx.Err() != nil {
			return err
		}
		log.Warn("DNS is not served; choose another --dns-listen, or an empty one for none", "error", err)
		return nil
	})
}

func serveDNS(ctx context.Context, local server.InProcess, cfg dnsserver.Config) (err error) {
	client, err := sdk.Open(ctx, sdk.Config{
		Endpoints: []string{"http://in-process:0"}, Dial: local.Dial(dnsIdentity), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	index, err := catalog.Open(ctx, catalog.Config{Client: client, Logger: cfg.Logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, index.Close()) }()
	cfg.Source = index
	s, err := dnsserver.Open(ctx, cfg)
	if err != nil {
		return fmt.Errorf("--dns-listen %s: %w", cfg.Listen, err)
	}
	<-ctx.Done()
	return s.Close()
}
