package ctl

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/recipes/election"
	"github.com/musterhq/muster/sdk"
)

func electCommand(g *globals) *cobra.Command {
	var listen bool
	var ttl int
	cmd := &cobra.Command{
		Use:   "elect NAME [VALUE]",
		Short: "Stand in an election, or follow it",
		Long: `Stand in an election with VALUE; when elected, print the key and lead until Ctrl-C, then resign. With -l, print each
leader as it comes.`,
		Example: `  muster ctl elect primary 10.0.0.7:8080
  muster ctl elect primary -l`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			switch {
			case len(args) != 1 && len(args) != 2:
				return badArgs("elect takes one election name argument and an optional proposal argument")
			case len(args) == 1 && !listen:
				return badArgs("no proposal argument but -l not set")
			case len(args) == 2 && listen:
				return badArgs("proposal given but -l is set")
			}
			p, err := v.printer(getResult{})
			if err != nil {
				return err
			}
			ctx, stop := v.interruptible(ctx)
			defer stop()
			if listen {
				return v.observe(ctx, p, args[0])
			}
			return v.withSession(ctx, ttl, func(s *sdk.Session) error {
				return v.campaign(ctx, s, p, args[0], args[1])
			})
		}),
	}
	cmd.Flags().BoolVarP(&listen, "listen", "l", false, "follow the election")
	cmd.Flags().IntVar(&ttl, "ttl", 60, "seconds until the next one leads if this program dies")
	return cmd
}

func (v *invocation) campaign(ctx context.Context, s *sdk.Session, p Printer, name, value string) error {
	l, err := election.New(s, name, election.WithSessionKey()).Campaign(ctx, []byte(value))
	if err != nil {
		return waitError(ctx, err)
	}
	if err := v.printKey(ctx, p, l.Key(), 0, "elect: leadership lost on init"); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-l.Context().Done():
		return lost("elect: session expired")
	}
}

func (v *invocation) observe(ctx context.Context, p Printer, name string) error {
	client, err := v.open(ctx)
	if err != nil {
		return err
	}
	for e, err := range election.NewObserver(client, name).Observe(ctx) {
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return failed(exitError, "elect: observer lost: %s", err)
		case e.Leader == nil:
			continue
		}
		if err := v.printKey(ctx, p, e.Leader.Key, e.Revision, "elect: observer lost"); err != nil {
			return err
		}
	}
	return nil
}
