package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// observation is the server at one moment.
type observation struct {
	at              time.Duration
	resident, live  int64
	keys            int64
	syncs           cumulative
	checkpoints     float64 // finished so far
	checkpointsTook float64 // seconds, all together
}

type observations []observation

// beside tells for each time between two observations whether a checkpoint was being
// written in it. That is known once it is finished, from how long it took.
func (o observations) beside() []bool {
	in := make([]bool, len(o))
	for i := 1; i < len(o); i++ {
		if o[i].checkpoints == o[i-1].checkpoints {
			continue
		}
		took := time.Duration((o[i].checkpointsTook - o[i-1].checkpointsTook) * float64(time.Second))
		began := o[i-1].at - took // at the earliest
		for j := i; j > 0 && o[j].at >= began; j-- {
			in[j] = true
		}
	}
	return in
}

// soakReport is what is printed.
type soakReport struct {
	Load        *result `json:"load"`
	Keys        int64   `json:"keys"`
	Live        int64   `json:"live_bytes"`          // at the end
	Resident    int64   `json:"resident_bytes"`      // at the end
	Peak        int64   `json:"peak_resident_bytes"` // of those seen
	Worst       int64   `json:"worst_excess_bytes"`  // of resident memory over the limit at its moment; negative is below
	WorstAt     float64 `json:"worst_at_seconds"`    // when
	WorstLive   int64   `json:"live_bytes_at_worst"` // and how much was live then
	MemoryOK    bool    `json:"memory_ok"`           //
	Checkpoints int     `json:"checkpoints"`         // finished
	Beside      syncs   `json:"syncs_beside_checkpoint"`
	Otherwise   syncs   `json:"syncs_otherwise"`
	SyncsOK     bool    `json:"syncs_ok"` // false too if there was no checkpoint
}

// syncs of the log.
type syncs struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	Most  float64 `json:"max_ms"` // at most
}

func syncsOf(c cumulative) syncs {
	const toMillis = 1e3
	return syncs{Count: int64(c.count()), P50: c.quantile(0.5) * toMillis, P99: c.quantile(0.99) * toMillis, Most: c.quantile(1) * toMillis}
}

func (o observations) report(load *result) *soakReport {
	r := &soakReport{Load: load, MemoryOK: len(o) > 0}
	var beside, otherwise cumulative
	in := o.beside()
	for i, at := range o {
		excess := at.resident - (timesLive*at.live + headroom)
		if i == 0 || excess > r.Worst {
			r.Worst, r.WorstAt, r.WorstLive = excess, at.at.Seconds(), at.live
		}
		r.Peak = max(r.Peak, at.resident)
		r.MemoryOK = r.MemoryOK && excess <= 0
		r.Keys, r.Live, r.Resident = at.keys, at.live, at.resident
		if i == 0 {
			continue
		}
		r.Checkpoints += int(at.checkpoints - o[i-1].checkpoints)
		if in[i] {
			beside = beside.add(o[i-1].syncs, at.syncs)
		} else {
			otherwise = otherwise.add(o[i-1].syncs, at.syncs)
		}
	}
	r.Beside, r.Otherwise = syncsOf(beside), syncsOf(otherwise)
	r.SyncsOK = r.Beside.Count > 0 && r.Beside.P99 <= millis(syncP99Limit)
	return r
}

func (r *soakReport) write(w io.Writer, format string) error {
	if format == "json" {
		return json.NewEncoder(w).Encode(r)
	}
	if err := r.Load.write(w, format); err != nil {
		return err
	}
	verdict := func(ok bool) string {
		if ok {
			return "ok"
		}
		return "MISSED"
	}
	_, err := fmt.Fprintf(w, `memory:            %.1f MiB resident, %.1f at most; %.1f live in %d keys
  closest to limit: %.1f MiB below %d × live (%.1f) + %d MiB, after %.0f s: %s
log syncs:         beside %d checkpoints: %d, p50 %.2f ms, p99 %.2f, max ≤ %.0f; p99 at most %v: %s
  otherwise:        %d, p50 %.2f ms, p99 %.2f, max ≤ %.0f
`,
		mebi(r.Resident), mebi(r.Peak), mebi(r.Live), r.Keys,
		-mebi(r.Worst), timesLive, mebi(r.WorstLive), headroom>>20, r.WorstAt, verdict(r.MemoryOK),
		r.Checkpoints, r.Beside.Count, r.Beside.P50, r.Beside.P99, r.Beside.Most, syncP99Limit, r.syncVerdict(verdict),
		r.Otherwise.Count, r.Otherwise.P50, r.Otherwise.P99, r.Otherwise.Most)
	return err
}

func (r *soakReport) syncVerdict(verdict func(bool) string) string {
	if r.Checkpoints == 0 {
		return "unknown, there was no checkpoint: give it a longer --duration"
	}
	return verdict(r.SyncsOK)
}
