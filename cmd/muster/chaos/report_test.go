package chaos

import (
	"fmt"
	"strings"
	"time"
)

// report is what the clients did and what was checked.
func (l *load) report(v *verdict) string {
	var by [3]int
	kinds := map[string]int{}
	for _, o := range l.mu.ops {
		by[o.outcome]++
		kinds[o.kind.String()]++
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("load:    %v, %d operations (%v): %d answered, %d writes of unknown outcome, %d refused or failed reads",
		l.mu.last.Round(time.Second), len(l.mu.ops), counts(kinds), by[known], by[unknown], by[refused])
	line("         %d values of ballast, %d compactions, %v, %v", l.mu.ballast, l.mu.compacts, l.leases, l.locks)
	ends := map[string]int{}
	for _, f := range l.followers {
		for reason, n := range f.ends {
			ends[fmt.Sprintf("%q", reason)] += n
		}
	}
	line("watches: %d watchers of %d revisions; begun anew by hand: %v", len(l.followers), l.followers[0].last, counts(ends))
	line("checks:  %v", v)
	return strings.TrimSuffix(b.String(), "\n")
}

func counts(m map[string]int) string {
	if len(m) == 0 {
		return "never"
	}
	var parts []string
	for _, k := range sortedKeys(m) {
		parts = append(parts, fmt.Sprintf("%d %s", m[k], k))
	}
	return strings.Join(parts, ", ")
}
