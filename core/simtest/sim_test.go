package simtest

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	seedFlag     = flag.Uint64("seed", 0, "replay one seed (make sim SEED=n)")
	membersFlag  = flag.Int("members", 0, "members of the cluster (default: drawn from the seed)")
	clientsFlag  = flag.Int("clients", 0, "clients (default 5)")
	watchersFlag = flag.Int("watchers", 0, "watchers (default 3)")
	durationFlag = flag.Duration("duration", 0, "virtual time with faults (default 1m)")
	withoutFlag  = flag.String("without", "", "kinds of fault to leave out, separated by commas")
	faultsFlag   = flag.String("faults", "", "only these of the faults, by their numbers, separated by commas; - for none")
	shrinkFlag   = flag.Bool("shrink", false, "look for the smallest run in which the seed fails")
	everyFlag    = flag.Bool("every", false, "crash at every single I/O (make sim-crash)")
	soakFlag     = flag.Duration("soak", 0, "run fresh seeds for so long (make sim-soak TIME=8h)")
	workerFlag   = flag.Bool("worker", false, "be one of a soak's processes")
)

// A run leaves a hundred times as much garbage as it keeps memory: with the usual
// setting a third of the time would go into collecting it.
func TestMain(m *testing.M) {
	debug.SetGCPercent(1000)
	os.Exit(m.Run())
}

// fixedSeeds is what `make test` plays. A seed that once failed joins regressions.
const fixedSeeds = 60

// regressions are seeds that showed a bug, with what it was.
var regressions = []uint64{
	1795364121365042878, // a read error on the start counter had command ids given out again
}

func replay(seed uint64) string {
	return fmt.Sprintf("replay with: make sim SEED=%[1]d\nshrink with: make sim-shrink SEED=%[1]d", seed)
}

func TestFixedSeedsKeepEveryPromise(t *testing.T) {
	if *seedFlag != 0 || *soakFlag != 0 {
		return
	}
	var total Stats
	seeds := slices.Clone(regressions)
	for i := range uint64(fixedSeeds) {
		seeds = append(seeds, i+1)
	}
	if testing.Short() {
		seeds = seeds[:min(5, len(seeds))]
	}
	began := time.Now()
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			stats, err := Run(t, Options{Seed: seed})
			total.add(stats)
			if err != nil {
				t.Fatalf("%v\n%s", err, replay(seed))
			}
		})
	}
	report(t, len(seeds), total, time.Since(began))
}

func TestSeed(t *testing.T) {
	if *seedFlag == 0 {
		*seedFlag = 1
	}
	if *shrinkFlag {
		return
	}
	opts := flagged()
	opts.Verbose = testing.Verbose()
	stats, err := Run(t, opts)
	if err != nil {
		t.Fatalf("%v\n%s", err, replay(*seedFlag))
	}
	report(t, 1, stats, 0)
}

// flagged is the run that the command line asks for.
func flagged() Options {
	opts := Options{
		Seed: *seedFlag, Members: *membersFlag, Clients: *clientsFlag, Watchers: *watchersFlag, Duration: *durationFlag,
	}
	if *withoutFlag != "" {
		opts.Without = strings.Split(*withoutFlag, ",")
	}
	if *faultsFlag != "" {
		opts.Faults = []int{}
		for s := range strings.SplitSeq(strings.Trim(*faultsFlag, "-"), ",") {
			if n, err := strconv.Atoi(s); err == nil {
				opts.Faults = append(opts.Faults, n)
			} else if s != "" {
				fmt.Fprintf(os.Stderr, "-faults: %q is not a number\n", s)
				os.Exit(2)
			}
		}
	}
	return opts
}

// TestShrink prints the smallest run it finds in which a seed fails, as a command and
// as the script of its faults.
func TestShrink(t *testing.T) {
	if !*shrinkFlag {
		return
	}
	best, script, failure := shrink(t, flagged())
	fmt.Printf("make sim SEED=%d ARGS='%s'\n%d faults, by their numbers:\n", best.Seed, arguments(best), len(script))
	for _, f := range script {
		fmt.Println(f)
	}
	fmt.Println(failure)
}

// shrink makes a failing run smaller, step by step, as long as it fails.
func shrink(t *testing.T, best Options) (_ Options, script []inflicted, failure error) {
	t.Helper()
	try := func(opts Options) (script []inflicted, err error) {
		t.Run("try", func(t *testing.T) {
			w := newWorld(t, opts)
			err = w.run()
			script = w.inflicted
		})
		return script, err
	}
	if script, failure = try(best); failure == nil {
		t.Fatalf("seed %d does not fail", best.Seed)
	}
	for smaller := true; smaller; {
		smaller = false
		for _, opts := range reductions(best, script) {
			if faults, err := try(opts); err != nil {
				best, script, failure, smaller = opts, faults, err, true
				break
			}
		}
	}
	return best, script, failure
}

func TestAFailingRunIsShrunkToTheFaultsItTakes(t *testing.T) {
	best, script, failure := shrink(t, Options{Seed: 3, Members: 5, Duration: 20 * time.Second, LoseSyncs: true})
	if len(script) > 2 || !strings.Contains(arguments(best), "-faults=") {
		t.Errorf("the smallest run has %d faults: %v\n%s\n%v", len(script), script, arguments(best), failure)
	}
	again := newWorld(t, best)
	if err := again.run(); err == nil || err.Error() != failure.Error() {
		t.Errorf("it ends with %v, and the next time with %v", failure, err)
	}
}

// reductions are the next smaller runs, the ones that save most first.
func reductions(o Options, script []inflicted) []Options {
	var out []Options
	with := func(change func(*Options)) {
		smaller := o
		change(&smaller)
		out = append(out, smaller)
	}
	if d := cmp.Or(o.Duration, time.Minute); d > 2*time.Second {
		with(func(o *Options) { o.Duration = d / 2 })
		with(func(o *Options) { o.Duration = d * 4 / 5 })
	}
	// Half of the faults, a quarter, and so on (Zeller's delta debugging).
	numbers := []int{}
	for _, f := range script {
		numbers = append(numbers, f.number)
	}
	for chunk := len(numbers); chunk > 0; chunk /= 2 {
		for from := 0; from < len(numbers); from += chunk {
			with(func(o *Options) { o.Faults = slices.Delete(slices.Clone(numbers), from, min(from+chunk, len(numbers))) })
		}
	}
	if n := cmp.Or(o.Clients, 5); n > 1 {
		with(func(o *Options) { o.Clients = n - 1 })
	}
	if n := cmp.Or(o.Watchers, 3); n > 1 {
		with(func(o *Options) { o.Watchers = n - 1 })
	}
	for _, n := range []int{1, 3} {
		if o.Members == 0 || n < o.Members {
			with(func(o *Options) { o.Members = n })
		}
	}
	return out
}

func arguments(o Options) string {
	var args []string
	number := func(name string, n int) {
		if n != 0 {
			args = append(args, fmt.Sprintf("-%s=%d", name, n))
		}
	}
	number("members", o.Members)
	number("clients", o.Clients)
	number("watchers", o.Watchers)
	if o.Duration != 0 {
		args = append(args, fmt.Sprint("-duration=", o.Duration))
	}
	if len(o.Without) > 0 {
		args = append(args, fmt.Sprintf("-without=%q", strings.Join(o.Without, ",")))
	}
	if o.Faults != nil {
		args = append(args, "-faults="+cmp.Or(strings.ReplaceAll(strings.Trim(fmt.Sprint(o.Faults), "[]"), " ", ","), "-"))
	}
	return strings.Join(args, " ")
}

// Every step of a run, down to the bytes of its messages, follows from the seed.
func TestSameSeedGivesTheSameRun(t *testing.T) {
	for seed := range uint64(6) {
		var first Stats
		for i := range 2 {
			t.Run(fmt.Sprintf("seed=%d/%d", 100+seed, i), func(t *testing.T) {
				stats, err := Run(t, Options{Seed: 100 + seed, Duration: 20 * time.Second, trace: true})
				if err != nil {
					t.Fatalf("%v\n%s", err, replay(100+seed))
				}
				if i == 0 && stats.Trace != 0 {
					first = stats
				} else if stats.Trace != first.Trace || stats.Steps != first.Steps {
					t.Fatalf("second run differs:\n%+v\n%+v", first, stats)
				}
			})
		}
	}
}

// A log that acknowledges before it syncs is the bug that this simulator
// exists to find.
func TestLostSyncsAreFoundWithinTenSeeds(t *testing.T) {
	for seed := range uint64(10) {
		var err error
		t.Run(fmt.Sprint("seed=", seed+1), func(t *testing.T) {
			_, err = Run(t, Options{Seed: seed + 1, LoseSyncs: true})
		})
		if err != nil {
			t.Logf("found with seed %d: %.300v", seed+1, err)
			return
		}
	}
	t.Fatal("ten seeds passed although the log never syncs: the simulator is blind")
}

func report(t *testing.T, seeds int, s Stats, took time.Duration) {
	t.Helper()
	fmt.Print(summary(seeds, s, took))
}

// summary says what runs did and checked, in a few lines.
func summary(seeds int, s Stats, took time.Duration) string {
	faults := int64(0)
	for _, n := range s.Faults {
		faults += n
	}
	return fmt.Sprintf(`simulated %.2f cluster-hours over %d seeds in %v: %d steps, %d messages, %d client operations (%d with unknown outcome)
checked: %d reads, %d entries replayed, %d watch events, %d states compared, %d histories
%d faults: %s
what came of them and of the workload: %s
`, s.Simulated.Hours(), seeds, took.Round(time.Second), s.Steps, s.Messages, s.Ops, s.Unknown,
		s.Reads, s.Replayed, s.Events, s.States, s.Histories, faults, counts(s.Faults), counts(s.Seen))
}

func counts(m map[string]int64) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(all, ", ")
}
