package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/cmd/muster/bench/process"
)

// comparison is `bench compare`: its flags, and what it found so far.
type comparison struct {
	binaries  map[string]string // by kind
	generator string            // this program
	rounds    int
	quick     bool
	size      sizes
	dir       string
	output    string
	cores     pinning
	log       io.Writer
	found     findings
}

// sizes are how much of everything; quick ones only show that it works.
type sizes struct {
	keys, puts, reads, keepAlives, watchPuts int
	million                                  int
	settle                                   time.Duration
}

func fullSize() sizes {
	return sizes{keys: 100000, puts: 200000, reads: 300000, keepAlives: 300000, watchPuts: 1000, million: 1000000, settle: 30 * time.Second}
}

func quickSize() sizes {
	return sizes{keys: 10000, puts: 20000, reads: 30000, keepAlives: 30000, watchPuts: 200, million: 50000, settle: 2 * time.Second}
}

func compareCommand() *cobra.Command {
	c := comparison{binaries: map[string]string{}, found: findings{}}
	var etcd, muster string
	cmd := &cobra.Command{
		Use:   "compare --etcd PATH",
		Short: "The same loads on etcd and on Muster, in turn, with medians and ratios",
		Long: `The same loads on etcd and on Muster, in turn, with medians and ratios.

Each server runs alone, with its shipped settings, in a fresh folder on the same disk, on the
first core; the generator, this program, on the second. Rounds alternate between the servers.
All rounds of the full size take some 15 minutes. Give the machine nothing else to do.`,
		Example: "  make bench-etcd\n  muster bench compare --etcd bin/bench-etcd-server -w markdown",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			if muster == "" {
				muster = self
			}
			c.generator, c.binaries[kindEtcd], c.binaries[kindMuster] = self, etcd, muster
			if err := c.validate(); err != nil {
				return err
			}
			if c.size = fullSize(); c.quick {
				c.size = quickSize()
			}
			c.cores, c.log = pin(), cmd.ErrOrStderr()
			return c.run(cmd)
		},
	}
	f := cmd.Flags()
	f.StringVar(&etcd, "etcd", "", "etcd's server, as built from cmd/muster/bench/etcdserver")
	f.StringVar(&muster, "muster", "", "Muster's program (default: this one)")
	f.IntVar(&c.rounds, "rounds", 3, "how often everything is measured; medians are printed")
	f.BoolVar(&c.quick, "quick", false, "a short run that shows that everything works; its figures mean little")
	f.StringVar(&c.dir, "dir", "", "where the servers' folders are made; on a disk whose syncs are real (default: the temporary folder)")
	f.StringVarP(&c.output, "write-out", "w", "simple", "simple, markdown or json")
	return cmd
}

func (c *comparison) validate() error {
	switch c.output {
	case "simple", "markdown", "json":
	default:
		return usagef("-w %s: use simple, markdown or json", c.output)
	}
	if c.rounds < 1 {
		return usagef("--rounds %d: use 1 or more", c.rounds)
	}
	if c.binaries[kindEtcd] == "" {
		return usagef("--etcd is missing: give etcd's server (make bench-etcd builds and gives it)")
	}
	for kind, path := range c.binaries {
		if _, err := exec.LookPath(path); err != nil {
			return usagef("--%s: %w", kind, err)
		}
	}
	return nil
}

// run measures round after round and prints what it has, also when something failed or
// Ctrl-C ended it.
func (c *comparison) run(cmd *cobra.Command) error {
	ctx, stop := interruptible(cmd)
	defer stop()
	if c.cores.server < 0 {
		fmt.Fprintln(c.log, "warning: fewer than two cores to choose: servers and generator share what there is")
	}
	err := c.measure(ctx)
	if ctx.Err() != nil {
		err = errors.New("bench compare: interrupted; what is printed was measured until then")
	}
	return errors.Join(c.found.write(cmd.OutOrStdout(), c.output, c.environment()), err)
}

func (c *comparison) measure(ctx context.Context) error {
	for round := 1; round <= c.rounds; round++ {
		for _, part := range []func(context.Context, *run) error{hotLoads, millionKeys} {
			for _, kind := range []string{kindEtcd, kindMuster} {
				if err := c.alone(ctx, kind, round, part); err != nil {
					return fmt.Errorf("bench compare: round %d, %s: %w", round, kind, err)
				}
			}
		}
	}
	return nil
}

// environment says where the figures were taken.
func (c *comparison) environment() []string {
	var lines []string
	for _, kind := range []string{kindEtcd, kindMuster} {
		args := []string{"--version"}
		if kind == kindMuster {
			args = []string{"version"}
		}
		// Its absence in a heading is no reason to lose the figures.
		out, _ := exec.Command(c.binaries[kind], args...).Output()
		first, _, _ := strings.Cut(string(out), "\n")
		lines = append(lines, first)
	}
	where := "server and generator share the cores"
	if c.cores.server >= 0 {
		where = fmt.Sprintf("server on core %d, generator on core %d", c.cores.server, c.cores.generator)
	}
	size := ""
	if c.quick {
		size = "; --quick: the figures mean little"
	}
	return append(lines, fmt.Sprintf("%s; medians of %d rounds%s", where, c.rounds, size))
}

// run is one server's part of a round.
type run struct {
	*comparison
	*serverProcess
	round int
}

// alone starts a server in a fresh folder, measures, and takes all away.
func (c *comparison) alone(ctx context.Context, kind string, round int, part func(context.Context, *run) error) (err error) {
	dir, err := os.MkdirTemp(c.dir, "muster-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := newServer(kind, c.binaries[kind], filepath.Join(dir, kind), c.cores.server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	if _, err := s.start(ctx); err != nil {
		return err
	}
	return part(ctx, &run{comparison: c, serverProcess: s, round: round})
}

// say tells what is being done.
func (r *run) say(what string) {
	fmt.Fprintf(r.log, "round %d/%d %-6s %s\n", r.round, r.rounds, r.kind, what)
}

// note takes down a figure.
func (r *run) note(m metric, v float64) { r.found.add(m, r.kind, v) }

// load runs one of this program's loads on the generator's core.
func (r *run) load(ctx context.Context, args ...string) (*result, error) {
	args = append([]string{"bench"}, args...)
	args = append(args, "--endpoints", r.addr, "--server-pid", strconv.Itoa(r.pid()), "-w", "json")
	cmd := exec.CommandContext(ctx, r.generator, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr, cmd.Env = ownGroup(), shippedEnviron(os.Environ())
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	var err error
	if r.cores.generator < 0 {
		err = cmd.Start()
	} else {
		err = process.StartOn(cmd, r.cores.generator)
	}
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return nil, fmt.Errorf("load %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	var res result
	if err := json.Unmarshal(out.Bytes(), &res); err != nil {
		return nil, fmt.Errorf("load %s: its output: %w", strings.Join(args, " "), err)
	}
	if res.Interrupted || ctx.Err() != nil {
		return nil, fmt.Errorf("load %s: %w", strings.Join(args, " "), context.Cause(ctx))
	}
	return &res, nil
}

// warmUpSeed is no round's, so that a warm-up doesn't read ahead what is measured.
const warmUpSeed = "1000000"

// warmed runs a load of n operations, after a tenth of it that isn't counted.
func (r *run) warmed(ctx context.Context, n int, args ...string) (*result, error) {
	if _, err := r.load(ctx, append(args, "--seed", warmUpSeed, "--total", strconv.Itoa(max(n/10, 1)))...); err != nil {
		return nil, err
	}
	return r.load(ctx, append(args, "--seed", strconv.Itoa(r.round), "--total", strconv.Itoa(n))...)
}

// hotLoads are the loads of issue and reference: 100 connections, 1000 clients, 8 B keys,
// 256 B values.
func hotLoads(ctx context.Context, r *run) error {
	size := r.size
	space := []string{"--key-space-size", strconv.Itoa(size.keys)}
	r.say(fmt.Sprintf("fill with %d keys", size.keys))
	if _, err := r.load(ctx, append([]string{"put", "--sequential-keys", "--total", strconv.Itoa(size.keys)}, space...)...); err != nil {
		return err
	}
	for _, l := range []struct {
		name, unit string
		n          int
		target     float64
		args       []string
	}{
		{"put", "put", size.puts, 0.55, append([]string{"put"}, space...)},
		{"linearizable range", "read", size.reads, 0.55, append([]string{"range"}, space...)},
		{"serializable range", "read", size.reads, 0, append([]string{"range", "--consistency", "s"}, space...)},
		{"lease keep-alive", "keep-alive", size.keepAlives, 0, []string{"lease"}},
		{"watch, 1000 watchers of a key", "delivery", size.watchPuts, 0, []string{"watch"}},
	} {
		r.say(l.name)
		res, err := r.warmed(ctx, l.n, l.args...)
		if err != nil {
			return err
		}
		if res.ServerMicros == 0 {
			return fmt.Errorf("%s: the server's processor time is unknown: %s", l.name, res.Note)
		}
		r.note(metric{name: l.name, what: "server CPU a " + l.unit, unit: "µs", target: l.target}, res.ServerMicros)
		r.note(metric{name: l.name, what: "rate", unit: "/s"}, res.PerSecond)
		r.note(metric{name: l.name, what: "p50", unit: "ms"}, res.Latency.P50)
		r.note(metric{name: l.name, what: "p99", unit: "ms"}, res.Latency.P99)
		r.note(metric{name: l.name, what: generatorCPU, unit: "µs"}, res.GeneratorMicros)
	}
	return r.stop(syscall.SIGTERM)
}

// generatorCPU is a load's own cost, held against the server's when printing.
const generatorCPU = "generator CPU"

// millionKeys measures what many keys cost: memory, restarts, a page.
func millionKeys(ctx context.Context, r *run) error {
	size := r.size
	name := fmt.Sprintf("%d keys × 100 B", size.million)
	r.say("load " + name)
	n := strconv.Itoa(size.million)
	res, err := r.load(ctx, "put", "--sequential-keys", "--total", n, "--key-space-size", n, "--val-size", "100")
	if err != nil {
		return err
	}
	r.note(metric{name: name, what: "load", unit: "/s"}, res.PerSecond)
	if err := pause(ctx, size.settle); err != nil {
		return err
	}
	mem, err := process.MemoryOf(r.pid())
	if err != nil {
		return err
	}
	r.note(metric{name: name, what: "resident memory", unit: "MiB", target: 0.8}, mebi(mem.Resident))

	r.say("range limit=100")
	page := []string{"range", "", "--from-key", "--limit", "100", "--conns", "1", "--clients", "1"}
	if res, err = r.warmed(ctx, 50, page...); err != nil {
		return err
	}
	r.note(metric{name: name, what: "range limit=100, median", unit: "ms", target: 0.05}, res.Latency.P50)

	// Killed first: what an orderly stop writes would help it.
	for _, end := range []struct {
		sig  syscall.Signal
		name string
	}{{syscall.SIGKILL, "SIGKILL"}, {syscall.SIGTERM, "SIGTERM"}} {
		r.say("restart after " + end.name)
		if err := r.stop(end.sig); err != nil {
			return err
		}
		took, err := r.start(ctx)
		if err != nil {
			return err
		}
		r.note(metric{name: name, what: "restart after " + end.name, unit: "ms", target: 0.5}, millis(took))
	}
	return r.stop(syscall.SIGTERM)
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
