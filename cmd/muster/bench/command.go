package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/musterhq/muster/cmd/muster/bench/h2load"
)

// usageError is a mistake in what was asked for: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// ExitCode is read by main.
func (usageError) ExitCode() int { return 2 }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Command is "muster bench".
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a server: throughput, latencies, and what an operation costs it",
		Long: `Measure a server: throughput, latencies, and what an operation costs it.

Processor time and memory are those of the process that listens on the endpoint, found
by itself if that is on this machine. Ctrl-C prints what was measured so far.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.AddCommand(putCommand(), rangeCommand(), watchCommand(), leaseCommand(), dnsCommand(), compareCommand(), soakCommand())
	return cmd
}

// options are the flags that the gRPC loads share.
type options struct {
	endpoints  []string
	conns      int
	clients    int
	total      int
	duration   time.Duration
	rate       float64
	seed       uint64
	serverPIDs []int
	output     string
	addrs      []string // of the endpoints
}

// addFlags declares them. total is the default number of operations, of a kind.
func (o *options) addFlags(f *pflag.FlagSet, total int, of string) {
	f.StringSliceVar(&o.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "the servers; connections take turns")
	f.IntVar(&o.conns, "conns", 100, "connections")
	f.IntVar(&o.clients, "clients", 1000, "clients over all connections, each with one operation outstanding")
	o.addRunFlags(f, total, of)
}

// addRunFlags declares what every load has.
func (o *options) addRunFlags(f *pflag.FlagSet, total int, of string) {
	f.IntVar(&o.total, "total", total, of+" until the end (0: as long as --duration says)")
	f.DurationVar(&o.duration, "duration", 0, "how long to run; alone, it stands instead of --total")
	f.Uint64Var(&o.seed, "seed", 1, "what random choices begin from")
	f.IntSliceVar(&o.serverPIDs, "server-pid", nil, "processes to measure (default: those that listen on local endpoints)")
	f.StringVarP(&o.output, "write-out", "w", "simple", "simple or json")
}

// resolve checks the flags and derives what follows from them.
func (o *options) resolve(f *pflag.FlagSet) error {
	if o.output != "simple" && o.output != "json" {
		return usagef("-w %s: use simple or json", o.output)
	}
	if o.duration > 0 && !f.Changed("total") {
		o.total = 0
	}
	if o.total <= 0 && o.duration <= 0 {
		return usagef("neither --total nor --duration: give one")
	}
	if f.Lookup("clients") != nil && (o.conns < 1 || o.clients < o.conns) {
		return usagef("--clients %d on --conns %d: use at least one connection, and at least one client each", o.clients, o.conns)
	}
	if o.rate < 0 {
		return usagef("--rate %v: use 0 for no limit", o.rate)
	}
	o.addrs = nil
	for _, e := range o.endpoints {
		addr, err := address(e)
		if err != nil {
			return err
		}
		o.addrs = append(o.addrs, addr)
	}
	return nil
}

// address is an endpoint's host:port.
func address(endpoint string) (string, error) {
	addr := endpoint
	if strings.Contains(endpoint, "://") {
		u, err := url.Parse(endpoint)
		if err != nil || u.Scheme != "http" {
			return "", usagef("endpoint %q: use host:port or http://host:port; TLS is not supported by bench", endpoint)
		}
		addr = u.Host
	}
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
		return "", usagef("endpoint %q: use host:port", endpoint)
	}
	return addr, nil
}

// load is what the options say of a load.
func (o *options) load(method string) h2load.Config {
	return h2load.Config{
		Addrs: o.addrs, Conns: o.conns, Clients: o.clients, Method: method,
		Total: o.total, Duration: o.duration, Rate: o.rate,
	}
}

// interruptible is the command's context, ended by Ctrl-C too.
func interruptible(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
}

// measure runs a load under the meter and prints what it found.
func (o *options) measure(cmd *cobra.Command, name string, cfg h2load.Config) error {
	ctx, stop := interruptible(cmd)
	defer stop()
	m, err := newMeter(o)
	if err != nil {
		return err
	}
	p := newProgress(cmd.ErrOrStderr(), name, o)
	cfg.Begin, cfg.End, cfg.Progress = m.begin, m.end, p.show
	r, err := h2load.Run(ctx, cfg)
	p.clear()
	if r.Begun == 0 && err != nil {
		return err
	}
	return errors.Join(err, o.print(ctx, cmd, m.result(name, &r)))
}

// print prints a result. Failed operations are an error.
func (o *options) print(ctx context.Context, cmd *cobra.Command, r *result) error {
	r.Connections, r.Clients = o.conns, o.clients
	if ctx.Err() != nil {
		r.Interrupted = true
	}
	if err := r.write(cmd.OutOrStdout(), o.output); err != nil {
		return err
	}
	if r.Failed > 0 {
		return fmt.Errorf("bench %s: %d operations failed, most often: %s", r.Load, r.Failed, r.FirstError)
	}
	return nil
}

// isTerminal tells whether w shows to somebody.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
