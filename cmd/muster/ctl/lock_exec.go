package ctl

import (
	"context"
	"errors"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/musterhq/muster/sdk"
)

// How a child's session is looked after.
const (
	checksPerTTL  = 50
	longestCheck  = 250 * time.Millisecond // between two looks
	termPartOfTTL = 5                      // SIGTERM a fifth of the TTL before the deadline: renewals come every third, so it is late already
	killPartOfTTL = 10                     // SIGKILL a tenth before it
)

// runHeld runs a command for as long as the session lasts; if that ends, so does the command, before the lease can.
// SIGINT and SIGTERM are passed on, and the exit code is the command's.
func (v *invocation) runHeld(ctx context.Context, s *sdk.Session, cmd *exec.Cmd) error {
	child := newChild(cmd, isTerminal(v.in))
	exited := make(chan error, 1)
	started := make(chan error)
	go func() {
		// Where the child dies with its parent, the parent is this thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return &failure{code: exitError, text: err.Error(), hint: "the command couldn't be started; the lock is given back", cause: err}
	}
	interval := min(s.TTL()/checksPerTTL, longestCheck)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	interrupts := ctx.Done()
	late := false
	for {
		select {
		case err := <-exited:
			if s.Err() != nil {
				return lost("session expired while the command ran")
			}
			return exitOf(err)
		case <-interrupts:
			interrupts = nil
			child.interrupt(context.Cause(ctx))
		case <-tick.C:
		case <-s.Done():
		}
		switch left := time.Until(s.Deadline()); {
		case s.Err() != nil, left < s.TTL()/killPartOfTTL+interval:
			child.signal(syscall.SIGKILL)
			if err := <-exited; err == nil {
				return lost("session expired while the command ran")
			}
			return lost("session expired; the command was killed")
		case left < s.TTL()/termPartOfTTL && !late:
			late = true
			child.signal(syscall.SIGTERM)
		}
	}
}

// exitOf is the error with a command's exit code.
func exitOf(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	code := exit.ExitCode()
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal())
	}
	return &failure{code: code, text: err.Error(), hint: "that is how the command ended; the lock is given back", cause: err}
}

// child is a running command, and what it started itself.
type child struct {
	cmd *exec.Cmd
	own bool // it has a process group of its own
}

// newChild prepares a command. At a terminal it stays in our process group, so that it can read from it and gets Ctrl-C
// from it; elsewhere it gets its own group, all of which can be ended.
func newChild(cmd *exec.Cmd, terminal bool) *child {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: !terminal}
	dieWithParent(cmd.SysProcAttr)
	// Pipes that descendants keep open mustn't hold up what follows.
	cmd.WaitDelay = time.Second
	return &child{cmd, !terminal}
}

func (c *child) signal(s syscall.Signal) {
	if c.own {
		// Gone already, or never ours: either way there is nothing left to do.
		_ = syscall.Kill(-c.cmd.Process.Pid, s)
		return
	}
	_ = c.cmd.Process.Signal(s)
}

// interrupt passes on the signal that cause names; the terminal has sent SIGINT to the child itself.
func (c *child) interrupt(cause error) {
	s := signaled{syscall.SIGTERM}
	errors.As(cause, &s)
	if c.own || s.signal != syscall.SIGINT {
		c.signal(s.signal)
	}
}
