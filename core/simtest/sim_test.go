package simtest

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "replay one seed (make sim SEED=n)")
	everyFlag = flag.Bool("every", false, "crash at every single I/O (make sim-crash)")
	soakFlag  = flag.Duration("soak", 0, "run fresh seeds for so long (make sim-soak TIME=8h)")
)

// fixedSeeds is what `make test` plays. A seed that once failed joins regressions.
const fixedSeeds = 60

// regressions are seeds that showed a bug, with what it was.
var regressions = []uint64{
	1795364121365042878, // a read error on the start counter had command ids given out again
}

func replay(seed uint64) string { return fmt.Sprintf("replay with: make sim SEED=%d", seed) }

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
	stats, err := Run(t, Options{Seed: *seedFlag, Verbose: testing.Verbose()})
	if err != nil {
		t.Fatalf("%v\n%s", err, replay(*seedFlag))
	}
	report(t, 1, stats, 0)
}

// Every step of a run, down to the bytes of its messages, follows from the seed.
func TestSameSeedGivesTheSameRun(t *testing.T) {
	for seed := range uint64(6) {
		var first Stats
		for i := range 2 {
			t.Run(fmt.Sprintf("seed=%d/%d", 100+seed, i), func(t *testing.T) {
				stats, err := Run(t, Options{Seed: 100 + seed, Duration: 20 * time.Second})
				if err != nil {
					t.Fatalf("%v\n%s", err, replay(100+seed))
				}
				if i == 0 {
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

func TestSoak(t *testing.T) {
	if *soakFlag == 0 {
		return
	}
	began := time.Now()
	var total Stats
	n := 0
	for seed := uint64(began.UnixNano()); time.Since(began) < *soakFlag; seed++ {
		n++
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			stats, err := Run(t, Options{Seed: seed})
			total.add(stats)
			if err != nil {
				t.Errorf("%v\n%s", err, replay(seed))
			}
		})
	}
	report(t, n, total, time.Since(began))
}

func report(t *testing.T, seeds int, s Stats, took time.Duration) {
	t.Helper()
	var faults []string
	sum := int64(0)
	for _, k := range slices.Sorted(maps.Keys(s.Faults)) {
		faults = append(faults, fmt.Sprintf("%s %d", k, s.Faults[k]))
		sum += s.Faults[k]
	}
	fmt.Printf("simulated %.2f cluster-hours over %d seeds in %v: %d steps, %d messages, %d client operations (%d with unknown outcome), %d reads checked, %d entries replayed, %d watch events, %d faults (%s)\n",
		s.Simulated.Hours(), seeds, took.Round(time.Second), s.Steps, s.Messages, s.Ops, s.Unknown, s.Reads, s.Replayed, s.Events, sum, strings.Join(faults, ", "))
}
