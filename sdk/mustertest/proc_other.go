//go:build !linux

package mustertest

import (
	"errors"
	"syscall"
)

func dieWithParent() *syscall.SysProcAttr { return nil }

// lock isn't there: every test builds its own server.
func lock(string) (unlock func(), err error) { return nil, errors.ErrUnsupported }
