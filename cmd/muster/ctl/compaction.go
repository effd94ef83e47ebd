package ctl

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func compactionCommand(g *globals) *cobra.Command {
	var physical bool
	cmd := &cobra.Command{
		Use:   "compaction REVISION",
		Short: "Drop the history before a revision",
		Long:  `Drop the history before a revision: older versions of keys can't be read or watched from any more. Present values stay.`,
		Example: `  # see the present revision, then drop all before it
  muster ctl endpoint status -w fields
  muster ctl compaction 4711`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			if len(args) != 1 {
				return badArgs("compaction command needs 1 argument")
			}
			rev, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return &failure{code: exitError, text: err.Error(), hint: "REVISION is a number; 'endpoint status -w fields' shows the present one"}
			}
			conn, err := v.conn(ctx)
			if err != nil {
				return err
			}
			if _, err := call(ctx, v, pb.NewKVClient(conn).Compact, &pb.CompactionRequest{Revision: rev, Physical: physical}); err != nil {
				return err
			}
			_, err = fmt.Fprintln(v.out, "compacted revision", rev)
			return err
		}),
	}
	cmd.Flags().BoolVar(&physical, "physical", false, "wait until the space is free")
	return cmd
}
