package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/pflag"
)

// watchInteractively reads watches from the input until it ends, which is an error as in etcdctl.
func (v *invocation) watchInteractively(ctx context.Context, s *watchStream, show *watchPrinter) error {
	show.interactive = true
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var streaming sync.WaitGroup
	defer streaming.Wait()
	defer cancel(nil)
	streaming.Go(func() { cancel(s.run(ctx, show.response)) })

	lines := make(chan string)
	ended := make(chan error, 1)
	// A read of the input can't be interrupted, so this goroutine may outlive the command: the process ends next.
	go func() {
		in := bufio.NewReader(v.in)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				ended <- err
				return
			}
			select {
			case lines <- strings.TrimSuffix(line, "\n"):
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case line := <-lines:
			if err := v.watchLine(ctx, s, line); err != nil {
				return err
			}
		case err := <-ended:
			f := &failure{code: exitInput, text: fmt.Sprintf("error reading watch request line: %v", err), cause: err}
			if errors.Is(err, io.EOF) {
				f.hint = "the input has ended, and with it all watches; keep it open for as long as you watch"
			}
			return f
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// watchLine does what one line says.
func (v *invocation) watchLine(ctx context.Context, s *watchStream, line string) error {
	words, err := splitWords(line)
	if err != nil {
		return err
	}
	if len(words) == 0 {
		fmt.Fprintf(v.err, "Invalid command: %s (watch and progress supported)\n", line)
		return nil
	}
	key, end := watchRange()
	switch {
	case words[0] == "progress":
		s.progress(ctx)
		return nil
	case words[0] != "watch":
		fmt.Fprintf(v.err, "Invalid command %s (only support watch)\n", line)
		return nil
	case len(words) < 2 && key == "":
		fmt.Fprintf(v.err, "Invalid command %s (command type or key is not provided)\n", line)
		return nil
	}
	var o watchFlags
	f := pflag.NewFlagSet("watch", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	o.register(f)
	if err := f.Parse(words[1:]); err != nil {
		return badArgs("%v", err)
	}
	w, err := o.watch(f.Args(), f.ArgsLenAtDash(), key, end)
	if err != nil {
		return err
	}
	s.add(ctx, w)
	return nil
}
