package registrar

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// child is the wrapped command, in a process group of its own.
type child struct {
	pid  int
	done chan struct{} // closed when it has ended; status is set then

	mu struct { // guards against signalling a process that was reaped
		sync.Mutex
		ended  bool
		status unix.WaitStatus
	}
}

// startChild starts the command. Its exit code for a command that can't be started follows the shell's: 127 if it isn't
// found, 126 otherwise.
func startChild(argv, env []string) (*child, error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		code := 126
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			code = 127
		}
		return nil, &ExitError{Code: code, Why: fmt.Sprintf("command: %v", err)}
	}
	attr := &syscall.SysProcAttr{Setpgid: true}
	if inForeground(os.Stdin) {
		// Otherwise it would be stopped when it reads from the terminal.
		attr.Foreground, attr.Ctty = true, int(os.Stdin.Fd()) //nolint:gosec // a file descriptor
	}
	p, err := os.StartProcess(path, argv, &os.ProcAttr{Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: attr})
	if err != nil {
		return nil, &ExitError{Code: 126, Why: fmt.Sprintf("command: %v", err)}
	}
	c := &child{pid: p.Pid, done: make(chan struct{})}
	_ = p.Release() // it is waited for below, with all others
	go c.reap()
	return c, nil
}

// inForeground reports whether f is a terminal and this process group has it.
func inForeground(f *os.File) bool {
	pgrp, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP) //nolint:gosec // a file descriptor
	return err == nil && pgrp == unix.Getpgrp()
}

// reap waits for every child until the command itself has ended. As PID 1, orphans become our children; elsewhere there
// is only the command. After that nobody needs reaping: this process is about to end.
func (c *child) reap() {
	defer close(c.done)
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil, pid == c.pid && (ws.Exited() || ws.Signaled()):
			c.mu.Lock()
			c.mu.ended, c.mu.status = true, ws
			c.mu.Unlock()
			return
		}
	}
}

// signal sends to the whole process group.
func (c *child) signal(s syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.ended {
		_ = unix.Kill(-c.pid, s)
	}
}

// exit is what this process must end with: nil for 0. It may be called once done is closed.
func (c *child) exit() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ws := c.mu.status
	switch {
	case ws.Signaled():
		return &ExitError{Code: 128 + int(ws.Signal()), Why: fmt.Sprintf("command ended by signal %d (%v)", int(ws.Signal()), ws.Signal())}
	case ws.ExitStatus() == 0:
		return nil
	default:
		return &ExitError{Code: ws.ExitStatus(), Why: fmt.Sprintf("command exited with status %d", ws.ExitStatus())}
	}
}
