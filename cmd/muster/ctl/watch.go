package ctl

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watchFlags are the flags of watch, as a command and as a line of interactive mode.
type watchFlags struct {
	rev                      int64
	prefix, prevKV, progress bool
}

func (o *watchFlags) register(f *pflag.FlagSet) {
	f.Int64Var(&o.rev, "rev", 0, "revision to begin with; 0 for what happens from now on")
	f.BoolVar(&o.prefix, "prefix", false, "all keys that begin with KEY")
	f.BoolVar(&o.prevKV, "prev-kv", false, "also print each key as it was before")
	f.BoolVar(&o.progress, "progress-notify", false, "also print, now and then, how far the watch is")
}

func watchCommand(g *globals) *cobra.Command {
	var o watchFlags
	var interactive bool
	cmd := &cobra.Command{
		Use:   "watch KEY [RANGE_END] [-- COMMAND [ARG...]]",
		Short: "Follow the changes of a key or range",
		Long: `Follow the changes of a key, or of the keys from KEY up to, not including, RANGE_END, until Ctrl-C. Lost connections
are made again without gap or repetition.

COMMAND runs once for each event, with ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and ETCD_WATCH_VALUE
in its environment (all but the first in quotes). KEY and RANGE_END may be given as ETCDCTL_WATCH_KEY and
ETCDCTL_WATCH_RANGE_END.

With -i, lines "watch [FLAGS] KEY [RANGE_END] [-- COMMAND]" are read from the input, and "progress" asks how far all of
these watches are.`,
		Example: `  muster ctl watch greeting
  muster ctl watch worker/ --prefix --prev-kv
  muster ctl watch greeting --rev 42
  muster ctl watch config -- systemctl reload app`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			p, err := v.printer(watchResult{})
			if err != nil {
				return err
			}
			key, end := watchRange()
			if key == "" && end != "" {
				return badArgs("ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END=%q", end)
			}
			conn, err := v.conn(ctx)
			if err != nil {
				return err
			}
			ctx, stop := v.interruptible(ctx)
			defer stop()
			s := newWatchStream(conn, v.err)
			show := &watchPrinter{v: v, p: p}
			if interactive {
				return v.watchInteractively(ctx, s, show)
			}
			w, err := o.watch(args, v.cmd.ArgsLenAtDash(), key, end)
			if err != nil {
				return err
			}
			s.add(ctx, w)
			return s.run(ctx, show.response)
		}),
	}
	o.register(cmd.Flags())
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "read watches from the input")
	return cmd
}

// watch makes the watch that arguments describe; dash is where "--" stood among them, negative if nowhere. envKey and
// envEnd come before the arguments.
func (o *watchFlags) watch(args []string, dash int, envKey, envEnd string) (*watch, error) {
	var command []string
	if dash >= 0 {
		args, command = args[:dash], args[dash:]
		if len(command) == 0 {
			return nil, badArgs("bad number of arguments (found separator --, but no commands)")
		}
	}
	if envKey != "" {
		if len(args) > 0 {
			return nil, badArgs("bad number of arguments (found conflicting environment key)")
		}
		args = []string{envKey}
		if envEnd != "" {
			args = append(args, envEnd)
		}
	}
	if len(args) == 0 || len(args) > 2 {
		return nil, badArgs("bad number of arguments")
	}
	if len(args) == 2 && o.prefix {
		return nil, badArgs("`range_end` and `--prefix` are mutually exclusive")
	}
	key, end, err := keyRange(args, o.prefix, false)
	if err != nil {
		return nil, err
	}
	return &watch{
		create: &pb.WatchCreateRequest{Key: key, RangeEnd: end, StartRevision: o.rev, PrevKv: o.prevKV, ProgressNotify: o.progress},
		exec:   command,
	}, nil
}

// watchPrinter shows what watches bring and runs their commands.
type watchPrinter struct {
	v           *invocation
	p           Printer
	interactive bool
}

func (s *watchPrinter) response(ctx context.Context, w *watch, resp *pb.WatchResponse) error {
	switch {
	case resp.GetCanceled():
		fmt.Fprintf(s.v.err, "watch was canceled (%s)\n", cancelReason(resp))
	case len(resp.GetEvents()) == 0:
		fmt.Fprintf(s.v.out, "progress notify: %d\n", resp.GetHeader().GetRevision())
	}
	if err := s.p.Print(watchResult{resp}); err != nil {
		return err
	}
	if resp.GetCanceled() && !s.interactive {
		return &failure{
			code: exitInterrupted, text: "watch is canceled by the server",
			hint: "the reason is above; after a compaction, read the keys anew and watch without --rev",
		}
	}
	if len(w.exec) == 0 {
		return nil
	}
	for _, e := range resp.GetEvents() {
		cmd := exec.CommandContext(ctx, w.exec[0], w.exec[1:]...)
		cmd.Env = append(os.Environ(),
			fmt.Sprintf("ETCD_WATCH_REVISION=%d", resp.GetHeader().GetRevision()),
			fmt.Sprintf("ETCD_WATCH_EVENT_TYPE=%q", e.GetType()),
			fmt.Sprintf("ETCD_WATCH_KEY=%q", e.GetKv().GetKey()),
			fmt.Sprintf("ETCD_WATCH_VALUE=%q", e.GetKv().GetValue()))
		cmd.Stdout, cmd.Stderr = s.v.out, s.v.err
		if err := cmd.Run(); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			fmt.Fprintf(s.v.err, "command %q error (%v)\n", w.exec, err)
			return reported{err, exitError}
		}
	}
	return nil
}

// cancelReason is the error a read at the watch's revision would have had.
func cancelReason(resp *pb.WatchResponse) string {
	if resp.GetCompactRevision() != 0 {
		return "etcdserver: mvcc: required revision has been compacted"
	}
	if r := resp.GetCancelReason(); r != "" {
		return strings.TrimSpace(r)
	}
	return "no reason given"
}
