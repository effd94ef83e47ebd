package ctl

import (
	"context"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func memberCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "member",
		Short:   "The cluster's members",
		Example: `  muster ctl member list -w table`,
	}
	cmd.AddCommand(memberListCommand(g), memberAddCommand(g), memberRemoveCommand(g), memberUpdateCommand(g), memberPromoteCommand(g))
	return cmd
}

func memberListCommand(g *globals) *cobra.Command {
	var consistency string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the members",
		Long:  `List the members: id, whether it has started, name, peer URLs, client URLs, whether it is a learner.`,
		Example: `  muster ctl member list
  muster ctl member list -w table

  # as this member knows it, when there is no quorum
  muster ctl member list --consistency s`,
		Args: noArgs(g),
		RunE: g.run(func(ctx context.Context, v *invocation, _ []string) error {
			p, err := v.printer(membersResult{})
			if err != nil {
				return err
			}
			local, err := serializable(consistency)
			if err != nil {
				return err
			}
			conn, err := v.conn(ctx)
			if err != nil {
				return err
			}
			resp, err := call(ctx, v, pb.NewClusterClient(conn).MemberList, &pb.MemberListRequest{Linearizable: !local})
			if err != nil {
				return err
			}
			return p.Print(membersResult{resp})
		}),
	}
	cmd.Flags().StringVar(&consistency, "consistency", "l", "l: as agreed by the quorum (linearizable); s: as this member knows it (serializable)")
	complete(cmd, "consistency", "l", "s")
	return cmd
}
