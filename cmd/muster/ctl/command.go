package ctl

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

const (
	groupKV          = "kv"
	groupConcurrency = "concurrency"
	groupCluster     = "cluster"
	groupServices    = "services"
	groupUtility     = "utility"
)

// AsEtcdctl tells whether the program was started under etcdctl's name, to stand in for it.
func AsEtcdctl(argv0 string) bool {
	return strings.TrimSuffix(filepath.Base(argv0), ".exe") == "etcdctl"
}

// Command is "muster ctl".
func Command() *cobra.Command { return build("ctl", "muster ctl") }

// Etcdctl is the same as a program of its own, for when it is started under etcdctl's name.
func Etcdctl() *cobra.Command { return build("etcdctl", "etcdctl") }

// build makes the tree. path is how the user types it, for the examples.
func build(use, path string) *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:   use,
		Short: "Read, write and watch keys; leases, locks, elections, services, the cluster's state",
		Long: `Talk to a running cluster, in etcdctl's grammar.

Every global flag is also an environment variable: MUSTERCTL_ENDPOINTS, else ETCDCTL_ENDPOINTS, for --endpoints. A flag
wins over the environment. Exit codes: 0 done, 1 failed, 2 no connection, 3 unusable input, 4 unsupported value of a
flag, 5 ended by the server, 128 wrong arguments, 130 and 143 ended by a signal.`,
		Example: `  # write a key, read it, follow it
  muster ctl put greeting hello
  muster ctl get greeting
  muster ctl watch greeting

  # one cluster of three members, with TLS
  muster ctl --endpoints https://a:2379,https://b:2379,https://c:2379 --cacert ca.pem endpoint status -w table`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	g.register(root)
	root.AddGroup(
		&cobra.Group{ID: groupKV, Title: "Keys:"},
		&cobra.Group{ID: groupConcurrency, Title: "Locks and elections:"},
		&cobra.Group{ID: groupCluster, Title: "The cluster:"},
		&cobra.Group{ID: groupServices, Title: "Services:"},
		&cobra.Group{ID: groupUtility, Title: "Utilities:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupKV, getCommand(g), putCommand(g), delCommand(g), txnCommand(g), watchCommand(g), leaseCommand(g), compactionCommand(g))
	add(groupConcurrency, lockCommand(g), electCommand(g))
	add(groupCluster, memberCommand(g), endpointCommand(g), moveLeaderCommand(g), alarmCommand(g), snapshotCommand(g))
	add(groupServices, serviceCommand(g))
	add(groupUtility, versionCommand(g), completionCommand(g), optionsCommand(g))

	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return report(cmd, g, &failure{code: exitError, text: err.Error(), hint: seeHelp(cmd)})
	})
	root.SetUsageTemplate(usageTemplate(root))
	visit(root, func(cmd *cobra.Command) {
		if cmd.HasSubCommands() {
			// Without this, cobra answers an unknown subcommand with help and success.
			cmd.Args = cobra.ArbitraryArgs
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) == 0 {
					return cmd.Help()
				}
				return report(cmd, g, &failure{
					code: exitError, text: fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath()), hint: seeHelp(cmd),
				})
			}
		}
		cmd.Long = strings.ReplaceAll(cmd.Long, "muster ctl", path)
		cmd.Example = strings.ReplaceAll(cmd.Example, "muster ctl", path)
	})
	return root
}

func visit(cmd *cobra.Command, fn func(*cobra.Command)) {
	fn(cmd)
	for _, c := range cmd.Commands() {
		visit(c, fn)
	}
}

// usageTemplate is cobra's without the global flags, which would be most of every help text ("options" lists them), and
// without a usage line for groups on their own, which run only to say so.
func usageTemplate(root *cobra.Command) string {
	t := strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}", 1)
	const from, to = "{{if .HasAvailableInheritedFlags}}", "{{end}}"
	i := strings.Index(t, from)
	if i < 0 {
		return t
	}
	j := strings.Index(t[i:], to)
	return t[:i] + "{{if .HasAvailableInheritedFlags}}\n\nGlobal flags: see the command \"options\".{{end}}" + t[i+j+len(to):]
}

func seeHelp(cmd *cobra.Command) string { return fmt.Sprintf("see '%s --help'", cmd.CommandPath()) }
