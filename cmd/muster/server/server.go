package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/server"
)

const (
	// closeTime is what an orderly stop may take: supervisors and test harnesses
	// expect the process gone 1.5 s after SIGTERM.
	closeTime = 1300 * time.Millisecond
	// closeLimit is when a stop that isn't orderly is over, too: what ignores
	// closeTime waits for a disk or for the processor, and a supervisor would kill
	// the process a few seconds later.
	closeLimit = 5 * time.Second
)

// AsEtcd tells whether the program was started under etcd's name, to stand in
// for it.
func AsEtcd(argv0 string) bool {
	return strings.TrimSuffix(filepath.Base(argv0), ".exe") == "etcd"
}

// usageError is a mistake in what the user asked for: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// ExitCode is read by main.
func (usageError) ExitCode() int { return 2 }

// Command is `muster server`.
func Command() *cobra.Command {
	cfg := server.Default()
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a member",
		Long: `Run a member of a cluster, or a cluster of its own.

Every flag is also an environment variable (MUSTER_DATA_DIR, else ETCD_DATA_DIR)
and a field of the YAML file given by --config-file. A flag wins over the
environment, the environment over the file.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unexpected argument %q: a member is told everything by flags", args[0])}
			}
			return nil
		},
		Version: server.EtcdVersion,
	}
	cmd.SetVersionTemplate(fmt.Sprintf("etcd Version: %s\nGit SHA: none, this is muster\nGo Version: %s\nGo OS/Arch: %s/%s\n",
		server.EtcdVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH))
	cmd.InitDefaultVersionFlag()
	flags := cfg.AddFlags(cmd.Flags())
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		warnings, err := flags.Resolve(os.Environ())
		if err != nil {
			return usageError{err}
		}
		cfg.DNSRequired = flags.Given("dns-listen")
		if !flags.Given("data-dir") && AsEtcd(os.Args[0]) {
			cfg.DataDir = cfg.Name + ".etcd"
		}
		if err := cfg.Validate(); err != nil {
			return usageError{err}
		}
		if cfg.Logger, err = server.NewLogger(os.Stderr, cfg.LogLevel, cfg.LogFormat); err != nil {
			return usageError{err}
		}
		for _, w := range warnings {
			cfg.Logger.Warn(w)
		}
		cfg.Registry = prometheus.NewRegistry()
		mountDNS(&cfg, cfg.Registry)
		tuneRuntime()
		return run(cmd.Context(), cfg)
	}
	return cmd
}

// tuneRuntime sets what belongs to the process rather than to a member. What
// the user chose in the environment stays.
func tuneRuntime() {
	if os.Getenv("GOGC") == "" {
		server.HoldGCHeadroom()
	}
	// With one P, each sync of the log leaves nobody to serve reads while the
	// kernel writes: 10 to 24 % of a single core's throughput.
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
}

// run serves until a signal or until the member can't go on. A process that
// ended on a signal has died of it to whoever started it, as etcd has (143 and
// 130 in a shell, success to systemd).
func run(ctx context.Context, cfg server.Config) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	sig, err := serve(ctx, cfg, signals)
	signal.Stop(signals)
	if err == nil && sig != nil {
		dieOf(sig)
	}
	return err
}

// dieOf lets the signal do what it does to a program that doesn't catch it. A
// container's first process is immune to its own signals: it just ends.
func dieOf(sig os.Signal) {
	if os.Getpid() == 1 {
		return
	}
	signal.Reset(sig)
	self, err := os.FindProcess(os.Getpid())
	if err == nil && self.Signal(sig) == nil {
		time.Sleep(time.Second) // it arrives before this is over
	}
}

// serve returns the signal that ended it, if one did.
func serve(ctx context.Context, cfg server.Config, signals chan os.Signal) (sig os.Signal, failure error) {
	// A signal while recovering ends that, too.
	opening, opened := context.WithCancel(ctx)
	type result struct {
		s   *server.Server
		err error
	}
	results := make(chan result, 1)
	go func() {
		s, err := server.Open(opening, cfg)
		results <- result{s, err}
	}()
	var r result
	select {
	case r = <-results:
		// Recovery leaves as much garbage as there is data: give it back now
		// rather than over the next minutes.
		go debug.FreeOSMemory()
	case sig = <-signals:
		cfg.Logger.Info("received signal; giving up starting", "signal", sig.String())
		opened()
		select {
		case r = <-results:
		case <-signals:
			os.Exit(1)
		case <-time.After(closeTime):
			return sig, nil
		}
		if r.s == nil {
			return sig, nil
		}
		signals <- sig
	}
	defer opened()
	if r.err != nil {
		return nil, r.err
	}

	select {
	case sig = <-signals:
		cfg.Logger.Info("received signal; shutting down", "signal", sig.String())
	case <-r.s.Failed():
		// A removed member has done as it was told, and said so in its log: a
		// supervisor must not start it again.
		if failure = r.s.Err(); errors.Is(failure, node.ErrRemoved) {
			failure = nil
		}
	}
	go func() {
		<-signals
		os.Exit(1)
	}()
	closing, done := context.WithTimeout(ctx, closeTime)
	defer done()
	if err := closeWithin(closeLimit, func() error { return r.s.Close(closing) }); err != nil && failure == nil && !errors.Is(err, context.DeadlineExceeded) {
		failure = err
	}
	return sig, failure
}

// errCloseLimit is no loss: each start can follow a crash.
var errCloseLimit = errors.New("the member did not close in time and was left as a crash would leave it; nothing acknowledged is lost, the next start reads the log")

// closeWithin waits for the member to close, but not for ever.
func closeWithin(limit time.Duration, closeMember func() error) error {
	closed := make(chan error, 1)
	go func() { closed <- closeMember() }()
	giveUp := time.NewTimer(limit)
	defer giveUp.Stop()
	select {
	case err := <-closed:
		return err
	case <-giveUp.C:
		return fmt.Errorf("%w (after %v)", errCloseLimit, limit)
	}
}
