package ctl

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/sdk"
)

func endpointHashKVCommand(g *globals, cluster *bool) *cobra.Command {
	var rev int64
	cmd := &cobra.Command{
		Use:   "hashkv",
		Short: "Show the hash of the history each endpoint holds",
		Long: `Show the hash of the history each endpoint holds, up to a revision. At the same revision all members have the same hash;
one that differs has diverged and must be replaced. Without --rev each member hashes up to its own newest revision.`,
		Example: `  muster ctl endpoint hashkv --cluster --rev 1000`,
		Args:    noArgs(g),
		RunE: g.run(func(ctx context.Context, v *invocation, _ []string) error {
			p, err := v.printer(hashResult{})
			if err != nil {
				return err
			}
			client, endpoints, err := v.targets(ctx, *cluster)
			if err != nil {
				return err
			}
			var all hashResult
			var failures []error
			for _, e := range endpoints {
				resp, err := v.hashKV(ctx, client, e, rev)
				if err != nil {
					fmt.Fprintf(v.err, "Failed to get the hash of endpoint %s (%s)\n", e, message(err))
					failures = append(failures, err)
					continue
				}
				all = append(all, endpointHash{e, resp})
			}
			if err := p.Print(all); err != nil {
				return err
			}
			if len(failures) > 0 {
				return reported{errors.Join(failures...), exitError}
			}
			return nil
		}),
	}
	cmd.Flags().Int64Var(&rev, "rev", 0, "newest revision to hash (0: the newest there is)")
	return cmd
}

func (v *invocation) hashKV(ctx context.Context, client *sdk.Client, endpoint string, rev int64) (*pb.HashKVResponse, error) {
	conn, err := client.ConnTo(endpoint)
	if err != nil {
		return nil, err
	}
	return call(ctx, v, pb.NewMaintenanceClient(conn).HashKV, &pb.HashKVRequest{Revision: rev})
}
