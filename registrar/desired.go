package registrar

import (
	"strings"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/probe"
)

// wish is what should be stored for one instance.
type wish struct {
	instance discovery.Instance
	health   *discovery.Health // nil: it has no checks
	// pending: not to be registered yet. A record that is already there, of before a crash, stays as it is.
	pending bool
}

// tally remembers of an instance what its checks alone don't tell.
type tally struct {
	opened      bool // the first pass has been
	status      discovery.Status
	since       time.Time
	transitions uint32
}

// desire computes the wishes from the definitions and the checks' states. adopted tells which instances were found
// registered at start; tallies are carried from call to call, and forgotten for instances that are gone. It reads no
// clock and does no I/O.
func desire(
	defs map[discovery.Ref]definition, states map[probe.Key]probe.State, adopted map[discovery.Ref]bool,
	tallies map[discovery.Ref]*tally, draining bool, epoch uint64, now time.Time,
) map[discovery.Ref]wish {
	for ref := range tallies {
		if _, ok := defs[ref]; !ok {
			delete(tallies, ref)
		}
	}
	out := make(map[discovery.Ref]wish, len(defs))
	for ref, d := range defs {
		t := tallies[ref]
		if t == nil {
			t = &tally{}
			tallies[ref] = t
		}
		w := wish{instance: d.instance, pending: d.unresolved}
		w.instance.Epoch = epoch
		if draining {
			w.instance.State = discovery.StateDraining
		}
		if d.unresolved {
			out[ref] = w
			continue
		}
		if len(d.checks) == 0 {
			t.opened = true
			out[ref] = w
			continue
		}
		h := &discovery.Health{Checks: make(map[string]discovery.Status, len(d.checks))}
		decided, reason := true, ""
		statuses := make([]discovery.Status, 0, len(d.checks))
		for _, id := range sortedIDs(d.checks) {
			st := states[probe.Key{Instance: ref, Check: id}]
			if st.Status == discovery.StatusUnknown { // not started yet
				st.Status = discovery.StatusCritical
			}
			h.Checks[id] = st.Status
			statuses = append(statuses, st.Status)
			decided = decided && st.Decided
			if st.Status != discovery.StatusPassing && reason == "" {
				line, _, _ := strings.Cut(st.Output, "\n")
				reason = id + ": " + line
			}
		}
		h.Status = discovery.Worst(statuses...)
		h.Reason = probe.Clip(reason, discovery.MaxReason)
		// An instance that is registered already isn't out of traffic because the registrar restarted; but once its
		// checks have failed often enough, what they say is written.
		t.opened = t.opened || h.Status.Serving() || adopted[ref] && (decided || draining)
		w.pending = !t.opened
		if t.opened && t.status != h.Status {
			if t.status != discovery.StatusUnknown {
				t.transitions++
			}
			t.status, t.since = h.Status, now
		}
		h.SinceUnixMS, h.Transitions = t.since.UnixMilli(), t.transitions
		if w.pending {
			h = nil
		}
		w.health = h
		out[ref] = w
	}
	return out
}
