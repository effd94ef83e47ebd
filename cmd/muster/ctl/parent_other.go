//go:build !linux

package ctl

import "syscall"

// dieWithParent does nothing: only Linux can have a child die with its parent.
func dieWithParent(*syscall.SysProcAttr) {}
