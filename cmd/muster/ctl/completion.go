package ctl

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func completionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a script that completes commands and flags in a shell",
		Example: `  source <(muster ctl completion bash)
  muster ctl completion zsh > "${fpath[1]}/_muster"
  muster ctl completion fish | source`,
		DisableFlagsInUseLine: true,
		ValidArgs:             []string{"bash", "zsh", "fish", "powershell"},
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			if len(args) != 1 {
				return badArgs("completion needs one argument: bash, zsh, fish or powershell")
			}
			root := v.cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(v.out, true)
			case "zsh":
				return root.GenZshCompletion(v.out)
			case "fish":
				return root.GenFishCompletion(v.out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(v.out)
			}
			return badArgs("no completion for %q: use bash, zsh, fish or powershell", args[0])
		}),
	}
}

func optionsCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "options",
		Short:   "List the flags that every command has",
		Example: `  muster ctl options`,
		Args:    noArgs(g),
		RunE: g.run(func(ctx context.Context, v *invocation, _ []string) error {
			_, err := fmt.Fprintf(v.out, "The following options can be passed to any command:\n\n%s", g.flags.FlagUsages())
			return err
		}),
	}
}
