package registrar

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery"
)

// held is what the agent knows to be stored under its lease for one instance.
type held struct {
	encoded string // the instance as Encode gives it, without unknown fields
	health  *discovery.Health
	wrote   time.Time // when its health alone was last written by this process
}

// plan is what must be done so that the store says what is wished.
type plan struct {
	register   []discovery.Ref
	health     []discovery.Ref
	deregister []discovery.Ref
	// later is when a health record that was held back may be written; zero if none was.
	later time.Time
}

// healthGap bounds the health writes of one instance.
const healthGap = time.Second

// diff compares. blocked are instances in another registrar's hands, left alone until everything is read anew.
func diff(wishes map[discovery.Ref]wish, stored map[discovery.Ref]held, blocked map[discovery.Ref]bool, now time.Time) plan {
	var p plan
	for _, ref := range sortedRefs(wishes) {
		w := wishes[ref]
		h, ok := stored[ref]
		switch {
		case w.pending || blocked[ref]:
		case !ok || h.encoded != string(w.instance.Encode()) || (w.health == nil) != (h.health == nil):
			p.register = append(p.register, ref)
		case !w.health.SameStatus(h.health):
			if at := h.wrote.Add(healthGap); at.After(now) {
				if p.later.IsZero() || at.Before(p.later) {
					p.later = at
				}
				continue
			}
			p.health = append(p.health, ref)
		}
	}
	for _, ref := range sortedRefs(stored) {
		if _, ok := wishes[ref]; !ok {
			p.deregister = append(p.deregister, ref)
		}
	}
	return p
}

func sortedRefs[V any](m map[discovery.Ref]V) []discovery.Ref {
	return slices.SortedFunc(maps.Keys(m), func(a, b discovery.Ref) int {
		return strings.Compare(a.String(), b.String())
	})
}

func sortedIDs(m map[string]discovery.Check) []string { return slices.Sorted(maps.Keys(m)) }

// fromRecord is what a record read from the store amounts to, if it is under the lease.
func fromRecord(rec discovery.Record, lease int64) (held, bool) {
	if rec.Rev == 0 || rec.Lease != lease {
		return held{}, false
	}
	if rec.Err != nil || rec.Health != nil && rec.HealthLease != lease {
		return held{}, true // rewrite it
	}
	return held{encoded: string(rec.Instance.EncodeKnown()), health: rec.Health}, true
}
