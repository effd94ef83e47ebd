package ops

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// serveHealth answers /health: one JSON line, 200 or 503. With
// ?serializable=true it is about this member alone; ?exclude=NOSPACE passes
// over an alarm.
func (o *Ops) serveHealth(w http.ResponseWriter, r *http.Request) {
	if !getOnly(w, r) {
		return
	}
	q := r.URL.Query()
	reason := o.unhealthy(r.Context(), q["exclude"], q.Get("serializable") == "true")
	line := mustJSON(struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{strconv.FormatBool(reason == ""), reason})
	if reason != "" {
		o.health.failed.Inc()
		o.cfg.Logger.Warn("/health error", "output", line, "status-code", http.StatusServiceUnavailable)
		http.Error(w, line, http.StatusServiceUnavailable)
		return
	}
	o.health.succeeded.Inc()
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write([]byte(line))
}

// unhealthy is etcd's reason, empty if all is well.
func (o *Ops) unhealthy(ctx context.Context, exclude []string, serializable bool) string {
	m := o.cfg.Member
	for _, a := range m.Alarms() {
		if !slices.Contains(exclude, a) {
			return "ALARM " + a
		}
	}
	if !serializable && m.Leader() == 0 {
		return "RAFT NO LEADER"
	}
	check := o.linearizableRead
	if serializable {
		check = o.localRead
	}
	ctx, cancel := context.WithTimeout(ctx, o.cfg.CheckTimeout)
	defer cancel()
	if err := check(ctx); err != nil {
		return "RANGE ERROR:" + err.Error()
	}
	return ""
}

// check is one line of a probe's answer.
type check struct {
	name string
	run  func(context.Context) error
}

// probe is /livez or /readyz: all of its checks, or one under its own path.
type probe struct {
	kind, path string
	checks     []check
}

func (p probe) only(c check) probe {
	return probe{kind: p.kind, path: p.path + "/" + c.name, checks: []check{c}}
}

func (o *Ops) livez() probe {
	return probe{kind: "livez", path: "/livez", checks: []check{{"serializable_read", o.localRead}}}
}

func (o *Ops) readyz() probe {
	return probe{kind: "readyz", path: "/readyz", checks: []check{
		{"data_corruption", o.noCorruption},
		{"serializable_read", o.localRead},
		{"linearizable_read", o.linearizableRead},
		{"non_learner", o.nonLearner},
	}}
}

// localRead: the state is in memory, so it can be read as long as the member
// hasn't stopped itself.
func (o *Ops) localRead(context.Context) error { return o.cfg.Member.Err() }

func (o *Ops) linearizableRead(ctx context.Context) error {
	if err := o.cfg.Member.Err(); err != nil {
		return err
	}
	return o.cfg.Member.ReadBarrier(ctx)
}

func (o *Ops) noCorruption(context.Context) error {
	if slices.Contains(o.cfg.Member.Alarms(), "CORRUPT") {
		return errors.New("alarm activated: CORRUPT")
	}
	return nil
}

func (o *Ops) nonLearner(context.Context) error {
	if o.cfg.Member.IsLearner() {
		return errors.New("not supported for learner")
	}
	return nil
}

// serveProbe runs the checks that ?exclude leaves. A failure always says what
// failed; success only with ?verbose.
func (o *Ops) serveProbe(w http.ResponseWriter, r *http.Request, p probe) {
	if !getOnly(w, r) {
		return
	}
	q := r.URL.Query()
	ctx, cancel := context.WithTimeout(r.Context(), o.cfg.CheckTimeout)
	defer cancel()
	var report strings.Builder
	healthy := true
	for _, c := range p.checks {
		if slices.Contains(q["exclude"], c.name) {
			continue
		}
		err := c.run(ctx)
		o.health.record(p.kind, c.name, err)
		if err != nil {
			healthy = false
			fmt.Fprintf(&report, "[-]%s failed: %v\n", c.name, err)
		} else {
			fmt.Fprintf(&report, "[+]%s ok\n", c.name)
		}
	}
	if !healthy {
		o.cfg.Logger.Warn("health check failed", "path", p.path, "reason", report.String(), "status-code", http.StatusServiceUnavailable)
		http.Error(w, report.String(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if q.Has("verbose") {
		_, _ = w.Write([]byte(report.String()))
	}
	_, _ = w.Write([]byte("ok\n"))
}

// healthMetrics count what the probes found.
type healthMetrics struct {
	succeeded, failed prometheus.Counter
	last              *prometheus.GaugeVec
	total             *prometheus.CounterVec
}

func newHealthMetrics() healthMetrics {
	return healthMetrics{
		succeeded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_server_health_success", Help: "The total number of successful health checks",
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_server_health_failures", Help: "The total number of failed health checks",
		}),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "etcd_server_healthcheck", Help: "The result of each kind of healthcheck.",
		}, []string{"type", "name"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "etcd_server_healthchecks_total", Help: "The total number of each kind of healthcheck.",
		}, []string{"type", "name", "status"}),
	}
}

func (h healthMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{h.succeeded, h.failed, h.last, h.total}
}

func (h healthMetrics) record(kind, name string, err error) {
	value, status := 1.0, "success"
	if err != nil {
		value, status = 0, "error"
	}
	h.last.WithLabelValues(kind, name).Set(value)
	h.total.WithLabelValues(kind, name, status).Inc()
}
