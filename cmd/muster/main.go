// Command muster is all of Muster in one binary: see muster --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/cmd/muster/bench"
	"github.com/musterhq/muster/cmd/muster/ctl"
	"github.com/musterhq/muster/cmd/muster/dns"
	"github.com/musterhq/muster/cmd/muster/registrar"
	"github.com/musterhq/muster/cmd/muster/server"
	core "github.com/musterhq/muster/core/server"
)

func main() {
	os.Exit(run(os.Args))
}

// run returns the exit code: 0, 1 for a failure, 2 for a mistake in what was
// asked for, or what the error itself says.
func run(argv []string) int {
	root, args, err := program(argv)
	if err == nil {
		root.SetArgs(args)
		err = root.ExecuteContext(context.Background())
	}
	if err == nil {
		return 0
	}
	var told interface{ Reported() bool }
	if !errors.As(err, &told) || !told.Reported() {
		fmt.Fprintln(os.Stderr, root.Name()+": "+oneLine(err.Error()))
	}
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return 1
}

// oneLine is a message in one line, whatever was joined or wrapped in it.
func oneLine(message string) string {
	var lines []string
	for line := range strings.Lines(message) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.ReplaceAll(strings.Join(lines, "; "), "?; ", "? ")
}

// program is the tree of commands and the arguments for it.
func program(argv []string) (root *cobra.Command, args []string, err error) {
	if ctl.AsEtcdctl(argv[0]) {
		return ctl.Etcdctl(), argv[1:], nil
	}
	root = &cobra.Command{
		Use:           "muster",
		Short:         "Coordination store, service registry and DNS, speaking etcd's wire",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	serve := server.Command()
	root.AddCommand(serve, bench.Command(), dns.Command(), registrar.Command(), ctl.Command(), versionCommand())

	args = argv[1:]
	if server.AsEtcd(argv[0]) {
		if args, err = etcdArgs(args); err != nil {
			return root, nil, err
		}
	}
	if len(args) > 0 && args[0] == serve.Name() {
		args = append([]string{serve.Name()}, core.SingleDash(args[1:], serve.Flags())...)
	}
	return root, args, nil
}

// etcdArgs makes `etcd --name x` into `muster server --name x`.
func etcdArgs(args []string) ([]string, error) {
	if len(args) > 0 && (args[0] == "gateway" || args[0] == "grpc-proxy") {
		return nil, fmt.Errorf("etcd %s is not supported: clients reach every member directly", args[0])
	}
	return append([]string{"server"}, args...), nil
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print what this is",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "muster Version: %s\netcd Version: %s\nGo Version: %s\nGo OS/Arch: %s/%s\n",
				version(), core.EtcdVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

// version is what the module was built as: a tag, or the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
