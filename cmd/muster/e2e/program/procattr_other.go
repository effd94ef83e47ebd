//go:build !linux

package program

import "syscall"

// WithParent makes no difference where there is no such thing.
func WithParent() *syscall.SysProcAttr { return nil }
