package ctl

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/server"
)

// memberID reads the one argument of a command about a member.
func memberID(args []string) (uint64, error) {
	if len(args) != 1 {
		return 0, badArgs("member ID is not provided")
	}
	id, err := strconv.ParseUint(args[0], 16, 64)
	if err != nil {
		return 0, &failure{
			code: exitArgs, text: fmt.Sprintf("bad member ID arg (%s), expecting ID in Hex", err), hint: "'member list' shows the ids", cause: err,
		}
	}
	return id, nil
}

func memberAddCommand(g *globals) *cobra.Command {
	var peerURLs string
	var learner bool
	cmd := &cobra.Command{
		Use:   "add <memberName> --peer-urls=URL[,URL]",
		Short: "Add a member",
		Long: `Add a member, then print the settings to start it with. Until it is started it counts as one that is down: add one at a
time, and as a learner if the cluster is small. A learner gets its copy of the data without a vote; give it one with
"member promote".`,
		Example: `  muster ctl member add m4 --peer-urls=http://10.0.0.4:2380
  muster server --name m4 --initial-cluster-state existing --initial-cluster m1=…,m4=http://10.0.0.4:2380 …

  # first a copy of the data, then the vote
  muster ctl member add m4 --peer-urls=http://10.0.0.4:2380 --learner
  muster ctl member promote 8e9e05c52164694d`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			switch {
			case len(args) == 0:
				return badArgs("member name not provided")
			case len(args) > 1:
				text := "too many arguments"
				for _, s := range args {
					if strings.HasPrefix(strings.ToLower(s), "http") {
						text += ", did you mean --peer-urls=" + s
					}
				}
				return badArgs("%s", text)
			case peerURLs == "":
				return badArgs("member peer urls not provided")
			}
			p, err := v.printer(memberAdded{})
			if err != nil {
				return err
			}
			conn, err := v.conn(ctx)
			if err != nil {
				return err
			}
			resp, err := call(ctx, v, pb.NewClusterClient(conn).MemberAdd, &pb.MemberAddRequest{PeerURLs: strings.Split(peerURLs, ","), IsLearner: learner})
			if err != nil {
				return aboutPeerURLs(err, peerURLs)
			}
			return p.Print(memberAdded{resp, args[0], peerURLs})
		}),
	}
	cmd.Flags().StringVar(&peerURLs, "peer-urls", "", "where the others find it, separated by commas")
	cmd.Flags().BoolVar(&learner, "learner", false, "without a vote at first")
	return cmd
}

func memberRemoveCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "remove <memberID>",
		Short: "Remove a member for good",
		Long: `Remove a member for good: it stops by itself, and its data directory is of no use to it any more. To bring the machine
back, delete that directory and add the member again.`,
		Example: `  muster ctl member remove 8e9e05c52164694d`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			return v.changeMember(ctx, args, "removed from", func(ctx context.Context, c pb.ClusterClient, id uint64) (changedMembers, error) {
				return call(ctx, v, c.MemberRemove, &pb.MemberRemoveRequest{ID: id})
			})
		}),
	}
}

func memberPromoteCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "promote <memberID>",
		Short:   "Give a learner a vote",
		Long:    `Give a learner a vote, once it has caught up with the leader and as long as that hears it.`,
		Example: `  muster ctl member promote 8e9e05c52164694d`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			return v.changeMember(ctx, args, "promoted in", func(ctx context.Context, c pb.ClusterClient, id uint64) (changedMembers, error) {
				return call(ctx, v, c.MemberPromote, &pb.MemberPromoteRequest{ID: id})
			})
		}),
	}
}

func memberUpdateCommand(g *globals) *cobra.Command {
	var peerURLs string
	cmd := &cobra.Command{
		Use:     "update <memberID> --peer-urls=URL[,URL]",
		Short:   "Change where the others find a member",
		Long:    `Change where the others find a member. Do it before the member moves: it must be reached at one or the other.`,
		Example: `  muster ctl member update 8e9e05c52164694d --peer-urls=http://10.0.0.9:2380`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			if _, err := memberID(args); err != nil {
				return err
			}
			if peerURLs == "" {
				return badArgs("member peer urls not provided")
			}
			return v.changeMember(ctx, args, "updated in", func(ctx context.Context, c pb.ClusterClient, id uint64) (changedMembers, error) {
				resp, err := call(ctx, v, c.MemberUpdate, &pb.MemberUpdateRequest{ID: id, PeerURLs: strings.Split(peerURLs, ",")})
				return resp, aboutPeerURLs(err, peerURLs)
			})
		}),
	}
	cmd.Flags().StringVar(&peerURLs, "peer-urls", "", "where the others find it, separated by commas")
	return cmd
}

// aboutPeerURLs adds to a member's refusal of --peer-urls which one it is and what is wrong with it.
func aboutPeerURLs(err error, peerURLs string) error {
	if err == nil || !strings.Contains(message(err), "member URLs are invalid") {
		return err
	}
	hint := "write each of --peer-urls as http://host:port, and nothing behind it"
	for u := range strings.SplitSeq(peerURLs, ",") {
		if wrong := server.CheckPeerURL(strings.TrimSpace(u)); wrong != nil {
			hint = "--peer-urls: " + wrong.Error()
			break
		}
	}
	return &failure{code: exitError, text: message(err), hint: hint, cause: err}
}

// changeMember makes one change to the member in args and tells of it.
func (v *invocation) changeMember(
	ctx context.Context, args []string, done string, change func(context.Context, pb.ClusterClient, uint64) (changedMembers, error),
) error {
	id, err := memberID(args)
	if err != nil {
		return err
	}
	p, err := v.printer(memberChanged{})
	if err != nil {
		return err
	}
	conn, err := v.conn(ctx)
	if err != nil {
		return err
	}
	resp, err := change(ctx, pb.NewClusterClient(conn), id)
	if err != nil {
		return err
	}
	return p.Print(memberChanged{resp, id, done})
}
