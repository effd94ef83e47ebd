package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// output collects what a process prints and tells who waits about each line.
type output struct {
	mu struct {
		sync.Mutex
		text    []byte
		changed chan struct{} // closed and replaced at each write
	}
}

func newOutput() *output {
	o := &output{}
	o.mu.changed = make(chan struct{})
	return o
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.text = append(o.mu.text, p...)
	close(o.mu.changed)
	o.mu.changed = make(chan struct{})
	return len(p), nil
}

func (o *output) String() string {
	text, _ := o.read()
	return text
}

func (o *output) read() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.mu.text), o.mu.changed
}

// process is a program that was started. Its output may hold several lives of it.
type process struct {
	cmd  *exec.Cmd
	out  *output       // stderr, and stdout if it has none of its own
	from int           // where in out this life began
	done chan struct{} // closed once it has ended and its output is complete
}

// start runs a program in an environment of PATH and env alone. Whatever
// becomes of the test, it doesn't survive it.
func start(t *testing.T, out *output, dir string, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(program, args...), out: out, from: len(out.String()), done: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = withParent()
	p.cmd.WaitDelay = time.Second // a grandchild may hold the pipe
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in ProcessState
		close(p.done)
	}()
	t.Cleanup(p.kill)
	return p
}

// kill is SIGKILL, awaited.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("%v: %v", sig, err)
	}
}

// wait returns how the process ended.
func (p *process) wait(t *testing.T, patience time.Duration) *os.ProcessState {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%s still runs after %v; it said:\n%s", filepath.Base(p.cmd.Path), patience, tail(p.log()))
	}
	return p.cmd.ProcessState
}

// log is what this life of the program has printed.
func (p *process) log() string { return p.out.String()[p.from:] }

// awaitLine waits until the program has printed text.
func (p *process) awaitLine(ctx context.Context, text string) error {
	for {
		all, changed := p.out.read()
		if strings.Contains(all[p.from:], text) {
			return nil
		}
		select {
		case <-changed:
		case <-p.done:
			return fmt.Errorf("ended (%v) before it said %q:\n%s", p.cmd.ProcessState, text, tail(p.log()))
		case <-ctx.Done():
			return fmt.Errorf("has not said %q:\n%s", text, tail(p.log()))
		}
	}
}

// tail keeps what a reader of a failure wants to see.
func tail(s string) string {
	const lines = 40
	all := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// result is how a program ended that was expected to end by itself.
type result struct {
	code           int
	stdout, stderr string
}

// runProgram waits for a program to end.
func runProgram(t *testing.T, env []string, stdin, program string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.SysProcAttr = withParent()
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %v: %v", program, args, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s %v doesn't end; it said:\n%s%s", filepath.Base(program), args, tail(out.String()), tail(errs.String()))
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// requireNoTrace fails if a program has printed what only its authors want to see.
func requireNoTrace(t *testing.T, who, text string) {
	t.Helper()
	for _, sign := range []string{"panic:", "goroutine ", "fatal error:", "[recovered]", "runtime error"} {
		if i := strings.Index(text, sign); i >= 0 {
			t.Errorf("%s printed a stack trace:\n%s", who, text[i:min(len(text), i+4000)])
			return
		}
	}
}
