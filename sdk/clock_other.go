//go:build !linux

package sdk

import "time"

// newClock reads Go's monotonic clock. On some systems it stands still while the machine is suspended; a session that
// slept through its lease is then noticed only when its next renewal is refused.
func newClock() func() time.Duration {
	origin := time.Now()
	return func() time.Duration { return time.Since(origin) }
}
