package ctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"

	"github.com/musterhq/muster/sdk"
)

func endpointCommand(g *globals) *cobra.Command {
	var cluster bool
	cmd := &cobra.Command{
		Use:   "endpoint",
		Short: "Health and state of each endpoint",
		Example: `  muster ctl endpoint health --cluster
  muster ctl endpoint status --cluster -w table`,
	}
	cmd.PersistentFlags().BoolVar(&cluster, "cluster", false, "ask every member of the cluster, as --endpoints knows it")
	cmd.AddCommand(endpointHealthCommand(g, &cluster), endpointStatusCommand(g, &cluster), endpointHashKVCommand(g, &cluster))
	return cmd
}

// targets are the endpoints to ask: the given ones, or all members' client URLs, as one member knows them. A list that
// the quorum agrees to could not be had when it is most needed.
func (v *invocation) targets(ctx context.Context, cluster bool) (*sdk.Client, []string, error) {
	c, err := v.open(ctx)
	if err != nil || !cluster {
		return c, v.g.endpoints, err
	}
	resp, err := call(ctx, v, pb.NewClusterClient(c.Conn()).MemberList, &pb.MemberListRequest{})
	if err != nil {
		return nil, nil, failed(exitError, "failed to fetch endpoints from etcd cluster member list: %s", err)
	}
	var out []string
	for _, m := range resp.GetMembers() {
		out = append(out, m.GetClientURLs()...)
	}
	return c, out, nil
}

func endpointHealthCommand(g *globals, cluster *bool) *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "Ask each endpoint for a read that the quorum must agree to",
		Long:  `Ask each endpoint for a read that the quorum must agree to, and for alarms. The exit code is 1 if one fails.`,
		Example: `  muster ctl endpoint health
  muster ctl endpoint health --cluster -w table`,
		Args: noArgs(g),
		RunE: g.run(func(ctx context.Context, v *invocation, _ []string) error {
			p, err := v.printer(healthResult{})
			if err != nil {
				return err
			}
			client, endpoints, err := v.targets(ctx, *cluster)
			if err != nil {
				return err
			}
			all := make(healthResult, len(endpoints))
			var asked sync.WaitGroup
			for i, e := range endpoints {
				asked.Go(func() { all[i] = v.health(ctx, client, e) })
			}
			asked.Wait()
			if err := p.Print(all); err != nil {
				return err
			}
			_, simple := p.(*simplePrinter)
			healthy := true
			var advice []string
			for _, h := range all {
				if h.Error == "" {
					continue
				}
				healthy = false
				for _, a := range h.advice {
					if !slices.Contains(advice, a) {
						advice = append(advice, a)
					}
				}
				if simple {
					fmt.Fprintf(v.err, "%s is unhealthy: failed to commit proposal: %s\n", h.Endpoint, h.Error)
				}
			}
			if !healthy {
				return &failure{code: exitError, text: "unhealthy cluster", hint: strings.Join(advice, "; ")}
			}
			return nil
		}),
	}
}

func (v *invocation) health(ctx context.Context, client *sdk.Client, endpoint string) endpointHealth {
	h := endpointHealth{Endpoint: endpoint, advice: []string{"look at the endpoints named above: their process, their log, the network to them"}}
	conn, err := client.ConnTo(endpoint)
	if err != nil {
		h.Error = message(err)
		return h
	}
	start := time.Now()
	// A member without a leader says so at once instead of leaving it to the time-out.
	led := metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	_, err = call(led, v, pb.NewKVClient(conn).Range, &pb.RangeRequest{Key: []byte("health")})
	h.Took = time.Since(start).String()
	// A user who may not read the key has been told so by the quorum.
	if err != nil && !errors.Is(err, sdk.ErrPermissionDenied) {
		h.Error = message(err)
		if errors.Is(err, sdk.ErrNoLeader) {
			h.advice = []string{adviceNoLeader}
		} else if strings.Contains(h.Error, "corrupt cluster") {
			h.advice = []string{adviceCorrupt}
		}
		return h
	}
	alarms, err := call(ctx, v, pb.NewMaintenanceClient(conn).Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
	switch {
	case err != nil:
		h.Error = "Unable to fetch the alarm list"
	case len(alarms.GetAlarms()) > 0:
		h.Error, h.advice = "Active Alarm(s): ", nil
		for _, a := range alarms.GetAlarms() {
			h.Error += a.GetAlarm().String() + " "
			switch a.GetAlarm() {
			case pb.AlarmType_NOSPACE:
				h.advice = append(h.advice, adviceNoSpace)
			case pb.AlarmType_CORRUPT:
				h.advice = append(h.advice, adviceCorrupt)
			}
		}
	default:
		h.Health = true
	}
	return h
}

func endpointStatusCommand(g *globals, cluster *bool) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what each endpoint says of itself",
		Long: `Show what each endpoint says of itself: endpoint, id, version, storage version, size, size in use, share not in use,
quota, whether it leads, whether it is a learner, raft term, raft index, applied index, errors, downgrade target and
whether a downgrade is under way. -w fields and -w json add the store's revision.`,
		Example: `  muster ctl endpoint status
  muster ctl endpoint status --cluster -w table`,
		Args: noArgs(g),
		RunE: g.run(func(ctx context.Context, v *invocation, _ []string) error {
			p, err := v.printer(statusResult{})
			if err != nil {
				return err
			}
			client, endpoints, err := v.targets(ctx, *cluster)
			if err != nil {
				return err
			}
			var all statusResult
			var failures []error
			for _, e := range endpoints {
				resp, err := v.status(ctx, client, e)
				if err != nil {
					fmt.Fprintf(v.err, "Failed to get the status of endpoint %s (%s)\n", e, message(err))
					failures = append(failures, err)
					continue
				}
				all = append(all, endpointStatus{e, resp})
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
}

func (v *invocation) status(ctx context.Context, client *sdk.Client, endpoint string) (*pb.StatusResponse, error) {
	conn, err := client.ConnTo(endpoint)
	if err != nil {
		return nil, err
	}
	return call(ctx, v, pb.NewMaintenanceClient(conn).Status, &pb.StatusRequest{})
}
