package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// putFlags are the flags of put, as a command and as a line of a transaction.
type putFlags struct {
	lease                            string
	prevKV, ignoreValue, ignoreLease bool
}

func (o *putFlags) register(f *pflag.FlagSet) {
	f.StringVar(&o.lease, "lease", "0", "id of the lease to bind the key to, in hexadecimal")
	f.BoolVar(&o.prevKV, "prev-kv", false, "also print the key as it was before")
	f.BoolVar(&o.ignoreValue, "ignore-value", false, "keep the key's present value")
	f.BoolVar(&o.ignoreLease, "ignore-lease", false, "keep the key's present lease")
}

func putCommand(g *globals) *cobra.Command {
	var o putFlags
	cmd := &cobra.Command{
		Use:   "put KEY [VALUE]",
		Short: "Write a key",
		Long: `Write a key. Without VALUE, all of the input is the value.

A value that begins with '-' looks like a flag: put '--' before it.`,
		Example: `  muster ctl put greeting hello
  muster ctl put offset -- -1
  muster ctl put config < config.yaml

  # bound to a lease, it goes when the lease does
  muster ctl put worker/7 busy --lease 694d7a3f2b1c9e05

  # bind an existing key to another lease, whatever its value
  muster ctl put worker/7 --ignore-value --lease 694d7a3f2b1c9e06`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			p, err := v.printer(putResult{})
			if err != nil {
				return err
			}
			req, err := o.request(args, v.in)
			if err != nil {
				return err
			}
			conn, err := v.conn(ctx)
			if err != nil {
				return err
			}
			resp, err := call(ctx, v, pb.NewKVClient(conn).Put, req)
			if err != nil {
				return err
			}
			return p.Print(putResult{resp})
		}),
	}
	o.register(cmd.Flags())
	return cmd
}

// request takes the value from the input if it isn't among the arguments.
func (o *putFlags) request(args []string, in io.Reader) (*pb.PutRequest, error) {
	const usage = "put command needs 1 argument and input from stdin or 2 arguments"
	switch {
	case len(args) == 0:
		return nil, badArgs(usage)
	case len(args) > 2:
		return nil, &failure{code: exitArgs, text: usage, hint: fmt.Sprintf("there are %d arguments; quote a value that has spaces", len(args))}
	}
	req := &pb.PutRequest{Key: []byte(args[0]), PrevKv: o.prevKV, IgnoreValue: o.ignoreValue, IgnoreLease: o.ignoreLease}
	switch {
	case o.ignoreValue && len(args) > 1:
		return nil, badArgs("put command needs only 1 argument when 'ignore-value' is set")
	case o.ignoreValue:
	case len(args) == 2:
		req.Value = []byte(args[1])
	default:
		value, err := io.ReadAll(in)
		if err != nil || len(value) == 0 {
			return nil, badArgs(usage)
		}
		req.Value = value
	}
	id, err := strconv.ParseInt(o.lease, 16, 64)
	if err != nil {
		return nil, badArgs("bad lease ID (%v), expecting ID in Hex", err)
	}
	req.Lease = id
	return req, nil
}

// noInput stands for the input where a line has to say everything itself.
type noInput struct{}

func (noInput) Read([]byte) (int, error) { return 0, errors.New("no input") }
