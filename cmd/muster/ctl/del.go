package ctl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// regretTime is how long a range waits to be deleted if --range doesn't confirm that it is meant.
const regretTime = 2 * time.Second

// delFlags are the flags of del, as a command and as a line of a transaction.
type delFlags struct {
	prefix, fromKey, ranged, prevKV bool
}

func (o *delFlags) register(f *pflag.FlagSet) {
	f.BoolVar(&o.prefix, "prefix", false, "all keys that begin with KEY")
	f.BoolVar(&o.fromKey, "from-key", false, "all keys from KEY on, in byte order")
	f.BoolVar(&o.ranged, "range", false, "RANGE_END is meant: don't wait before deleting")
	f.BoolVar(&o.prevKV, "prev-kv", false, "also print what was deleted")
}

func delCommand(g *globals) *cobra.Command {
	var o delFlags
	cmd := &cobra.Command{
		Use:   "del KEY [RANGE_END]",
		Short: "Delete a key or a range of keys",
		Long: `Delete a key, or with RANGE_END the keys from KEY up to, not including, RANGE_END, and print how many there were.

Two keys given by mistake look like a range, so a range waits two seconds for Ctrl-C unless --range confirms it.`,
		Example: `  muster ctl del greeting
  muster ctl del worker/ --prefix --prev-kv
  muster ctl del --range a c                        # a, ab, b, ..., not c`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			p, err := v.printer(delResult{})
			if err != nil {
				return err
			}
			req, err := o.request(args)
			if err != nil {
				return err
			}
			if len(args) > 1 && !o.ranged {
				fmt.Fprintf(v.err, "Warning: Keys between %q and %q will be deleted. Please interrupt the command within next 2 seconds to cancel. "+
					"You can provide `--range` flag to avoid the delay.\n", args[0], args[1])
				if err := v.regret(ctx); err != nil {
					return err
				}
			}
			conn, err := v.conn(ctx)
			if err != nil {
				return err
			}
			resp, err := call(ctx, v, pb.NewKVClient(conn).DeleteRange, req)
			if err != nil {
				return err
			}
			return p.Print(delResult{resp})
		}),
	}
	o.register(cmd.Flags())
	return cmd
}

// regret waits for an interrupt, which is an error.
func (v *invocation) regret(ctx context.Context) error {
	ctx, stop := v.interruptible(ctx)
	defer stop()
	timer := time.NewTimer(regretTime)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		fmt.Fprintln(v.err, "Nothing was deleted.")
		return context.Cause(ctx)
	}
}

func (o *delFlags) request(args []string) (*pb.DeleteRangeRequest, error) {
	if len(args) == 0 || len(args) > 2 {
		return nil, badArgs("del command needs one argument as key and an optional argument as range_end")
	}
	key, end, err := keyRange(args, o.prefix, o.fromKey)
	if err != nil {
		return nil, err
	}
	return &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: o.prevKV}, nil
}
