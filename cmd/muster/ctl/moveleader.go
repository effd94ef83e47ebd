package ctl

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func moveLeaderCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "move-leader <memberID>",
		Short: "Hand leadership to another member",
		Long:  `Hand leadership to another member, which must have a vote. The leader's endpoint must be among those given.`,
		Example: `  muster ctl --endpoints a:2379,b:2379,c:2379 endpoint status -w table
  muster ctl --endpoints a:2379,b:2379,c:2379 move-leader 8e9e05c52164694d`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			if len(args) != 1 {
				return badArgs("move-leader command needs 1 argument")
			}
			to, err := strconv.ParseUint(args[0], 16, 64)
			if err != nil {
				return failed(exitArgs, "", err)
			}
			p, err := v.printer(moved{})
			if err != nil {
				return err
			}
			client, endpoints, err := v.targets(ctx, false)
			if err != nil {
				return err
			}
			var failures []error
			for _, e := range endpoints {
				st, err := v.status(ctx, client, e)
				if err != nil { // leadership is moved above all when a member is down
					fmt.Fprintf(v.err, "Failed to get the status of endpoint %s (%s)\n", e, message(err))
					failures = append(failures, err)
					continue
				}
				if st.GetLeader() != st.GetHeader().GetMemberId() {
					continue
				}
				conn, err := client.ConnTo(e)
				if err != nil {
					return err
				}
				if _, err := call(ctx, v, pb.NewMaintenanceClient(conn).MoveLeader, &pb.MoveLeaderRequest{TargetID: to}); err != nil {
					return err
				}
				return p.Print(moved{st.GetLeader(), to})
			}
			if len(failures) == len(endpoints) {
				return errors.Join(failures...)
			}
			return &failure{
				code: exitArgs, text: fmt.Sprintf("no leader endpoint given at %v", endpoints), hint: "give all members with --endpoints; 'endpoint status --cluster' shows which one leads",
			}
		}),
	}
}
