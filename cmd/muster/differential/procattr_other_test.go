//go:build !linux

package differential

import "syscall"

func withParent() *syscall.SysProcAttr { return nil }
