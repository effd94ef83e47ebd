package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// storm is a cluster in namespaces, a load, and faults of every kind.
type storm struct {
	*load
	rng     *rand.Rand
	wire    *wire
	small   *member // its disk may get full
	disk    volume
	filling string
	killed  map[killed]int
	effects map[string]*effect // by kind of fault
	strain  *strain
}

// effect is what a kind of fault did, each time.
type effect struct {
	outages []time.Duration // without an acknowledged write
	back    []time.Duration // from its end until all members were ready, where that was waited for
	busy    int             // times that don't count, for the machine was too busy
}

// recoveryTime is within what all members are ready again once a fault is
// over, however long it has lasted, on a machine that lets them run.
const recoveryTime = 15 * time.Second

// say prints what happens as it happens.
func (s *storm) say(format string, args ...any) {
	fmt.Printf("%7.1fs  %s\n", s.now().Seconds(), fmt.Sprintf(format, args...))
}

func TestStormOfFaultsInNamespaces(t *testing.T) {
	t.Parallel()
	seed := seed()
	if !sandbox(t, fmt.Sprintf("-chaos=%v", *stormTime), fmt.Sprintf("-seed=%d", seed), "-faults="+*onlyFlag, fmt.Sprintf("-keep=%v", *keepFlag)) {
		return
	}
	kinds, err := chosen(*onlyFlag)
	if err != nil {
		t.Fatal(err)
	}
	length := *stormTime
	if length == 0 {
		length = 12 * time.Second
	}
	fmt.Printf("chaos for %v, seed %d\n", length, seed)
	s := startStorm(t, seed)
	watch := &soak{load: s.load}
	before := make([]usage, len(s.members))
	for i, m := range s.members {
		u, err := m.usage(s.cluster.ctx)
		s.must(err)
		before[i] = u
	}
	s.startClients(rates{pace: 20 * time.Millisecond, ballast: 64 << 10, ballastPace: 25 * time.Millisecond})
	s.wg.Go(func() { watch.watch(s.load.ctx) })
	s.strain = &strain{begun: s.began}
	s.wg.Go(func() { s.strain.watch(s.load.ctx) })

	// First nothing is ended, to see whether the members grow.
	began := s.now()
	half := began + length*2/5
	gentle := slices.DeleteFunc(slices.Clone(kinds), func(f fault) bool { return f.lethal })
	if len(gentle) == len(kinds) {
		half = began + length
	}
	s.blow(half, gentle)
	flatUntil := s.now()
	if len(gentle) < len(kinds) {
		s.say("from now on processes are ended too")
		s.blow(began+length, kinds)
	}
	s.say("no more faults")

	v := s.verify()
	flat := watch.flat(v, began, flatUntil)
	s.closeClients()
	rest := watch.atRest(v, before)
	s.checkRecoveries(v)
	s.judge(v)
	fmt.Printf("\nchaos, seed %d: %s\n%s\nmembers: %s\n         %s\nwire:    %v\n", seed, result(t), s.report(v), flat, rest, s.wire)
	s.reportFaults()
}

// chosen are the kinds of fault whose names match.
func chosen(only string) ([]fault, error) {
	match, err := regexp.Compile(only)
	if err != nil {
		return nil, fmt.Errorf("-faults: %w", err)
	}
	kinds := slices.DeleteFunc(faults(), func(f fault) bool { return !match.MatchString(f.name) })
	if len(kinds) == 0 {
		return nil, fmt.Errorf("-faults: no kind of fault matches %q", only)
	}
	return kinds, nil
}

func result(t *testing.T) string {
	if t.Failed() {
		return "FAILED"
	}
	return "all well"
}

// startStorm founds a cluster in namespaces. Each member has clocks of its own.
func startStorm(t *testing.T, seed uint64) *storm {
	t.Helper()
	s := &storm{
		rng: rand.New(rand.NewPCG(seed, 1)), disk: newVolume(t), filling: strings.Repeat("x", 512<<10),
		killed: map[killed]int{}, effects: map[string]*effect{},
	}
	const members = 3
	w, err := lay(seed, 1+members)
	t.Cleanup(w.close)
	if err != nil {
		t.Fatal(err)
	}
	s.wire = w
	var hosts []host
	for _, p := range w.ports[1:] {
		hosts = append(hosts, host{ip: p.ip, wrap: []string{"nsenter", "--net=/run/netns/" + p.ns}, offset: s.offset()})
	}
	small := s.rng.IntN(members)
	hosts[small].dir = s.disk.dir + "/data"
	c := startCluster(t, hosts)
	s.load = newLoad(c, seed)
	s.small = c.members[small]
	for _, m := range c.members {
		s.must(m.hasOwnClock())
	}
	return s
}

// hasOwnClock looks whether the kernel has put the process into a time
// namespace of its own: before 6.3 it did so for children only.
func (m *member) hasOwnClock() error {
	own, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		return err
	}
	its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/time", m.process().Cmd.Process.Pid))
	if err == nil && its == own {
		err = fmt.Errorf("%s shares our clocks: a kernel with time namespaces is needed, 6.3 or later", m.name)
	}
	return err
}

// blow lets faults happen until a time. Every kind has its turn before any
// has a second one; some come two at a time.
func (s *storm) blow(until time.Duration, kinds []fault) {
	var deck []fault
	for len(kinds) > 0 && s.now() < until {
		if len(deck) == 0 {
			deck = slices.Clone(kinds)
			s.rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		f := deck[0]
		deck = deck[1:]
		var besides *fault
		if f.lasting && s.rng.IntN(3) == 0 {
			if i := slices.IndexFunc(deck, func(f fault) bool { return !f.alone && !f.lasting }); i >= 0 {
				besides = &deck[i]
				s.strike(f, besides)
				deck = slices.Delete(deck, i, i+1)
				continue
			}
		}
		s.strike(f, nil)
	}
}

// strike is one fault, maybe with another in the midst of it, and the recovery.
func (s *storm) strike(f fault, besides *fault) {
	from := s.now()
	what, end := f.begin(s)
	s.say("%s: %s", f.name, what)
	switch {
	case f.hold > 0:
		s.pause(f.hold)
	case f.lasting:
		s.pause(300*time.Millisecond + s.upTo(5*time.Second))
	}
	name := f.name
	if besides != nil {
		name = "two faults at once"
		what, endOther := besides.begin(s)
		s.say("  and %s: %s", besides.name, what)
		s.pause(s.upTo(3 * time.Second))
		endOther()
	}
	end()
	healed := s.now()
	if s.effects[name] == nil {
		s.effects[name] = &effect{}
	}
	e := s.effects[name]
	s.awaitWrites()
	outage := s.outage(from)
	text, back := "", time.Duration(0)
	// Mostly the next one waits until all are well.
	if s.rng.IntN(4) > 0 {
		s.awaitReady(s.members...)
		back = s.now() - healed
		text = fmt.Sprintf(", then all ready after %v", ms(back))
	}
	if late := s.strain.since(from); late > strained {
		e.busy++
		text += fmt.Sprintf(" (doesn't count: the machine is too busy, timers are %v late)", ms(late))
	} else {
		e.outages = append(e.outages, outage)
		if back > 0 {
			e.back = append(e.back, back)
		}
	}
	s.say("  over after %v; longest time without a write %v%s", ms(healed-from), ms(outage), text)
	s.pause(s.upTo(time.Second))
}

// checkRecoveries holds how long members needed against what they may.
func (s *storm) checkRecoveries(v *verdict) {
	for _, name := range sortedKeys(s.effects) {
		for _, d := range s.effects[name].back {
			v.checked("recoveries in time", d <= recoveryTime, "after %q all members were ready within %v, want %v", name, ms(d), recoveryTime)
		}
	}
}

func (s *storm) reportFaults() {
	fmt.Println("faults: how often, longest time without an acknowledged write (median, most), then until all members were ready (median, most);\nin brackets how often the machine was too busy for times to count")
	times := func(d []time.Duration) string {
		if len(d) == 0 {
			return fmt.Sprintf("%8s %8s", "-", "-")
		}
		return fmt.Sprintf("%8v %8v", ms(median(d)), ms(slices.Max(d)))
	}
	for _, name := range sortedKeys(s.effects) {
		e := s.effects[name]
		fmt.Printf("  %4d (%d)  %-38s %s %s\n", len(e.outages)+e.busy, e.busy, name, times(e.outages), times(e.back))
	}
}
