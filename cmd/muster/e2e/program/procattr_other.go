//go:build !linux

package program

import "syscall"

func WithParent() *syscall.SysProcAttr { return nil }
