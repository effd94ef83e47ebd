//go:build !unix

package bench

import "syscall"

// ownGroup keeps a terminal's signals from a child, where there is such a thing.
func ownGroup() *syscall.SysProcAttr { return nil }
