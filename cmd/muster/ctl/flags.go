package ctl

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// globals are the flags of all commands.
type globals struct {
	endpoints      []string
	format         string
	hex            bool
	debug          bool
	commandTimeout time.Duration
	dialTimeout    time.Duration

	keepAliveTime    time.Duration
	keepAliveTimeout time.Duration
	maxRequestBytes  int
	maxReceiveBytes  int

	insecureTransport  bool
	insecureSkipVerify bool
	insecureDiscovery  bool
	cert, key, cacert  string

	user, password, token string

	discoveryDomain, discoveryName string

	flags *pflag.FlagSet
}

func (g *globals) register(root *cobra.Command) {
	f := root.PersistentFlags()
	g.flags = f
	f.StringSliceVar(&g.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "members to talk to: host:port, http://, https:// or unix://, separated by commas")
	f.StringVarP(&g.format, "write-out", "w", "simple", "output format: fields, json, protobuf, simple or table")
	f.BoolVar(&g.hex, "hex", false, "print keys, values and ids in hexadecimal")
	f.BoolVar(&g.debug, "debug", false, "log what the client does to stderr")
	f.DurationVar(&g.commandTimeout, "command-timeout", 5*time.Second, "how long one request may take, connecting included")
	f.DurationVar(&g.dialTimeout, "dial-timeout", 2*time.Second, "how long one attempt to connect may take")
	f.DurationVar(&g.keepAliveTime, "keepalive-time", 2*time.Second, "idle time after which the connection is probed")
	f.DurationVar(&g.keepAliveTimeout, "keepalive-timeout", 6*time.Second, "how long probes may stay without answer")
	f.IntVar(&g.maxRequestBytes, "max-request-bytes", 0, "largest request to send; 0 for 2 MiB")
	f.IntVar(&g.maxReceiveBytes, "max-recv-bytes", 0, "largest answer to take; 0 for no limit")
	f.BoolVar(&g.insecureTransport, "insecure-transport", true, "plain text for endpoints without http:// or https://")
	f.BoolVar(&g.insecureDiscovery, "insecure-discovery", true, "accept plain-text members from --discovery-srv")
	f.BoolVar(&g.insecureSkipVerify, "insecure-skip-tls-verify", false, "accept any server certificate (for tests only)")
	f.StringVar(&g.cert, "cert", "", "client certificate file")
	f.StringVar(&g.key, "key", "", "client key file")
	f.StringVar(&g.cacert, "cacert", "", "certificates of the authorities to trust for servers")
	f.StringVar(&g.user, "user", "", "NAME[:PASSWORD]; asks for a password that isn't given")
	f.StringVar(&g.password, "password", "", "password for --user")
	f.StringVar(&g.token, "auth-jwt-token", "", "token to use instead of --user and --password")
	f.StringVarP(&g.discoveryDomain, "discovery-srv", "d", "", "domain whose SRV records name the members, instead of --endpoints")
	f.StringVar(&g.discoveryName, "discovery-srv-name", "", "suffix of the SRV service name, for --discovery-srv")
	complete(root, "write-out", "fields", "json", "protobuf", "simple", "table")
}

// complete offers values of a flag to the shell.
func complete(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(fmt.Sprintf("ctl: completion of --%s: %v", flag, err)) // only if the flag isn't there
	}
}

// environments are looked at in this order.
var environments = [...]string{"MUSTERCTL_", "ETCDCTL_"}

// resolve takes flags that weren't given from the environment, and warns of variables that mean nothing.
func (g *globals) resolve(environ []string, warnings io.Writer) error {
	given := make(map[string]bool)
	g.flags.VisitAll(func(f *pflag.Flag) { given[f.Name] = f.Changed })
	for _, prefix := range environments {
		for _, kv := range environ {
			name, value, _ := strings.Cut(kv, "=")
			rest, ok := strings.CutPrefix(name, prefix)
			if !ok {
				continue
			}
			flag := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
			switch {
			case rest == "API" && value != "3" && value != "":
				return badArgs("%s=%s: only version 3 of the API is spoken here; unset it", name, value)
			case slices.Contains([]string{"API", "WATCH_KEY", "WATCH_RANGE_END"}, rest):
			case g.flags.Lookup(flag) == nil:
				fmt.Fprintf(warnings, "Warning: environment variable %s names no flag; 'options' lists those there are\n", name)
			case value != "" && !given[flag]:
				given[flag] = true
				if err := g.flags.Set(flag, value); err != nil {
					return badArgs("environment variable %s=%q: %v", name, value, err)
				}
			}
		}
	}
	return nil
}

// watchRange is the key and range end that the environment gives for watch.
func watchRange() (key, end string) {
	for _, prefix := range environments {
		if key == "" {
			key, end = os.Getenv(prefix+"WATCH_KEY"), os.Getenv(prefix+"WATCH_RANGE_END")
		}
	}
	return key, end
}
