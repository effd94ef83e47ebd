package differential

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

// options are what the command line says.
type options struct {
	etcd, ours string
	record     string
	seed       uint64
	tree       int64
	time       time.Duration
	workers    int
	members    int
}

var opts options

func TestMain(m *testing.M) {
	flag.StringVar(&opts.etcd, "etcd", "", "etcd's server, see make differential")
	flag.StringVar(&opts.ours, "muster", "", "the program to compare; empty: build it")
	flag.StringVar(&opts.record, "record", "", "where to write down what etcd answers")
	flag.Uint64Var(&opts.seed, "seed", 1, "what the trees are made from")
	flag.Int64Var(&opts.tree, "tree", -1, "the one tree to run")
	flag.DurationVar(&opts.time, "time", time.Minute, "how long to go on")
	flag.IntVar(&opts.workers, "workers", 2, "how many pairs of servers run side by side")
	flag.IntVar(&opts.members, "members", 1, "how many members Muster has; each request goes to the next one")
	goleak.VerifyTestMain(m)
}

// maxFailures is how many trees may fail before a run ends.
const maxFailures = 5

// treesPerPair is how many trees a pair of servers lives for. The first ones see a
// store that was never compacted.
const treesPerPair = 1500

// shortLease is within what time a program must be done that has leases which could run out.
const shortLease = 1200 * time.Millisecond

// campaign is one run of many trees.
type campaign struct {
	t        *testing.T
	programs programs
	home     string
	until    time.Time

	mu struct {
		sync.Mutex
		next         uint64
		trees        int
		requests     int
		inconclusive int
		crashes      int // of etcd
		failures     int
		excused      map[string]int
	}
}

func TestEtcdAndMusterAnswerAlike(t *testing.T) {
	if opts.etcd == "" {
		t.Skip("no etcd to compare with: make differential builds it")
	}
	c := &campaign{t: t, home: scratch(t)}
	c.programs = programs{etcd: []string{opts.etcd}, ours: musterCommand(t), members: opts.members}
	c.mu.excused = map[string]int{}
	if opts.tree >= 0 {
		c.one(t.Context(), generate(opts.seed, uint64(opts.tree)))
		return
	}
	if opts.members == 1 {
		c.scripts(t.Context())
	}
	c.until = time.Now().Add(opts.time)
	var wg sync.WaitGroup
	for range opts.workers {
		wg.Go(func() { c.work(t.Context()) })
	}
	wg.Wait()
	c.report()
}

// musterCommand starts the program under test, which is built if none was named.
func musterCommand(t *testing.T) []string {
	t.Helper()
	path := opts.ours
	if path == "" {
		var err error
		if path, err = program.Build(t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	return []string{path, "server", "--dns-listen="}
}

// scripts runs the programs that were written by hand, each on servers of its own.
func (c *campaign) scripts(ctx context.Context) {
	for _, p := range scripts() {
		servers, err := c.programs.start(ctx, c.home)
		if err != nil {
			c.t.Fatal(err)
		}
		servers.etcd.model = nil // it knows nothing of alarms and of time
		if diff := c.try(ctx, servers, p, c.mu.excused); diff != "" {
			c.t.Errorf("script %q:\n%s\n%v", p.Name, diff, p)
		}
		c.mu.requests += servers.requests
		if err := servers.stop(); err != nil {
			c.t.Error(err)
		}
	}
}

// work runs trees until the time is up.
func (c *campaign) work(ctx context.Context) {
	for c.goesOn() {
		servers, err := c.programs.start(ctx, c.home)
		if err != nil {
			c.t.Error(err)
			return
		}
		for n := 0; n < treesPerPair && c.goesOn(); n++ {
			if !c.next(ctx, servers) {
				break
			}
		}
		c.mu.Lock()
		c.mu.requests += servers.requests
		c.mu.Unlock()
		if err := servers.stop(); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *campaign) goesOn() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.until) && c.mu.failures < maxFailures
}

// next runs one tree; false means that the servers are of no more use.
func (c *campaign) next(ctx context.Context, servers *pair) bool {
	c.mu.Lock()
	n := c.mu.next
	c.mu.next++
	c.mu.Unlock()
	p := generate(opts.seed, n)
	excused := map[string]int{}
	etcd, ours, err := servers.run(ctx, p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.trees++
	if err != nil && servers.etcd.gone() && !servers.ours.gone() {
		c.mu.crashes++
		c.t.Logf("etcd itself ended at %s:\n%s\n%v", p.Name, servers.etcd.logTail(), p)
		return false
	}
	if p.mayExpire() && max(etcd.took, ours.took) > shortLease {
		c.mu.inconclusive++
		return err == nil
	}
	diff := ""
	if err != nil {
		diff = err.Error()
	} else if diff = compare(p, etcd, ours, excused); diff == "" {
		for name, n := range excused {
			c.mu.excused[name] += n
		}
		return true
	}
	c.mu.failures++
	c.mu.Unlock()
	text := c.explain(ctx, p, diff)
	c.mu.Lock()
	c.t.Error(text)
	return false
}

// try runs a program and says what differs, a server that gives up included.
func (c *campaign) try(ctx context.Context, servers *pair, p Program, excused map[string]int) string {
	etcd, ours, err := servers.run(ctx, p)
	if err != nil {
		return fmt.Sprintf("%v\netcd's log:\n%s\nmuster's log:\n%s", err, servers.etcd.logTail(), servers.ours.logTail())
	}
	return compare(p, etcd, ours, excused)
}

// one runs a program by itself and explains what differs.
func (c *campaign) one(ctx context.Context, p Program) {
	for _, warm := range []bool{false, true} {
		if diff := c.afresh(ctx, p, warm); diff != "" {
			c.t.Error(c.explain(ctx, p, diff))
			return
		}
	}
	c.t.Logf("%s: no difference\n%v", p.Name, p)
}

// afresh runs a program on new servers, warm: after something has happened there.
func (c *campaign) afresh(ctx context.Context, p Program, warm bool) string {
	servers, err := c.programs.start(ctx, c.home)
	if err != nil {
		return err.Error()
	}
	defer func() {
		if err := servers.stop(); err != nil {
			c.t.Error(err)
		}
	}()
	if warm {
		if diff := c.try(ctx, servers, warmUp(), map[string]int{}); diff != "" {
			return diff
		}
	}
	return c.try(ctx, servers, p, map[string]int{})
}

// explain is a failure as a reader needs it: shrunk, if it can be had on servers
// of its own, and with the command that shows it again.
func (c *campaign) explain(ctx context.Context, p Program, diff string) string {
	const attempts = 150
	text := fmt.Sprintf("%s:\n%s\n", p.Name, diff)
	for _, warm := range []bool{false, true} {
		if kind(c.afresh(ctx, p, warm)) != kind(diff) {
			continue
		}
		small := shrink(p, attempts, func(p Program) bool { return kind(c.afresh(ctx, p, warm)) == kind(diff) })
		return text + fmt.Sprintf("shrunk (on fresh servers, warmed up: %v) to\n%v\n%s\nagain: make differential SEED=%d ARGS=-tree=%s",
			warm, small, c.afresh(ctx, small, warm), opts.seed, treeOf(p))
	}
	return text + fmt.Sprintf("%v\nnot seen on fresh servers: it takes trees before it; again: make differential SEED=%d", p, opts.seed)
}

// kind tells failures apart: by the method that they show in.
func kind(diff string) string {
	before, _, _ := strings.Cut(diff, ",")
	return before
}

func treeOf(p Program) (n string) {
	fmt.Sscanf(p.Name, "tree %s", &n)
	return n
}

func (c *campaign) report() {
	c.t.Logf("%d trees, %d requests compared, %d trees inconclusive (a lease could have run out), etcd crashed %d times",
		c.mu.trees, c.mu.requests, c.mu.inconclusive, c.mu.crashes)
	for _, name := range slices.Sorted(maps.Keys(c.mu.excused)) {
		c.t.Logf("%8d × %s", c.mu.excused[name], name)
	}
	for _, d := range differences() {
		if c.mu.excused[d.name] == 0 && opts.members == 1 {
			c.t.Errorf("no answer differed by %q: take it off the list, or make a script that shows it", d.name)
		}
	}
}
