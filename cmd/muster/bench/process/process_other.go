//go:build !linux

package process

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"time"
)

// Memory of a process in bytes: resident now, and the most there ever was.
type Memory struct{ Resident, Peak int64 }

// ErrNoListener is wrapped where no process is found behind a port.
var ErrNoListener = errors.New("no process found")

func unsupported(what string) error {
	return fmt.Errorf("%s: not on %s, only on linux: %w", what, runtime.GOOS, errors.ErrUnsupported)
}

// CPU is the processor time that a process has taken so far.
func CPU(int) (time.Duration, error) { return 0, unsupported("processor time of a process") }

// MemoryOf reads a process's memory.
func MemoryOf(int) (Memory, error) { return Memory{}, unsupported("memory of a process") }

// Listener finds the process of this machine that listens on a TCP port.
func Listener(int) (int, error) {
	return 0, errors.Join(ErrNoListener, unsupported("the process behind a port"))
}

// Cores lists those that this process may run on.
func Cores() ([]int, error) { return nil, unsupported("cores of this process") }

// StartOn starts cmd on one core.
func StartOn(*exec.Cmd, int) error { return unsupported("choosing a core") }
