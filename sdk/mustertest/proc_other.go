//go:build !linux

package mustertest

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }
