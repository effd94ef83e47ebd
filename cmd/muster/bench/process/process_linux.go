package process

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the processor time that a process has taken so far, in user and kernel.
func CPU(pid int) (time.Duration, error) {
	// The clock id that clock_getcpuclockid(3) makes: the process's number, inverted, and
	// CPUCLOCK_SCHED.
	const sched = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// Memory of a process in bytes: resident now, and the most there ever was.
type Memory struct{ Resident, Peak int64 }

// MemoryOf reads a process's memory.
func MemoryOf(pid int) (Memory, error) {
	var m Memory
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	for line := range bytes.Lines(b) {
		name, value, _ := strings.Cut(string(line), ":")
		var into *int64
		switch name {
		case "VmRSS":
			into = &m.Resident
		case "VmHWM":
			into = &m.Peak
		default:
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return m, fmt.Errorf("memory of process %d: %q: %w", pid, line, err)
		}
		*into = kb << 10
	}
	if m.Resident == 0 {
		return m, fmt.Errorf("memory of process %d: it has ended", pid)
	}
	return m, nil
}

// ErrNoListener is wrapped where no process is found behind a port: nobody listens there,
// or another user's process does.
var ErrNoListener = errors.New("no process found")

// Listener finds the process of this machine that listens on a TCP port.
func Listener(port int) (pid int, err error) {
	sockets := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if err := listening(table, port, sockets); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
	}
	if len(sockets) == 0 {
		return 0, fmt.Errorf("port %d: %w: nobody listens there", port, ErrNoListener)
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, err
	}
	for _, fd := range fds {
		// Descriptors come and go meanwhile, and others' are not ours to read.
		if target, err := os.Readlink(fd); err == nil && sockets[target] {
			return strconv.Atoi(strings.Split(fd, "/")[2])
		}
	}
	return 0, fmt.Errorf("port %d: %w: the listener is another user's", port, ErrNoListener)
}

// listening adds the sockets of a table that listen on port, as /proc/*/fd spells them.
func listening(table string, port int, sockets map[string]bool) error {
	f, err := os.Open(table)
	if err != nil {
		return err
	}
	defer f.Close()
	suffix := fmt.Sprintf(":%04X", port)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		const local, state, inode, listen = 1, 3, 9, "0A"
		fields := strings.Fields(lines.Text())
		if len(fields) > inode && fields[state] == listen && strings.HasSuffix(fields[local], suffix) {
			sockets["socket:["+fields[inode]+"]"] = true
		}
	}
	return lines.Err()
}

// Cores lists those that this process may run on.
func Cores() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &set); err != nil {
		return nil, fmt.Errorf("cores of this process: %w", err)
	}
	var cores []int
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			cores = append(cores, i)
		}
	}
	return cores, nil
}

// StartOn starts cmd on one core. A child inherits the cores of the thread that made it,
// so that the program finds itself on one core from its first instruction.
func StartOn(cmd *exec.Cmd, core int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("cores of this thread: %w", err)
	}
	one.Set(core)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("core %d: %w", core, err)
	}
	err := cmd.Start()
	if back := unix.SchedSetaffinity(0, &before); back != nil {
		// This thread can't be used for anything else: it ends with its goroutine, which
		// stays locked to it.
		runtime.LockOSThread()
		err = errors.Join(err, fmt.Errorf("cores of this thread: %w", back))
	}
	return err
}
