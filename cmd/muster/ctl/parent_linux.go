package ctl

import "syscall"

// dieWithParent has the kernel kill the child when this program is killed: nobody would keep the lock for it.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
