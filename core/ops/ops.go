package ops

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Member is what the handlers need to know of the member they speak for.
type Member interface {
	// Err is why the member has stopped, nil while it runs.
	Err() error
	Leader() uint64
	IsLearner() bool
	// Alarms names those in force, as etcd spells them: NOSPACE, CORRUPT.
	Alarms() []string
	// ReadBarrier succeeds if a linearizable read would.
	ReadBarrier(ctx context.Context) error
	Stats() Stats
}

// Config says whom to ask and whom to tell.
type Config struct {
	Member Member
	// MemberID is shown by etcd_server_id.
	MemberID uint64
	// Version, ClusterVersion and StorageVersion are what /version and the
	// version metrics say, e.g. 3.7.3, 3.7.0 and 3.7.0.
	Version, ClusterVersion, StorageVersion string
	// CheckTimeout bounds one health check. Default 5 s.
	CheckTimeout time.Duration
	Registry     *prometheus.Registry // nil: a new one
	Logger       *slog.Logger         // nil: no logs
}

// Ops answers operators.
type Ops struct {
	cfg    Config
	health healthMetrics
}

// New registers the metrics that are read off the member.
func New(cfg Config) (*Ops, error) {
	if cfg.CheckTimeout == 0 {
		cfg.CheckTimeout = 5 * time.Second
	}
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	o := &Ops{cfg: cfg, health: newHealthMetrics()}
	for _, c := range append(o.health.all(), newCollector(cfg)) {
		if err := cfg.Registry.Register(c); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// Mux is where handlers go: an *http.ServeMux.
type Mux interface {
	Handle(pattern string, handler http.Handler)
}

// Register puts everything on the client port's mux.
func (o *Ops) Register(mux Mux) {
	mux.Handle("/version", http.HandlerFunc(o.serveVersion))
	o.RegisterMetrics(mux)
}

// RegisterProfiles puts Go's profiles under /debug/pprof/, as etcd's
// --enable-pprof does. They show what the process works on: not for everybody.
func (o *Ops) RegisterProfiles(mux Mux) {
	mux.Handle("/debug/pprof/", http.HandlerFunc(pprof.Index))
	mux.Handle("/debug/pprof/cmdline", http.HandlerFunc(pprof.Cmdline))
	mux.Handle("/debug/pprof/profile", http.HandlerFunc(pprof.Profile))
	mux.Handle("/debug/pprof/symbol", http.HandlerFunc(pprof.Symbol))
	mux.Handle("/debug/pprof/trace", http.HandlerFunc(pprof.Trace))
}

// RegisterMetrics puts on what the metrics listeners serve: metrics and health.
func (o *Ops) RegisterMetrics(mux Mux) {
	mux.Handle("/metrics", promhttp.InstrumentMetricHandler(o.cfg.Registry,
		promhttp.HandlerFor(o.cfg.Registry, promhttp.HandlerOpts{})))
	mux.Handle("/health", http.HandlerFunc(o.serveHealth))
	for _, probe := range []probe{o.livez(), o.readyz()} {
		mux.Handle(probe.path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { o.serveProbe(w, r, probe) }))
		for _, c := range probe.checks {
			single := probe.only(c)
			mux.Handle(single.path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { o.serveProbe(w, r, single) }))
		}
	}
}

func (o *Ops) serveVersion(w http.ResponseWriter, r *http.Request) {
	if !getOnly(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	cluster := o.cfg.ClusterVersion
	if v := o.cfg.Member.Stats().ClusterVersion; v != "" {
		cluster = v
	}
	// A client that is gone needs no answer.
	_, _ = io.WriteString(w, mustJSON(struct {
		Server  string `json:"etcdserver"`
		Cluster string `json:"etcdcluster"`
		Storage string `json:"storage"`
	}{o.cfg.Version, cluster, o.cfg.StorageVersion}))
}

// mustJSON encodes a struct of strings, which can't fail.
func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// getOnly refuses other methods in etcd's words.
func getOnly(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	w.Header().Set("Allow", http.MethodGet)
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}
