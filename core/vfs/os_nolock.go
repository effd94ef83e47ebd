//go:build !unix || aix || solaris

package vfs

import (
	"errors"
	"os"
)

// lockFile refuses: two members on one data directory would destroy it, and
// there is nothing here that could keep the second one out.
func lockFile(*os.File) error { return errors.ErrUnsupported }
