package ctl

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func leaseCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lease",
		Short: "Leases: keys bound to one are deleted when it ends",
		Long: `Leases. A lease ends when it isn't kept alive for its TTL, or is revoked; keys bound to it are deleted then. Lease ids
are in hexadecimal.`,
		Example: `  muster ctl lease grant 60
  muster ctl put worker/7 busy --lease 694d7a3f2b1c9e05
  muster ctl lease keep-alive 694d7a3f2b1c9e05
  muster ctl lease revoke 694d7a3f2b1c9e05`,
	}
	cmd.AddCommand(leaseGrantCommand(g), leaseRevokeCommand(g), leaseTimeToLiveCommand(g), leaseListCommand(g), leaseKeepAliveCommand(g))
	return cmd
}

// leaseID is the single argument of most lease commands.
func leaseID(args []string, usage string) (int64, error) {
	if len(args) != 1 {
		return 0, badArgs("%s", usage)
	}
	id, err := strconv.ParseInt(args[0], 16, 64)
	if err != nil {
		return 0, badArgs("bad lease ID arg (%v), expecting ID in Hex", err)
	}
	return id, nil
}

func leaseGrantCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "grant TTL",
		Short: "Make a lease that lasts TTL seconds unless kept alive",
		Example: `  muster ctl lease grant 60
  muster ctl lease grant 60 -w json`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			p, err := v.printer(grantResult{})
			if err != nil {
				return err
			}
			if len(args) != 1 {
				return badArgs("lease grant command needs TTL argument")
			}
			ttl, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return badArgs("bad TTL (%v)", err)
			}
			conn, err := v.conn(ctx)
			if err != nil {
				return err
			}
			resp, err := call(ctx, v, pb.NewLeaseClient(conn).LeaseGrant, &pb.LeaseGrantRequest{TTL: ttl})
			if err != nil {
				return failed(exitError, "failed to grant lease (%s)", err)
			}
			return p.Print(grantResult{resp})
		}),
	}
}

func leaseRevokeCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID",
		Short:   "End a lease and delete its keys",
		Example: `  muster ctl lease revoke 694d7a3f2b1c9e05`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			p, err := v.printer(revokeResult{})
			if err != nil {
				return err
			}
			id, err := leaseID(args, "lease revoke command needs 1 argument")
			if err != nil {
				return err
			}
			conn, err := v.conn(ctx)
			if err != nil {
				return err
			}
			resp, err := call(ctx, v, pb.NewLeaseClient(conn).LeaseRevoke, &pb.LeaseRevokeRequest{ID: id})
			if err != nil {
				return failed(exitError, "failed to revoke lease (%s)", err)
			}
			return p.Print(revokeResult{resp, id})
		}),
	}
}

func leaseTimeToLiveCommand(g *globals) *cobra.Command {
	var keys bool
	cmd := &cobra.Command{
		Use:   "timetolive ID",
		Short: "Show how long a lease has left, and its keys",
		Example: `  muster ctl lease timetolive 694d7a3f2b1c9e05
  muster ctl lease timetolive 694d7a3f2b1c9e05 --keys`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			p, err := v.printer(timeToLiveResult{})
			if err != nil {
				return err
			}
			id, err := leaseID(args, "lease timetolive command needs lease ID as argument")
			if err != nil {
				return err
			}
			conn, err := v.conn(ctx)
			if err != nil {
				return err
			}
			resp, err := call(ctx, v, pb.NewLeaseClient(conn).LeaseTimeToLive, &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys})
			if err != nil {
				return failed(exitConnection, "", err)
			}
			return p.Print(timeToLiveResult{resp, keys})
		}),
	}
	cmd.Flags().BoolVar(&keys, "keys", false, "also list the keys bound to it")
	return cmd
}

func leaseListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List all leases",
		Example: `  muster ctl lease list`,
		Args:    noArgs(g),
		RunE: g.run(func(ctx context.Context, v *invocation, _ []string) error {
			p, err := v.printer(leasesResult{})
			if err != nil {
				return err
			}
			conn, err := v.conn(ctx)
			if err != nil {
				return err
			}
			resp, err := call(ctx, v, pb.NewLeaseClient(conn).LeaseLeases, &pb.LeaseLeasesRequest{})
			if err != nil {
				return failed(exitConnection, "", err)
			}
			return p.Print(leasesResult{resp})
		}),
	}
}

// noArgs refuses arguments.
func noArgs(g *globals) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return report(cmd, g, badArgs("unexpected argument %q", args[0]))
		}
		return nil
	}
}
