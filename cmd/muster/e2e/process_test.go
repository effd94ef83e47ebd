package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

// process is a program that was started by a test, which it doesn't survive.
type process struct{ *program.Process }

// start runs a program in an environment of PATH and env alone.
func start(t *testing.T, out *program.Output, dir string, env []string, path string, args ...string) *process {
	t.Helper()
	p, err := program.Start(out, dir, env, path, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return &process{p}
}

func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.Cmd.Process.Signal(sig); err != nil {
		t.Fatalf("%v: %v", sig, err)
	}
}

// wait returns how the process ended.
func (p *process) wait(t *testing.T, patience time.Duration) *os.ProcessState {
	t.Helper()
	select {
	case <-p.Done:
	case <-time.After(patience):
		t.Fatalf("%s still runs after %v; it said:\n%s", filepath.Base(p.Cmd.Path), patience, tail(p.Log()))
	}
	return p.Cmd.ProcessState
}

func tail(s string) string { return program.Tail(s) }

// result is how a program ended that was expected to end by itself.
type result struct {
	code           int
	stdout, stderr string
}

// runProgram waits for a program to end.
func runProgram(t *testing.T, env []string, stdin, path string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.SysProcAttr = program.WithParent()
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %v: %v", path, args, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s %v doesn't end; it said:\n%s%s", filepath.Base(path), args, tail(out.String()), tail(errs.String()))
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// requireNoTrace fails if a program has printed what only its authors want to see.
func requireNoTrace(t *testing.T, who, text string) {
	t.Helper()
	if trace := program.Trace(text); trace != "" {
		t.Errorf("%s printed a stack trace:\n%s", who, trace)
	}
}
