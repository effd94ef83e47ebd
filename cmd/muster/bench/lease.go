package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/musterhq/muster/cmd/muster/bench/h2load"
)

const (
	grantMethod     = "/etcdserverpb.Lease/LeaseGrant"
	revokeMethod    = "/etcdserverpb.Lease/LeaseRevoke"
	keepAliveMethod = "/etcdserverpb.Lease/LeaseKeepAlive"
)

func leaseCommand() *cobra.Command {
	var o options
	var ttl int64
	cmd := &cobra.Command{
		Use:   "lease",
		Short: "Keep leases alive: each client one lease, on a stream of its own",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.resolve(cmd.Flags()); err != nil {
				return err
			}
			if ttl < 1 {
				return usagef("--ttl %d: use 1 or more seconds", ttl)
			}
			return o.keepAlive(cmd, ttl)
		},
	}
	o.addFlags(cmd.Flags(), 100000, "keep-alives")
	cmd.Flags().Float64Var(&o.rate, "rate", 0, "keep-alives a second at most (0: as fast as answers come)")
	cmd.Flags().Int64Var(&ttl, "ttl", 600, "seconds a lease lives unless kept alive")
	return cmd
}

// keepAlive grants a lease a client, keeps all alive, and revokes them.
func (o *options) keepAlive(cmd *cobra.Command, ttl int64) (err error) {
	// A range of ids that nobody else uses.
	base := rand.Int64N(1<<62) + 1
	ctx, stop := interruptible(cmd)
	defer stop()
	if err := o.eachLease(ctx, grantMethod, func(dst []byte, i int64) []byte {
		dst = protowire.AppendTag(dst, 1, protowire.VarintType)
		dst = protowire.AppendVarint(dst, uint64(ttl))
		dst = protowire.AppendTag(dst, 2, protowire.VarintType)
		return protowire.AppendVarint(dst, uint64(base+i))
	}); err != nil {
		return fmt.Errorf("grant leases: %w", err)
	}
	defer func() {
		// Even after Ctrl-C: nobody wants a thousand leases left behind.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if rerr := o.eachLease(ctx, revokeMethod, func(dst []byte, i int64) []byte {
			dst = protowire.AppendTag(dst, 1, protowire.VarintType)
			return protowire.AppendVarint(dst, uint64(base+i))
		}); rerr != nil {
			err = errors.Join(err, fmt.Errorf("revoke leases: %w", rerr))
		}
	}()
	cfg := o.load(keepAliveMethod)
	cfg.Stream = true
	cfg.Next = func(conn int) func(int, []byte) []byte {
		first := int64(conn*(o.clients/o.conns) + min(conn, o.clients%o.conns))
		return func(client int, dst []byte) []byte {
			dst = protowire.AppendTag(dst, 1, protowire.VarintType)
			return protowire.AppendVarint(dst, uint64(base+first+int64(client)))
		}
	}
	cfg.Receive = func(int) func(int, []byte, time.Duration) error {
		return func(_ int, msg []byte, _ time.Duration) error { return stillAlive(msg) }
	}
	return o.measure(cmd, "lease keep-alive", cfg)
}

// eachLease calls a method once for each client's lease.
func (o *options) eachLease(ctx context.Context, method string, request func(dst []byte, i int64) []byte) error {
	var n atomic.Int64
	r, err := h2load.Run(ctx, h2load.Config{
		Addrs: o.addrs, Conns: min(o.conns, 4), Clients: min(o.clients, 100), Total: o.clients, Method: method,
		Next: func(int) func(int, []byte) []byte {
			return func(_ int, dst []byte) []byte { return request(dst, n.Add(1)-1) }
		},
	})
	switch {
	case err != nil:
		return err
	case r.Failed() > 0:
		return errors.New(r.FirstError())
	default:
		return ctx.Err()
	}
}

var errLeaseGone = errors.New("the lease is gone")

// stillAlive looks for a TTL above zero in a LeaseKeepAliveResponse.
func stillAlive(msg []byte) error {
	const fieldTTL = 3
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return protowire.ParseError(n)
		}
		msg = msg[n:]
		if num == fieldTTL && typ == protowire.VarintType {
			if ttl, n := protowire.ConsumeVarint(msg); n > 0 && ttl > 0 {
				return nil
			}
			return errLeaseGone
		}
		if n = protowire.ConsumeFieldValue(num, typ, msg); n < 0 {
			return protowire.ParseError(n)
		}
		msg = msg[n:]
	}
	return errLeaseGone
}
