package program

import "syscall"

// WithParent makes a process end when the test's does, even by SIGKILL.
func WithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
