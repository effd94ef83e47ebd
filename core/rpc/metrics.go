package rpc

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// method is a row of the access table with everything a call to it needs at
// hand: counters are resolved once, so that a call does no label look-up.
type method struct {
	methodRow
	full                    string // "/service/name"
	started, received, sent prometheus.Counter
	handled                 [codes.Unauthenticated + 1]prometheus.Counter
	seconds                 prometheus.Observer // nil unless the histogram is wanted
}

// metrics are the counters etcd's dashboards expect of a gRPC server, under
// the names and labels of go-grpc-prometheus.
type metrics struct {
	started, received, sent, handled *prometheus.CounterVec
	seconds                          *prometheus.HistogramVec
	clients                          clientCounters
	slow                             prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, histogram bool) (*metrics, error) {
	labels := []string{"grpc_type", "grpc_service", "grpc_method"}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		started:  counter("grpc_server_started_total", "Total number of RPCs started on the server.", labels...),
		received: counter("grpc_server_msg_received_total", "Total number of RPC stream messages received on the server.", labels...),
		sent:     counter("grpc_server_msg_sent_total", "Total number of gRPC stream messages sent by the server.", labels...),
		handled: counter("grpc_server_handled_total", "Total number of RPCs completed on the server, regardless of success or failure.",
			append(labels, "grpc_code")...),
	}
	m.clients.vec = counter("etcd_server_client_requests_total", "The total number of client requests per client version.", "type", "client_api_version")
	m.slow = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "muster_server_slow_requests_total",
		Help: "Unary requests that took longer than the warning threshold.",
	})
	all := []prometheus.Collector{m.started, m.received, m.sent, m.handled, m.clients.vec, m.slow}
	if histogram {
		m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grpc_server_handling_seconds",
			Help: "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
		}, labels)
		all = append(all, m.seconds)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// resolve creates the method's counters at zero, as dashboards that compute
// rates want them, for every code it might ever end in.
func (m *metrics) resolve(row methodRow) *method {
	l := []string{string(row.shape), row.service, row.name}
	r := &method{
		methodRow: row,
		full:      "/" + row.service + "/" + row.name,
		started:   m.started.WithLabelValues(l...),
		received:  m.received.WithLabelValues(l...),
		sent:      m.sent.WithLabelValues(l...),
	}
	for c := range r.handled {
		r.handled[c] = m.handled.WithLabelValues(append(l, codeName(codes.Code(c)))...)
	}
	if m.seconds != nil {
		r.seconds = m.seconds.WithLabelValues(l...)
	}
	return r
}

// done counts a finished call.
func (r *method) done(err error, took time.Duration) {
	code := codes.OK
	if err != nil {
		// status.FromContextError is what grpc itself makes of a bare error.
		if s, ok := status.FromError(err); ok {
			code = s.Code()
		} else {
			code = status.FromContextError(err).Code()
		}
	}
	if int(code) >= len(r.handled) {
		code = codes.Unknown
	}
	r.handled[code].Inc()
	if r.seconds != nil {
		r.seconds.Observe(took.Seconds())
	}
}

// codeName is codes.Code.String, but for codes outside the known ones, which
// can't reach a label.
func codeName(c codes.Code) string {
	if c > codes.Unauthenticated {
		return strconv.Itoa(int(c))
	}
	return c.String()
}

// maxClientVersions bounds the label values a client can create.
const maxClientVersions = 64

// clientCounters counts requests by the version the client says it has. Reads
// are one atomic load and a map look-up; a new version copies the map.
type clientCounters struct {
	vec   *prometheus.CounterVec
	known atomic.Pointer[map[string]*clientCounter]
	mu    sync.Mutex // guards replacing known
}

type clientCounter struct{ unary, stream prometheus.Counter }

func (c *clientCounters) get(version string) *clientCounter {
	if m := c.known.Load(); m != nil {
		if cc := (*m)[version]; cc != nil {
			return cc
		}
	}
	return c.add(version)
}

func (c *clientCounters) add(version string) *clientCounter {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := map[string]*clientCounter{}
	if m := c.known.Load(); m != nil {
		old = *m
	}
	if cc := old[version]; cc != nil {
		return cc
	}
	if len(old) >= maxClientVersions && version != versionOther {
		version = versionOther
		if cc := old[version]; cc != nil {
			return cc
		}
	}
	next := make(map[string]*clientCounter, len(old)+1)
	for k, v := range old {
		next[k] = v
	}
	cc := &clientCounter{
		unary:  c.vec.WithLabelValues("unary", version),
		stream: c.vec.WithLabelValues("stream", version),
	}
	next[version] = cc
	c.known.Store(&next)
	return cc
}

const (
	versionUnknown = "unknown" // the client doesn't say; etcd's label
	versionOther   = "other"   // one of too many
)
