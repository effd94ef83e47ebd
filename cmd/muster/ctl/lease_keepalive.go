package ctl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// retryPause is how long to wait between attempts of something that goes on by itself.
const retryPause = 200 * time.Millisecond

func leaseKeepAliveCommand(g *globals) *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "keep-alive ID",
		Short: "Renew a lease until interrupted, or once",
		Long: `Renew a lease every third of its TTL, and print each renewal, until Ctrl-C or until the lease is gone. The lease isn't
revoked: it goes on for its TTL.`,
		Example: `  muster ctl lease keep-alive 694d7a3f2b1c9e05
  muster ctl lease keep-alive 694d7a3f2b1c9e05 --once`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			p, err := v.printer(keepAliveResult{})
			if err != nil {
				return err
			}
			id, err := leaseID(args, "lease keep-alive command needs lease ID as argument")
			if err != nil {
				return err
			}
			conn, err := v.conn(ctx)
			if err != nil {
				return err
			}
			ctx, stop := v.interruptible(ctx)
			defer stop()
			if !once {
				return v.keepAlive(ctx, conn, p, id)
			}
			resp, err := v.renew(ctx, conn, id)
			if err == nil && resp.GetTTL() <= 0 {
				err = &failure{
					code: exitConnection, text: "etcdserver: requested lease not found",
					hint: "the lease has expired, was revoked or never existed; 'lease list' shows those there are",
				}
			}
			if err != nil {
				return failed(exitConnection, "", err)
			}
			return p.Print(keepAliveResult{resp})
		}),
	}
	cmd.Flags().BoolVar(&once, "once", false, "renew once and return")
	return cmd
}

// keepAlive renews until ctx ends or the lease does. Failures are bridged for as long as the lease can live.
func (v *invocation) keepAlive(ctx context.Context, conn grpc.ClientConnInterface, p Printer, id int64) error {
	var deadline time.Time
	for {
		sent := time.Now()
		resp, err := v.renew(ctx, conn, id)
		pause := retryPause
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && time.Now().After(deadline):
			return failed(exitConnection, "", err)
		case err != nil:
			fmt.Fprintf(v.err, "Warning: no renewal: %s; trying again\n", message(err))
		case resp.GetTTL() <= 0:
			if _, simple := p.(*simplePrinter); simple {
				_, err = fmt.Fprintf(v.out, "lease %016x expired or revoked.\n", id)
			}
			return err
		default:
			ttl := time.Duration(resp.GetTTL()) * time.Second
			deadline = sent.Add(ttl)
			pause = ttl / 3
			if err := p.Print(keepAliveResult{resp}); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// renew asks once; a TTL of 0 tells that the lease is gone.
func (v *invocation) renew(ctx context.Context, conn grpc.ClientConnInterface, id int64) (*pb.LeaseKeepAliveResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, v.g.commandTimeout)
	defer cancel()
	stream, err := pb.NewLeaseClient(conn).LeaseKeepAlive(ctx)
	if err != nil {
		return nil, err
	}
	// A send that fails shows its reason on Recv.
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err == nil {
		err = stream.CloseSend()
		if err != nil && !errors.Is(err, context.Canceled) {
			return nil, err
		}
	}
	return stream.Recv()
}
