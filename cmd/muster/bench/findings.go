package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// metric is a figure that both servers have.
type metric struct {
	name, what, unit string
	target           float64 // Muster's share of etcd's at most; 0: none is set
}

// findings are the figures of all rounds, in the order they were first found.
type findings map[metric]*figures

type figures struct {
	order  int
	values map[string][]float64 // by kind of server
}

func (f findings) add(m metric, kind string, v float64) {
	if f[m] == nil {
		f[m] = &figures{order: len(f), values: map[string][]float64{}}
	}
	f[m].values[kind] = append(f[m].values[kind], v)
}

// median of at least one value.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// row is a figure as it is printed.
type row struct {
	Load    string  `json:"load"`
	Figure  string  `json:"figure"`
	Unit    string  `json:"unit"`
	Etcd    float64 `json:"etcd"`
	Muster  float64 `json:"muster"`
	Ratio   float64 `json:"ratio"`
	Target  float64 `json:"target,omitempty"`
	Verdict string  `json:"verdict,omitempty"` // ok or MISSED, for a target
}

// rows are those that both servers have figures for.
func (f findings) rows() []row {
	var rows []row
	metrics := make([]metric, len(f))
	for m, fig := range f {
		metrics[fig.order] = m
	}
	for _, m := range metrics {
		v := f[m].values
		if len(v[kindEtcd]) == 0 || len(v[kindMuster]) == 0 {
			continue
		}
		r := row{Load: m.name, Figure: m.what, Unit: m.unit, Etcd: median(v[kindEtcd]), Muster: median(v[kindMuster]), Target: m.target}
		if r.Etcd > 0 {
			r.Ratio = r.Muster / r.Etcd
		}
		if m.target > 0 {
			r.Verdict = "ok"
			if r.Ratio > m.target {
				r.Verdict = "MISSED"
			}
		}
		rows = append(rows, r)
	}
	return rows
}

// share is what a generator cost of what the server did, at worst.
type share struct {
	Load           string  `json:"load"`
	Etcd           float64 `json:"of_etcds"`
	Muster         float64 `json:"of_musters"`
	ClearlyCheaper bool    `json:"clearly_cheaper"`
}

// shares hold each load's generator against the servers.
func shares(rows []row) []share {
	var all []share
	server := map[string]row{}
	for _, r := range rows {
		switch {
		case strings.HasPrefix(r.Figure, "server CPU"):
			server[r.Load] = r
		case r.Figure == generatorCPU:
			s, ok := server[r.Load]
			if !ok || s.Etcd <= 0 || s.Muster <= 0 {
				continue
			}
			one := share{Load: r.Load, Etcd: r.Etcd / s.Etcd, Muster: r.Muster / s.Muster}
			one.ClearlyCheaper = max(one.Etcd, one.Muster) <= cheapEnough
			all = append(all, one)
		}
	}
	return all
}

// write prints the table, and what the generator cost.
func (f findings) write(w io.Writer, format string, environment []string) error {
	rows := f.rows()
	if format == "json" {
		return json.NewEncoder(w).Encode(struct {
			Environment []string `json:"environment"`
			Rows        []row    `json:"rows"`
			Generator   []share  `json:"generator"`
		}{environment, rows, shares(rows)})
	}
	var b strings.Builder
	for _, line := range environment {
		fmt.Fprintln(&b, line)
	}
	fmt.Fprintln(&b)
	t := newTable(&b, format, "load", "figure", "etcd", "muster", "muster/etcd", "target", "")
	for _, r := range rows {
		target := ""
		if r.Target > 0 {
			target = fmt.Sprintf("≤ %.2f", r.Target)
		}
		t.row(r.Load, r.Figure+", "+r.Unit, figure(r.Etcd), figure(r.Muster), fmt.Sprintf("%.3f", r.Ratio), target, r.Verdict)
	}
	t.end()
	fmt.Fprintln(&b)
	t = newTable(&b, format, "load", "generator / etcd", "generator / muster", "")
	for _, s := range shares(rows) {
		verdict := "clearly cheaper than either server"
		if !s.ClearlyCheaper {
			verdict = "NOT clearly cheaper: these figures may be the generator's own"
		}
		t.row(s.Load, fmt.Sprintf("%.2f", s.Etcd), fmt.Sprintf("%.2f", s.Muster), verdict)
	}
	t.end()
	_, err := io.WriteString(w, b.String())
	return err
}

// figure prints with three digits or more.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

// table prints in columns, or in markdown.
type table struct {
	b        *strings.Builder
	tabs     *tabwriter.Writer
	markdown bool
}

func newTable(b *strings.Builder, format string, heads ...string) *table {
	t := &table{b: b, markdown: format == "markdown", tabs: tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)}
	t.row(heads...)
	if t.markdown {
		fmt.Fprintln(b, "|"+strings.Repeat("---|", len(heads)))
	}
	return t
}

func (t *table) row(cells ...string) {
	if t.markdown {
		fmt.Fprintln(t.b, "| "+strings.Join(cells, " | ")+" |")
		return
	}
	fmt.Fprintln(t.tabs, strings.Join(cells, "\t"))
}

// end writes what is held back for the columns' widths; a strings.Builder doesn't fail.
func (t *table) end() { _ = t.tabs.Flush() }
