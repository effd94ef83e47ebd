package ops

import (
	"os"
	"syscall"
)

// fileDescriptors returns readers of how many descriptors are open and how
// many may be.
func fileDescriptors() (used, limit func() float64) {
	used = func() float64 {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return 0
		}
		return float64(len(entries))
	}
	limit = func() float64 {
		var r syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
			return 0
		}
		return float64(r.Cur)
	}
	return used, limit
}
