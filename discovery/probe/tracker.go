package probe

import "github.com/musterhq/muster/discovery"

// Tracker turns results into a status. It is pure: the status after a sequence of results depends on nothing else.
//
// Worked example, rise 2 and fall 3:
//
//	results  C P C C P P C W C C C P W
//	status   C P P P P P P P W W C C W
//
// The first P counts at once, as nothing good had been seen before. Three results of W or worse in a row (C W C) make
// it W; the third C in a row makes it C; two results of W or better in a row (P W) make it W.
type Tracker struct {
	rise, fall int
	status     discovery.Status
	served     bool
	// worse[l] counts the last results in a row at level l or worse, better[l] those at level l or better.
	worse, better [levels]int
}

const (
	passing = iota
	warning
	critical
	levels
)

var levelStatus = [levels]discovery.Status{discovery.StatusPassing, discovery.StatusWarning, discovery.StatusCritical}

func level(s discovery.Status) int {
	switch s {
	case discovery.StatusPassing:
		return passing
	case discovery.StatusWarning:
		return warning
	default:
		return critical
	}
}

// NewTracker starts at critical. Rise and fall below 1 count as 1.
func NewTracker(rise, fall int) *Tracker {
	return &Tracker{rise: max(1, rise), fall: max(1, fall), status: discovery.StatusCritical}
}

// Status is the present status: passing, warning or critical.
func (t *Tracker) Status() discovery.Status { return t.status }

// Served reports whether any result was ever good: until then the service may just not have started yet.
func (t *Tracker) Served() bool { return t.served }

// Failing reports whether the last results, as many as it takes, were critical.
func (t *Tracker) Failing() bool { return t.worse[critical] >= t.fall }

// Observe takes a result in and reports whether the status changed by it.
func (t *Tracker) Observe(result discovery.Status) bool {
	got := level(result)
	for l := range levels {
		if got >= l {
			t.worse[l]++
		} else {
			t.worse[l] = 0
		}
		if got <= l {
			t.better[l]++
		} else {
			t.better[l] = 0
		}
	}
	now := level(t.status)
	next := now
	for l := critical; l > now; l-- {
		if t.worse[l] >= t.fall {
			next = l
			break
		}
	}
	for l := passing; l < now; l++ {
		if t.better[l] >= t.rise {
			next = l
			break
		}
	}
	if !t.served && got < critical {
		t.served, next = true, got
	}
	t.status = levelStatus[next]
	return next != now
}
