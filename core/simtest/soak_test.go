package simtest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// seedLimit is how long a seed may take before its process is given up: hundreds
// of times what the slowest needs.
const seedLimit = 5 * time.Minute

// workerMemory is what one process may fill before it collects garbage: a few
// seeds' worth, of which next to nothing is still in use then.
const workerMemory = 256 << 20

// TestSoak plays fresh seeds for a while, in one process per core: simulations
// share crypto/rand, so there is one per process. It ends early, and with the
// same report, when it is interrupted.
func TestSoak(t *testing.T) {
	if *soakFlag == 0 {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C is not waited for
	ctx, cancel := context.WithTimeout(ctx, *soakFlag)
	defer cancel()
	s := newSoak(uint64(time.Now().UnixNano()), os.Stderr)
	s.run(ctx, runtime.NumCPU(), time.Minute)
	fmt.Print(s.report())
	if len(s.mu.failures) > 0 {
		t.Fail()
	}
}

// soak hands seeds out to processes and gathers what became of them.
type soak struct {
	began   time.Time
	first   uint64
	log     io.Writer
	command func() *exec.Cmd // starts a process that runs TestSoakWorker

	mu struct {
		sync.Mutex
		drawn    uint64
		seeds    int // played to their end
		total    Stats
		cpu      time.Duration
		failures []string
	}
}

// verdict is what a process says of a seed, one line of JSON each.
type verdict struct {
	Seed    uint64
	Stats   Stats
	Failure string
}

func newSoak(first uint64, log io.Writer) *soak {
	return &soak{began: time.Now(), first: first, log: log, command: func() *exec.Cmd {
		exe, err := os.Executable()
		cmd := exec.Command(exe, "-test.run=^TestSoakWorker$", "-test.timeout=0", "-worker")
		cmd.Err = cmp.Or(cmd.Err, err)
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1") // or their collectors would get in each other's way
		return cmd
	}}
}

// run keeps so many processes busy until ctx ends, and says every so often how it goes.
func (s *soak) run(ctx context.Context, processes int, every time.Duration) {
	fmt.Fprintf(s.log, "soak: %d processes, seeds from %d on; Ctrl-C ends it with its report\n", processes, s.first)
	var workers sync.WaitGroup
	for range processes {
		workers.Go(func() {
			// Each plays one seed at least; a process that died has a successor.
			for s.process(ctx) && ctx.Err() == nil {
			}
		})
	}
	done := make(chan struct{})
	go func() { workers.Wait(); close(done) }()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			s.progress()
		}
	}
}

// process has one process play seed after seed. False: it cannot be started.
func (s *soak) process(ctx context.Context) bool {
	var stderr bytes.Buffer
	cmd := s.command()
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := cmp.Or(err, err2, cmd.Start()); err != nil {
		s.fail(fmt.Sprintf("start a process: %v", err))
		return false
	}
	verdicts := json.NewDecoder(out)
	for {
		var v verdict
		seed := s.draw()
		limit := time.AfterFunc(seedLimit, func() { _ = cmd.Process.Kill() })
		_, err := fmt.Fprintln(in, seed)
		err = cmp.Or(err, verdicts.Decode(&v))
		if slow := !limit.Stop(); err != nil {
			err = errors.Join(err, cmd.Wait())
			s.fail(fmt.Sprintf("seed %d: its process died (for lack of a verdict within %v: %v): %v\n%s\n%s",
				seed, seedLimit, slow, err, stderr.String(), replay(seed)))
			break
		}
		s.take(v)
		if ctx.Err() == nil {
			continue
		}
		if err := cmp.Or(in.Close(), cmd.Wait()); err != nil {
			s.fail(fmt.Sprintf("end a process: %v\n%s", err, stderr.String()))
		}
		break
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return true
}

func (s *soak) draw() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.drawn++
	return s.first + s.mu.drawn - 1
}

func (s *soak) take(v verdict) {
	s.mu.Lock()
	s.mu.seeds++
	s.mu.total.add(v.Stats)
	s.mu.Unlock()
	if v.Failure != "" {
		s.fail(fmt.Sprintf("seed %d: %s\n%s", v.Seed, v.Failure, replay(v.Seed)))
	}
}

func (s *soak) fail(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.failures = append(s.mu.failures, what)
	fmt.Fprintln(s.log, "FAILED:", what)
}

func (s *soak) progress() {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.log, "soak: %v, %d seeds, %.1f cluster-hours, %d failures\n",
		time.Since(s.began).Round(time.Second), s.mu.seeds, s.mu.total.Simulated.Hours(), len(s.mu.failures))
}

// report says what was done and checked, and what failed.
func (s *soak) report() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "soak of seeds %d to %d\n", s.first, s.first+max(s.mu.drawn, 1)-1)
	b.WriteString(summary(s.mu.seeds, s.mu.total, time.Since(s.began)))
	if h := s.mu.cpu.Hours(); h > 0 {
		fmt.Fprintf(&b, "%.3f CPU-hours: %.0f cluster-hours per CPU-hour\n", h, s.mu.total.Simulated.Hours()/h)
	}
	fmt.Fprintf(&b, "%d failures\n", len(s.mu.failures))
	for _, f := range s.mu.failures {
		fmt.Fprintf(&b, "\n%s\n", f)
	}
	return b.String()
}

// TestSoakWorker is the other half of TestSoak: it plays the seeds that come in,
// one a line, until there are no more.
func TestSoakWorker(t *testing.T) {
	if !*workerFlag {
		return
	}
	useHugePages()
	// What a seed leaves behind is best collected when there is much of it.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(workerMemory)
	// They are meant for the parent, which lets the last seed end.
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		seed, err := strconv.ParseUint(in.Text(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		v := verdict{Seed: seed}
		t.Run(in.Text(), func(t *testing.T) {
			var err error
			if v.Stats, err = Run(t, Options{Seed: seed}); err != nil {
				v.Failure = err.Error()
			}
		})
		if err := out.Encode(v); err != nil {
			return // the parent is gone
		}
	}
}

// useHugePages asks the kernel for huge pages where the heap is going to be: in a
// virtual machine, an eighth of a seed's time went into looking up small ones.
func useHugePages() {
	const madvHugepage = 14 // in Linux; package syscall lacks the name
	if runtime.GOOS == "linux" {
		_ = syscall.Madvise(make([]byte, workerMemory), madvHugepage) // or all stays as it is
		runtime.GC()                                                  // gives the room back to the heap
	}
}

func TestASoakEndsEarlyWithItsReportWhenItIsInterrupted(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestSoak$", "-test.timeout=0", "-soak=1h")
	var out bytes.Buffer
	cmd.Stdout = &out
	progress, err := cmd.StderrPipe()
	if err := cmp.Or(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(progress).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"soak of seeds ", "cluster-hours per CPU-hour", "\n0 failures\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
}

func TestASoakReportsSeedsThatFailAndProcessesThatDie(t *testing.T) {
	var log strings.Builder
	s := newSoak(7, &log)
	s.command = func() *exec.Cmd { return exec.Command(os.Args[0], "-test.run=^$") } // ends at once
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.run(ctx, 1, time.Hour)
	s.take(verdict{Seed: 8, Stats: Stats{Simulated: time.Hour, Faults: map[string]int64{"crash": 3}}, Failure: "stale read"})
	for _, want := range []string{"2 failures", "seed 7: its process died", "make sim SEED=7", "seed 8: stale read", "make sim SEED=8", "crash 3"} {
		if !strings.Contains(s.report(), want) {
			t.Errorf("the report lacks %q:\n%s", want, s.report())
		}
	}
}
