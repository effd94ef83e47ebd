//go:build !linux && !darwin

package vfs

import (
	"errors"
	"os"
)

func syncData(f *os.File) error { return f.Sync() }

func allocate(*os.File, int64, int64) (bool, error) { return false, nil }

func freeBytes(string) (uint64, error) { return 0, errors.ErrUnsupported }
