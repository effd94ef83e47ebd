package ctl

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/musterhq/muster/sdk"
)

// invocation is one run of a command.
type invocation struct {
	cmd      *cobra.Command
	g        *globals
	in       io.Reader
	out, err io.Writer
	client   *sdk.Client
}

// run makes a command's function of one that works on an invocation: flags are resolved before it, the client closed
// and the error told after it.
func (g *globals) run(fn func(context.Context, *invocation, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		v := &invocation{
			cmd: cmd, g: g, in: cmd.InOrStdin(), out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(),
		}
		err := g.resolve(os.Environ(), v.err)
		if err == nil {
			ctx := cmd.Context()
			if g.token != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "token", g.token)
			}
			err = fn(ctx, v, args)
		}
		if v.client != nil {
			err = errors.Join(err, v.client.Close())
		}
		if err != nil {
			return report(cmd, g, err)
		}
		return nil
	}
}

// printer is the one the user chose. A format that the result doesn't have is refused, before anything is sent.
func (v *invocation) printer(r result) (Printer, error) {
	p, err := newPrinter(v.g.format, v.out, v.g.hex)
	if err != nil {
		return nil, err
	}
	return p, p.Accepts(r)
}

// conn is the connection to whichever member serves.
func (v *invocation) conn(ctx context.Context) (grpc.ClientConnInterface, error) {
	c, err := v.open(ctx)
	if err != nil {
		return nil, err
	}
	return c.Conn(), nil
}

// open makes the client, once.
func (v *invocation) open(ctx context.Context) (*sdk.Client, error) {
	if v.client != nil {
		return v.client, nil
	}
	cfg, err := v.g.config(ctx, v)
	if err != nil {
		return nil, err
	}
	if v.client, err = sdk.Open(ctx, cfg); err != nil {
		return nil, failed(exitArgs, "", err)
	}
	return v.client, nil
}

// call makes one request within --command-timeout.
func call[Req, Resp any](
	ctx context.Context, v *invocation, method func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req,
) (Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, v.g.commandTimeout)
	defer cancel()
	limit := v.g.maxRequestBytes
	if limit == 0 {
		limit = 2 << 20
	}
	return method(ctx, req, grpc.MaxCallSendMsgSize(limit))
}

// interruptible is ctx until SIGINT or SIGTERM; its cause is then the signal. A second signal ends
// the program as if nobody listened.
func (v *invocation) interruptible(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			if s, ok := s.(syscall.Signal); ok {
				cancel(signaled{s})
			}
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
		watcher.Wait()
	}
}
