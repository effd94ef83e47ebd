package discovery

import "fmt"

// Status is the outcome of a check, the worst of an instance's checks, or an instance's effective state.
type Status uint8

// The statuses. The first four are a check's and are what Health stores; Starting and Draining only come out of
// Effective.
const (
	// StatusUnknown is a status this release can't read, written by a newer one. It doesn't serve: traffic isn't sent
	// to what can't be understood to be well.
	StatusUnknown Status = iota
	StatusPassing
	StatusWarning
	StatusCritical
	StatusStarting
	StatusDraining
)

var statusNames = [...]string{"UNKNOWN", "PASSING", "WARNING", "CRITICAL", "STARTING", "DRAINING"}

func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("STATUS_%d", uint8(s))
}

// Serving reports whether an instance of this status gets traffic: passing or warning.
func (s Status) Serving() bool { return s == StatusPassing || s == StatusWarning }

// badness orders the statuses a check can have; unknown counts as critical.
func (s Status) badness() int {
	switch s {
	case StatusPassing:
		return 0
	case StatusWarning:
		return 1
	default:
		return 2
	}
}

// Worst returns the worst of the given check statuses: passing if there is none, critical if one is unknown.
func Worst(statuses ...Status) Status {
	worst := StatusPassing
	for _, s := range statuses {
		if s.badness() > worst.badness() {
			worst = s
			if worst == StatusUnknown {
				worst = StatusCritical
			}
		}
	}
	return worst
}

// Health is what an instance's checks say, stored beside the instance and written on transitions only.
type Health struct {
	// Status is the worst of Checks.
	Status Status
	// SinceUnixMS is when Status was entered, in milliseconds since 1970.
	SinceUnixMS int64
	// Transitions counts the changes of Status since registration.
	Transitions uint32
	// Checks holds each check's status by its id.
	Checks map[string]Status
	// Reason says in at most 120 bytes why Status isn't passing. The whole output stays in the registrar.
	Reason string

	unknown string
}

// KeepUnknown takes over the fields of old that this release doesn't know.
func (h *Health) KeepUnknown(old *Health) {
	if h.unknown == "" {
		h.unknown = old.unknown
	}
}

// MaxReason bounds Health.Reason.
const MaxReason = 120

// SameStatus reports whether h and o say the same, leaving out since when, how often and why: what decides whether a
// health record must be written.
func (h *Health) SameStatus(o *Health) bool {
	if h == nil || o == nil {
		return h == o
	}
	if h.Status != o.Status || len(h.Checks) != len(o.Checks) {
		return false
	}
	for id, s := range h.Checks {
		if t, ok := o.Checks[id]; !ok || t != s {
			return false
		}
	}
	return true
}

// Effective merges what an instance says of itself with what its checks say, the strongest first: draining, starting,
// the worst check. Without a health record (an instance registered without checks) it is passing.
//
// Operator overrides and node maintenance, which are stronger still, aren't read by this release.
func Effective(i *Instance, h *Health) Status {
	switch {
	case i.State == StateDraining:
		return StatusDraining
	case i.State == StateStarting:
		return StatusStarting
	case i.State > StateDraining:
		return StatusUnknown
	case h == nil:
		return StatusPassing
	default:
		return h.Status
	}
}
