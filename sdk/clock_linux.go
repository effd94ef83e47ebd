package sdk

import (
	"time"

	"golang.org/x/sys/unix"
)

// newClock reads CLOCK_BOOTTIME, which goes on while the machine is suspended, as Go's own monotonic clock doesn't.
func newClock() func() time.Duration {
	return func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			// Linux has had this clock since 2.6.39; without it no deadline could be trusted.
			panic("sdk: read CLOCK_BOOTTIME: " + err.Error())
		}
		return time.Duration(ts.Nano())
	}
}
