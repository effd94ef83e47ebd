package registrar

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	lib "github.com/musterhq/muster/registrar"
)

// runDrainDelay is short: whoever stops a container gives it ten seconds in all.
const runDrainDelay = 2 * time.Second

// runFlags describe one service.
type runFlags struct {
	name, ns, id, addr, node, version string
	ports, tags, meta, checks         []string
	weight, priority                  uint32
	ttl, delay, timeout               time.Duration
	interval, checkTimeout            time.Duration
	rise, fall                        int
	leaseFile, apiUnix, apiHTTP       string
}

func runCommand() *cobra.Command {
	var store storeFlags
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run --name NAME --port [NAME=]PORT [flags] [-- COMMAND [ARG…]]",
		Short: "Register one service for as long as a command runs",
		Long: `Starts a command, registers one service for it, passes signals on, and deregisters when it ends; exits with the
command's exit code. Without a command it registers until SIGTERM.

SIGTERM and SIGINT first take the instance out of traffic, wait --drain-delay, and only then go to the command; a second
one goes to it at once, a third kills. It is fit to be a container's PID 1.

Checks: http:/path asks the service's port named http (or its only port), http://host:port/path a URL; tcp connects to
the only port, tcp:NAME to a named one, tcp:host:port anywhere; ttl:10s waits to be told: the command finds the URL for
that in MUSTER_REGISTRAR_URL and does PUT $MUSTER_REGISTRAR_URL/v1/pass/ttl (warn, fail) at least that often. With
checks, the service is registered once they have all passed.`,
		Example: `  muster registrar run --name web --port http=8080 --check http:/healthz -- ./web --listen :8080
  muster registrar run --name db --port 5432 --check tcp --tag primary --meta team=x -- postgres
  muster registrar run --name job --port metrics=9100 --check ttl:30s -- ./job
  muster registrar run --name printer --addr 10.0.0.9 --port 9100`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if at := cmd.ArgsLenAtDash(); at > 0 || at < 0 && len(args) > 0 {
				return fmt.Errorf("%q: put -- before the command", args[0])
			}
			logger, err := store.logger(cmd)
			if err != nil {
				return err
			}
			cfg, err := f.config()
			if err != nil {
				return err
			}
			store.apply(&cfg.Store)
			if err := cfg.Normalize(); err != nil {
				return err
			}
			if err := cfg.Validate(); err != nil {
				return err
			}
			return serve(cmd.Context(), service{cfg: cfg, command: args, logger: logger})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.name, "name", "", "service name (needed)")
	fs.StringArrayVar(&f.ports, "port", nil, "port, such as http=8080 or dns=53/udp; may be repeated (needed)")
	fs.StringVar(&f.ns, "ns", "", "namespace (default \"default\")")
	fs.StringVar(&f.id, "id", "", "instance id (default NODE-NAME)")
	fs.StringVar(&f.node, "node", "", "node name (default the host's)")
	fs.StringVar(&f.addr, "addr", "", "address to register: IP, host name, iface:NAME or cidr:PREFIX (default the one the store is reached from)")
	fs.StringVar(&f.version, "version", "", "the service's version")
	fs.StringArrayVar(&f.tags, "tag", nil, "tag; may be repeated")
	fs.StringArrayVar(&f.meta, "meta", nil, "key=value; may be repeated")
	fs.Uint32Var(&f.weight, "weight", 0, "weight (default 100)")
	fs.Uint32Var(&f.priority, "priority", 0, "priority, lower is tried first (default 10)")
	fs.StringArrayVar(&f.checks, "check", nil, "http:/path, tcp or ttl:10s; may be repeated")
	fs.DurationVar(&f.interval, "check-interval", 0, "between probes (default 10s)")
	fs.DurationVar(&f.checkTimeout, "check-timeout", 0, "for one probe (default 5s, at most the interval)")
	fs.IntVar(&f.rise, "rise", 0, "good results in a row that better the status (default 2; the first counts at once)")
	fs.IntVar(&f.fall, "fall", 0, "bad results in a row that worsen the status (default 3)")
	fs.DurationVar(&f.ttl, "ttl", 0, "how long the registration outlives a crash (default 30s)")
	fs.DurationVar(&f.delay, "drain-delay", runDrainDelay, "between leaving traffic and stopping the command")
	fs.DurationVar(&f.timeout, "stop-timeout", 0, "until a command that doesn't stop is killed (default 30s)")
	fs.StringVar(&f.leaseFile, "lease-file", "", "remember the lease here, to adopt it after a crash")
	fs.StringVar(&f.apiUnix, "api-unix", "", "socket for the command to report to")
	fs.StringVar(&f.apiHTTP, "api-http", "", "loopback host:port for the command to report to (default a free one, if there is a ttl check)")
	store.add(cmd)
	return cmd
}

// config makes a configuration of the flags, not yet validated.
func (f *runFlags) config() (lib.Config, error) {
	s := lib.ServiceConfig{
		Name: f.name, NS: f.ns, ID: f.id, Version: f.version, Addr: f.addr, Tags: f.tags, Weight: f.weight, Priority: f.priority,
		Ports: map[string]lib.Port{}, Meta: map[string]string{},
	}
	if f.name == "" || len(f.ports) == 0 {
		return lib.Config{}, fmt.Errorf("which service? give --name and --port, such as --name web --port http=8080")
	}
	for _, p := range f.ports {
		name, num, ok := strings.Cut(p, "=")
		if !ok {
			name, num = "", p
		}
		port, err := lib.ParsePort(num)
		if err != nil {
			return lib.Config{}, fmt.Errorf("--port %s: %w", p, err)
		}
		if _, ok := s.Ports[name]; ok {
			return lib.Config{}, fmt.Errorf("--port %s: the name %q is given twice: name each port", p, name)
		}
		s.Ports[name] = port
	}
	for _, m := range f.meta {
		k, v, ok := strings.Cut(m, "=")
		if !ok {
			return lib.Config{}, fmt.Errorf("--meta %s: write key=value", m)
		}
		s.Meta[k] = v
	}
	ttlCheck := false
	for _, c := range f.checks {
		ch, err := f.check(c)
		if err != nil {
			return lib.Config{}, err
		}
		ttlCheck = ttlCheck || ch.TTL != 0
		s.Checks = append(s.Checks, ch)
	}
	cfg := lib.Config{
		Node: lib.NodeConfig{Name: f.node}, Lease: lib.LeaseConfig{TTL: f.ttl, File: f.leaseFile},
		Drain: lib.DrainConfig{Delay: &f.delay, Timeout: f.timeout}, API: lib.APIConfig{Unix: f.apiUnix, HTTP: f.apiHTTP},
		Services: []lib.ServiceConfig{s},
	}
	if ttlCheck && f.apiUnix == "" && f.apiHTTP == "" {
		cfg.API.HTTP = "127.0.0.1:0"
	}
	return cfg, nil
}

func (f *runFlags) check(s string) (lib.CheckConfig, error) {
	kind, arg, _ := strings.Cut(s, ":")
	c := lib.CheckConfig{Interval: f.interval, Timeout: f.checkTimeout, Rise: f.rise, Fall: f.fall}
	switch kind {
	case "http", "https":
		c.HTTP = arg
		if strings.HasPrefix(arg, "//") {
			c.HTTP = s
		} else if !strings.HasPrefix(arg, "/") || kind == "https" {
			return c, fmt.Errorf("--check %s: write http:/path, or a whole URL", s)
		}
	case "tcp":
		c.TCP = arg
		if arg == "" {
			c.TCP = "tcp"
		}
	case "ttl":
		ttl, err := time.ParseDuration(arg)
		if err != nil {
			return c, fmt.Errorf("--check %s: write ttl:10s", s)
		}
		c = lib.CheckConfig{TTL: ttl, Rise: f.rise, Fall: f.fall}
	default:
		return c, fmt.Errorf("--check %s: write http:/path, tcp or ttl:10s; other kinds are not supported yet", s)
	}
	return c, nil
}

// childEnv is the wrapped command's environment.
func childEnv(url, socket string) []string {
	env := os.Environ()
	if url != "" {
		env = append(env, "MUSTER_REGISTRAR_URL="+url)
	}
	if socket != "" {
		env = append(env, "MUSTER_REGISTRAR_SOCKET="+socket)
	}
	return env
}
