package differential

import "syscall"

// withParent makes a process end when the test's does, even by SIGKILL.
func withParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
