//go:build unix

package server

import "syscall"

// maxConns leaves a fifth of the file descriptors for the log, checkpoints,
// peers and whatever else the process opens. Go has raised the soft limit to
// the hard one by now.
func maxConns() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return defaultMaxConns
	}
	return int(max(16, min(uint64(r.Cur)/5*4, defaultMaxConns)))
}
