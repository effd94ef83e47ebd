package server

import (
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/musterhq/muster/core/node"
)

// Config is all there is to say about a member. The flags, environment
// variables and configuration file of `muster server` fill exactly this;
// Default has etcd's defaults. The fields from Services on are for programs
// that mount something of their own.
type Config struct {
	Name    string
	DataDir string // default <name>.muster

	ListenClientURLs, AdvertiseClientURLs    []string
	ListenPeerURLs, InitialAdvertisePeerURLs []string
	ListenMetricsURLs                        []string
	InitialCluster                           string // name=url,name=url…; default this member alone
	InitialClusterState, InitialClusterToken string
	HeartbeatInterval, ElectionTimeout       time.Duration
	// QuotaBackendBytes, MaxTxnOps, MaxRequestBytes and MaxLearners are the
	// cluster's: a leader makes its own everybody's. 0 leaves them as they are,
	// which is at first as machine.DefaultSettings has them.
	QuotaBackendBytes                       int64
	MaxTxnOps, MaxRequestBytes, MaxLearners uint

	MaxConcurrentStreams uint32
	MaxPendingRequests   uint // writes under way before more are refused
	// StrictReconfigCheck refuses membership changes that could cost the quorum.
	StrictReconfigCheck                         bool
	AutoCompactionMode, AutoCompactionRetention string
	WatchProgressNotifyInterval                 time.Duration
	WarningUnaryRequestDuration                 time.Duration
	Metrics                                     string // basic or extensive
	LogLevel, LogFormat                         string
	UnsafeNoFsync                               bool
	EnablePprof                                 bool

	// DNSListen is where the DNS service answers; empty disables it. The
	// server only carries it for the command that mounts that service.
	DNSListen, DNSZone string
	// DNSRequired is set when DNSListen was chosen rather than defaulted:
	// then a taken port is an error, otherwise a warning, so that several
	// members on one machine start without saying anything about DNS.
	DNSRequired bool

	// Services are registered beside etcd's; their methods must be in rpc's
	// access table. Handlers are mounted on the client port beside /health.
	Services []func(grpc.ServiceRegistrar)
	Handlers map[string]http.Handler
	// Background runs once the client port is served, until Close. An error
	// before that ends the server.
	Background []func(ctx context.Context, local InProcess) error

	Logger *slog.Logger // nil: no logs
	// Registry is what /metrics shows. Default: a new one.
	Registry *prometheus.Registry
	// OpenNode starts the member. Default: node.Open.
	OpenNode func(context.Context, node.Config) (Node, error)
}

// The defaults that are etcd's, and the two ports everyone's fingers know.
const (
	defaultClientURL = "http://127.0.0.1:2379"
	defaultPeerURL   = "http://127.0.0.1:2380"
)

// Default returns what a member does when it is told nothing.
func Default() Config {
	return Config{
		Name:                        "default",
		ListenClientURLs:            []string{defaultClientURL},
		ListenPeerURLs:              []string{defaultPeerURL},
		InitialClusterState:         "new",
		InitialClusterToken:         "etcd-cluster",
		HeartbeatInterval:           100 * time.Millisecond,
		ElectionTimeout:             time.Second,
		MaxConcurrentStreams:        1 << 16,
		MaxPendingRequests:          20_000,
		StrictReconfigCheck:         true,
		AutoCompactionMode:          "periodic",
		AutoCompactionRetention:     "0",
		WatchProgressNotifyInterval: 10 * time.Minute,
		WarningUnaryRequestDuration: 300 * time.Millisecond,
		Metrics:                     "basic",
		LogLevel:                    "info",
		LogFormat:                   "json",
		DNSListen:                   "127.0.0.1:8600",
		DNSZone:                     "muster.internal.",
	}
}

// Founding is what a member's data directory is founded with: where it is, and
// who the founding members are, of which this one need not be the only one. What
// makes directories from elsewhere, as from a snapshot, has to take it from here:
// a member that is started with the same settings, or none, then knows its own.
func (c *Config) Founding() (node.Config, error) {
	if err := c.Validate(); err != nil {
		return node.Config{}, err
	}
	filled := *c
	filled.fill()
	return filled.founding()
}

// founding is that of a Config that is filled.
func (c *Config) founding() (node.Config, error) {
	members, err := parseCluster(c.InitialCluster)
	return node.Config{Name: c.Name, Dir: c.DataDir, InitialCluster: members, Token: c.InitialClusterToken}, err
}

// fill works out what is left open from what is given. It comes after binding:
// a port that was asked for as 0 is known then, and advertised as it is.
func (c *Config) fill() {
	if c.DataDir == "" {
		c.DataDir = c.Name + ".muster"
	}
	c.DataDir = filepath.Clean(c.DataDir)
	if len(c.AdvertiseClientURLs) == 0 {
		c.AdvertiseClientURLs = c.ListenClientURLs
	}
	if len(c.InitialAdvertisePeerURLs) == 0 {
		c.InitialAdvertisePeerURLs = c.ListenPeerURLs
	}
	if c.InitialCluster == "" {
		var members []string
		for _, u := range c.InitialAdvertisePeerURLs {
			members = append(members, c.Name+"="+u)
		}
		c.InitialCluster = strings.Join(members, ",")
	}
}
