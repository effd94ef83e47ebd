package dnsserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/musterhq/muster/discovery/catalog"
	"github.com/musterhq/muster/dnsserver/answer"
)

// Source is where answers come from; *catalog.Catalog is one.
type Source interface {
	// Snapshot is the newest state, nil until the first sync.
	Snapshot() *catalog.Snapshot
	// Staleness is 0 while the store is in reach, else how long it hasn't been.
	Staleness() time.Duration
}

// Config is a server's configuration. Only Source is required.
type Config struct {
	// Listen is the address of UDP and TCP, "127.0.0.1:8600" if empty. Port 0 takes a
	// free one.
	Listen string
	// Zone is the zone answered for, "muster.internal." if empty.
	Zone string
	// Advertise is the addresses given for the name server ns.dns.<zone>. If empty it is
	// Listen's, unless that is the wildcard address, which nobody can ask.
	Advertise []netip.Addr
	// Source is the catalog.
	Source Source
	// MaxStale is how long answers go on without the store; 0 means 24 h.
	MaxStale time.Duration
	// TTL and NegativeTTL in whole seconds and MaxAnswers, MaxSRV are the defaults of
	// package answer if 0.
	TTL, NegativeTTL   time.Duration
	MaxAnswers, MaxSRV int

	// Loops is the number of UDP sockets, each with a goroutine; 0 means GOMAXPROCS.
	Loops int
	// CacheBytes bounds each loop's packed answers; 0 means 32 MiB.
	CacheBytes int
	// TCPConns and TCPConnsPerIP bound open TCP connections, all and of one address; 0
	// means 1024 and 256. TCPIdle is how long one may take to send its next query or to
	// take in an answer; 0 means 10 s.
	TCPConns, TCPConnsPerIP int
	TCPIdle                 time.Duration

	// Logger may be nil, which discards. Registerer may be nil: no metrics.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Seed gives the loops' random numbers their seeds; nil means a cryptographic source.
	Seed func() uint64
}

// ErrConfig is wrapped by the errors of a Config that can't work.
var ErrConfig = errors.New("dnsserver: bad configuration")

func (cfg *Config) setDefaults() {
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:8600"
	}
	if cfg.MaxStale == 0 {
		cfg.MaxStale = 24 * time.Hour
	}
	if cfg.Loops == 0 {
		cfg.Loops = runtime.GOMAXPROCS(0)
	}
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 32 << 20
	}
	if cfg.TCPConns == 0 {
		cfg.TCPConns = 1024
	}
	if cfg.TCPConnsPerIP == 0 {
		cfg.TCPConnsPerIP = 256
	}
	if cfg.TCPIdle == 0 {
		cfg.TCPIdle = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate names the first field that can't work, and the remedy.
func (cfg *Config) Validate() error {
	switch {
	case cfg.Source == nil:
		return fmt.Errorf("%w: Source is missing: give it a catalog", ErrConfig)
	case cfg.MaxStale < 0:
		return fmt.Errorf("%w: MaxStale is %v: use 0 for 24h, or a positive time", ErrConfig, cfg.MaxStale)
	case cfg.Loops < 0 || cfg.CacheBytes < 0 || cfg.TCPConns < 0 || cfg.TCPConnsPerIP < 0 || cfg.TCPIdle < 0:
		return fmt.Errorf("%w: Loops, CacheBytes, TCPConns, TCPConnsPerIP and TCPIdle can't be negative: use 0 for the default", ErrConfig)
	}
	for _, ttl := range []time.Duration{cfg.TTL, cfg.NegativeTTL} {
		if ttl < 0 || ttl%time.Second != 0 || ttl > (1<<31-1)*time.Second {
			return fmt.Errorf("%w: a TTL of %v: use whole seconds", ErrConfig, ttl)
		}
	}
	if cfg.Listen != "" {
		if _, err := listenAddr(cfg.Listen); err != nil {
			return err
		}
	}
	_, err := cfg.zone(netip.AddrPort{})
	return err
}

// zone is the zone as served on addr.
func (cfg *Config) zone(addr netip.AddrPort) (*answer.Zone, error) {
	addrs := cfg.Advertise
	if len(addrs) == 0 && addr.IsValid() && !addr.Addr().IsUnspecified() {
		addrs = []netip.Addr{addr.Addr()}
	}
	z, err := answer.NewZone(answer.Config{
		Zone: cfg.Zone, Addrs: addrs,
		TTL: uint32(cfg.TTL / time.Second), NegativeTTL: uint32(cfg.NegativeTTL / time.Second),
		MaxAnswers: cfg.MaxAnswers, MaxSRV: cfg.MaxSRV,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return z, nil
}

// listenAddr parses "ip:port" or ":port".
func listenAddr(s string) (netip.AddrPort, error) {
	full := s
	if len(s) > 0 && s[0] == ':' {
		full = "[::]" + s
	}
	addr, err := netip.ParseAddrPort(full)
	if err != nil {
		return addr, fmt.Errorf("%w: Listen is %q: use an IP address and a port, such as 127.0.0.1:8600 or [::]:53", ErrConfig, s)
	}
	return addr, nil
}
