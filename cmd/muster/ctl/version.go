package ctl

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// The etcd whose client this stands in for.
const etcdVersion, apiVersion = "3.7.3", "3.7"

func versionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    `Print the version of etcdctl this stands in for, and Muster's own.`,
		Example: `  muster ctl version`,
		Args:    noArgs(g),
		RunE: g.run(func(ctx context.Context, v *invocation, _ []string) error {
			own := "unknown"
			if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
				own = info.Main.Version
			}
			_, err := fmt.Fprintf(v.out, "etcdctl version: %s\nAPI version: %s\nmuster version: %s\n", etcdVersion, apiVersion, own)
			return err
		}),
	}
}
