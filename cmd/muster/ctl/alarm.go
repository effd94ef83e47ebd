package ctl

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func alarmCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "alarm",
		Short: "What keeps the cluster from serving",
		Long: `What keeps the cluster from serving. NOSPACE: the quota is used up, and what takes space is refused; it ends by itself
once an eighth of the quota is free again. CORRUPT: members disagree and no majority says what is right, and all reads
and writes are refused; it ends by itself once one does.`,
		Example: `  muster ctl alarm list
  muster ctl alarm disarm`,
	}
	cmd.AddCommand(alarmListCommand(g), alarmDisarmCommand(g))
	return cmd
}

func alarmListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the alarms",
		Long:    `List the alarms: by which member, and what kind.`,
		Example: `  muster ctl alarm list -w fields --hex`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			p, client, err := v.alarms(ctx, args, "alarm list command accepts no arguments")
			if err != nil {
				return err
			}
			resp, err := call(ctx, v, client.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
			if err != nil {
				return err
			}
			return p.Print(alarmResult{resp})
		}),
	}
}

func alarmDisarmCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "disarm",
		Short: "Disarm all alarms",
		Long: `Disarm all alarms, and list them. One whose cause is still there is raised again: free space, or replace the member that
has diverged, first.`,
		Example: `  muster ctl alarm disarm`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			p, client, err := v.alarms(ctx, args, "alarm disarm command accepts no arguments")
			if err != nil {
				return err
			}
			raised, err := call(ctx, v, client.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
			if err != nil {
				return err
			}
			all := &pb.AlarmResponse{}
			for _, a := range raised.GetAlarms() {
				resp, err := call(ctx, v, client.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: a.GetMemberID(), Alarm: a.GetAlarm()})
				if err != nil {
					return err
				}
				all.Alarms = append(all.Alarms, resp.GetAlarms()...)
			}
			return p.Print(alarmResult{all})
		}),
	}
}

// alarms is what both commands begin with.
func (v *invocation) alarms(ctx context.Context, args []string, noArgs string) (Printer, pb.MaintenanceClient, error) {
	if len(args) > 0 {
		return nil, nil, badArgs("%s", noArgs)
	}
	p, err := v.printer(alarmResult{})
	if err != nil {
		return nil, nil, err
	}
	conn, err := v.conn(ctx)
	if err != nil {
		return nil, nil, err
	}
	return p, pb.NewMaintenanceClient(conn), nil
}

// alarmResult has no header where alarms were disarmed: that took several answers.
type alarmResult struct{ *pb.AlarmResponse }

func (r alarmResult) simple(t *text) {
	for _, a := range r.GetAlarms() {
		t.printf("memberID:%d alarm:%s\n", a.GetMemberID(), a.GetAlarm())
	}
}

func (r alarmResult) fields(t *text) {
	t.header(r.GetHeader())
	for _, a := range r.GetAlarms() {
		id := fmt.Sprint(a.GetMemberID())
		if t.hex {
			id = fmt.Sprintf("%x", a.GetMemberID())
		}
		t.printf("\"MemberID\" : %s\n\"AlarmType\" : %s\n\n", id, a.GetAlarm())
	}
}

// json has no hexadecimal form, as etcdctl's.
func (r alarmResult) json(bool) any          { return r.AlarmResponse }
func (r alarmResult) message() proto.Message { return r.AlarmResponse }
