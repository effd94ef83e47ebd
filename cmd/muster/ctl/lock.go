package ctl

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/recipes/lock"
	"github.com/musterhq/muster/sdk"
)

// closeTime is what giving up a lock or leadership may take.
const closeTime = 3 * time.Second

func lockCommand(g *globals) *cobra.Command {
	var ttl int
	cmd := &cobra.Command{
		Use:   "lock NAME [COMMAND [ARG...]]",
		Short: "Hold a lock, or run a command under it",
		Long: `Wait for a lock, first come first served; then print its key and hold it until Ctrl-C, or run COMMAND and hold it for
as long as that runs. The exit code is COMMAND's.

COMMAND finds in its environment ETCD_LOCK_KEY, the key of the lock; ETCD_LOCK_REV, which rises from holder to holder:
pass it to whatever the lock protects, so that it can refuse an earlier holder; and MUSTER_LOCK_TOKEN, the same with its
epoch. If the lease can't be kept alive, COMMAND gets SIGTERM and then SIGKILL, before anybody else can get the lock.

COMMAND gets this program's input. Its flags need '--' before it.`,
		Example: `  muster ctl lock nightly
  muster ctl lock nightly -- backup.sh --full
  muster ctl lock nightly --ttl 30 -- sh -c 'backup --fence $ETCD_LOCK_REV'`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			if len(args) == 0 {
				return badArgs("lock takes a lock name argument and an optional command to execute")
			}
			p, err := v.printer(getResult{})
			if err != nil {
				return err
			}
			ctx, stop := v.interruptible(ctx)
			defer stop()
			return v.withSession(ctx, ttl, func(s *sdk.Session) error {
				return v.lock(ctx, s, p, args[0], args[1:])
			})
		}),
	}
	cmd.Flags().IntVar(&ttl, "ttl", 10, "seconds until the lock is free again if this program dies")
	return cmd
}

// withSession gives fn a session, whose lease is revoked after it: that also gives up what is bound to it, at once.
func (v *invocation) withSession(ctx context.Context, ttl int, fn func(*sdk.Session) error) (err error) {
	client, err := v.open(ctx)
	if err != nil {
		return err
	}
	s, err := sdk.NewSession(ctx, client, sdk.WithTTL(time.Duration(ttl)*time.Second))
	if err != nil {
		return err
	}
	defer func() {
		if s.Err() != nil {
			s.Orphan() // lost: the lease ends by itself, and no member could be asked to revoke it
			return
		}
		// Past the deadline there is nothing left to revoke.
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(closeTime, time.Until(s.Deadline())))
		defer cancel()
		if cerr := s.Close(closing); cerr != nil {
			fmt.Fprintf(v.err, "Warning: lease %016x is not revoked (%s); it ends by itself within %v\n", s.Lease(), message(cerr), s.TTL())
		}
	}()
	return fn(s)
}

func (v *invocation) lock(ctx context.Context, s *sdk.Session, p Printer, name string, command []string) error {
	l, err := lock.NewMutex(s, name, lock.WithSessionKey()).Lock(ctx)
	if err != nil {
		return waitError(ctx, err)
	}
	if len(command) == 0 {
		if err := v.printKey(ctx, p, l.Key(), 0, "lock lost on init"); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.Context().Done():
			return lost("session expired")
		}
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append([]string{
		"ETCD_LOCK_KEY=" + l.Key(), fmt.Sprintf("ETCD_LOCK_REV=%d", l.Token().Revision), "MUSTER_LOCK_TOKEN=" + l.Token().String(),
	}, os.Environ()...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = v.in, v.out, v.err
	return v.runHeld(ctx, s, cmd)
}

// waitError is the error of waiting for a turn, which an interrupt may have ended.
func waitError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &failure{code: exitError, text: context.Canceled.Error(), hint: "interrupted while waiting; the place in the line is given up", cause: err}
	}
	return err
}

// lost is the error of what ended because its session did.
func lost(text string) error {
	return &failure{code: exitError, text: text, cause: sdk.ErrSessionLost}
}

// printKey reads and prints a key, as it was at a revision if that isn't 0. gone is the error if it isn't there.
func (v *invocation) printKey(ctx context.Context, p Printer, key string, rev int64, gone string) error {
	conn, err := v.conn(ctx)
	if err != nil {
		return err
	}
	resp, err := call(ctx, v, pb.NewKVClient(conn).Range, &pb.RangeRequest{Key: []byte(key), Revision: rev})
	if err != nil {
		return err
	}
	if len(resp.GetKvs()) == 0 {
		return &failure{code: exitError, text: gone, hint: fmt.Sprintf("key %q was deleted by somebody else", key)}
	}
	return p.Print(getResult{RangeResponse: resp})
}
