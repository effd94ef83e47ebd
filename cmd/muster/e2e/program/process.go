package program

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Output collects what a process prints and tells who waits about each write.
type Output struct {
	mu struct {
		sync.Mutex
		text    []byte
		changed chan struct{} // closed and replaced at each write
	}
}

// NewOutput returns an empty one.
func NewOutput() *Output {
	o := &Output{}
	o.mu.changed = make(chan struct{})
	return o
}

// Write adds to it.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.text = append(o.mu.text, p...)
	close(o.mu.changed)
	o.mu.changed = make(chan struct{})
	return len(p), nil
}

func (o *Output) String() string { return o.since(0) }

// Len is how many bytes there are by now.
func (o *Output) Len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.mu.text)
}

func (o *Output) since(from int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.mu.text[from:])
}

func (o *Output) changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.changed
}

// Process is a program that was started. Its output may hold several lives of it.
type Process struct {
	Cmd  *exec.Cmd
	Done chan struct{} // closed once it has ended and its output is complete
	out  *Output       // stderr and stdout
	from int           // where in out this life began
}

// Start runs a program in an environment of PATH and env alone.
func Start(out *Output, dir string, env []string, program string, args ...string) (*Process, error) {
	p := &Process{Cmd: exec.Command(program, args...), out: out, from: out.Len(), Done: make(chan struct{})}
	p.Cmd.Dir = dir
	p.Cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	p.Cmd.Stdout, p.Cmd.Stderr = out, out
	p.Cmd.SysProcAttr = WithParent()
	p.Cmd.WaitDelay = time.Second // a grandchild may hold the pipe
	if err := p.Cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.Cmd.Wait() // how it ended is in ProcessState
		close(p.Done)
	}()
	return p, nil
}

// Kill is SIGKILL, awaited. It may be repeated.
func (p *Process) Kill() {
	_ = p.Cmd.Process.Kill() // it may have ended
	<-p.Done
}

// Ended tells whether it is gone.
func (p *Process) Ended() bool {
	select {
	case <-p.Done:
		return true
	default:
		return false
	}
}

// Log is what this life of the program has printed.
func (p *Process) Log() string { return p.out.since(p.from) }

// AwaitLine waits until the program has printed text.
func (p *Process) AwaitLine(ctx context.Context, text string) error {
	for {
		changed := p.out.changed() // before looking, to miss nothing
		if strings.Contains(p.Log(), text) {
			return nil
		}
		select {
		case <-changed:
		case <-p.Done:
			if strings.Contains(p.Log(), text) {
				return nil
			}
			return fmt.Errorf("ended (%v) before it said %q:\n%s", p.Cmd.ProcessState, text, Tail(p.Log()))
		case <-ctx.Done():
			return fmt.Errorf("has not said %q:\n%s", text, Tail(p.Log()))
		}
	}
}

// Tail keeps what a reader of a failure wants to see.
func Tail(s string) string {
	const lines = 40
	all := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Trace returns the stack trace in a program's output, or nothing.
func Trace(text string) string {
	for _, sign := range []string{"panic:", "goroutine ", "fatal error:", "[recovered]", "runtime error"} {
		if i := strings.Index(text, sign); i >= 0 {
			return text[i:min(len(text), i+4000)]
		}
	}
	return ""
}
