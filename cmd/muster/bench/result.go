package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/cmd/muster/bench/histogram"
)

// result is what a load found; its JSON form is -w json's.
type result struct {
	Load        string            `json:"load"`
	Connections int               `json:"connections"`
	Clients     int               `json:"clients,omitempty"`
	Interrupted bool              `json:"interrupted,omitempty"`
	Operations  uint64            `json:"operations"` // that succeeded
	Failed      uint64            `json:"failed"`
	Errors      map[string]uint64 `json:"errors,omitempty"`
	FirstError  string            `json:"-"` // the most frequent
	Seconds     float64           `json:"seconds"`
	PerSecond   float64           `json:"operations_per_second"`
	ReplyBytes  uint64            `json:"reply_bytes"`
	Latency     latency           `json:"latency_ms"`
	// What an operation cost; the servers' is 0 where they aren't on this machine.
	ServerMicros    float64 `json:"server_cpu_us_per_operation,omitempty"`
	GeneratorMicros float64 `json:"generator_cpu_us_per_operation"`
	ServerPIDs      []int   `json:"server_pids,omitempty"`
	ServerResident  int64   `json:"server_resident_bytes,omitempty"`
	ServerPeak      int64   `json:"server_peak_resident_bytes,omitempty"`
	Note            string  `json:"note,omitempty"`
}

// latency in milliseconds.
type latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (l *latency) from(h *histogram.Histogram) {
	*l = latency{
		Mean: millis(h.Mean()), P50: millis(h.Quantile(0.5)), P90: millis(h.Quantile(0.9)),
		P99: millis(h.Quantile(0.99)), P999: millis(h.Quantile(0.999)), Max: millis(h.Max()),
	}
}

// cheapEnough is the share of the server's processor time beyond which a generator isn't
// clearly cheaper.
const cheapEnough = 0.5

// generatorTooDear tells whether the figures may be the generator's own.
func (r *result) generatorTooDear() bool {
	return r.ServerMicros > 0 && r.GeneratorMicros > cheapEnough*r.ServerMicros
}

func (r *result) write(w io.Writer, format string) error {
	if format == "json" {
		return json.NewEncoder(w).Encode(r)
	}
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-16s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "%s:", r.Load)
	if r.Clients > 0 {
		fmt.Fprintf(&b, " %d clients on", r.Clients)
	}
	fmt.Fprintf(&b, " %d connections\n", r.Connections)
	if r.Interrupted {
		line("interrupted", "what follows was measured until then")
	}
	line("operations", "%d in %.2f s, %d failed", r.Operations, r.Seconds, r.Failed)
	for _, what := range slices.Sorted(maps.Keys(r.Errors)) {
		line("  failed", "%d × %s", r.Errors[what], what)
	}
	line("throughput", "%.1f/s", r.PerSecond)
	line("latency", "p50 %.3f ms, p90 %.3f, p99 %.3f, p99.9 %.3f, max %.3f, mean %.3f",
		r.Latency.P50, r.Latency.P90, r.Latency.P99, r.Latency.P999, r.Latency.Max, r.Latency.Mean)
	if r.Operations > 0 {
		line("reply", "%.1f bytes an operation", float64(r.ReplyBytes)/float64(r.Operations))
	}
	switch {
	case r.Note != "":
		line("note", "%s", r.Note)
	case len(r.ServerPIDs) == 0:
		line("server CPU", "unknown: no local process found behind the endpoints (see --server-pid)")
	default:
		line("server CPU", "%.2f µs an operation (pid %s)", r.ServerMicros, strings.Trim(fmt.Sprint(r.ServerPIDs), "[]"))
		line("server memory", "%.1f MiB resident, %.1f at its peak", mebi(r.ServerResident), mebi(r.ServerPeak))
	}
	line("generator CPU", "%.2f µs an operation%s", r.GeneratorMicros, r.generatorShare())
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *result) generatorShare() string {
	switch {
	case r.ServerMicros == 0:
		return ""
	case r.generatorTooDear():
		return fmt.Sprintf(", %.2f × the server's: NOT clearly cheaper, so these figures may be the generator's own", r.GeneratorMicros/r.ServerMicros)
	default:
		return fmt.Sprintf(", %.2f × the server's", r.GeneratorMicros/r.ServerMicros)
	}
}

func mebi(n int64) float64 { return float64(n) / (1 << 20) }
