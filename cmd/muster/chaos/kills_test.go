package chaos

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// whom a kill hits.
type victims uint8

const (
	anyOne victims = iota
	theLeader
	anyTwo
	all
)

func (v victims) String() string {
	return [...]string{"one member", "the leader", "two members", "all members"}[v]
}

// draw favours what leaves a quorum, or nothing else would be seen.
func draw(rng *rand.Rand) victims {
	return oneOf(rng, share[victims]{35, anyOne}, share[victims]{30, theLeader}, share[victims]{15, anyTwo}, share[victims]{20, all})
}

// hit kills them, all within the same instant, and counts what it hit.
func (l *load) hit(rng *rand.Rand, v victims, count map[killed]int) (hit int) {
	targets := slices.Clone(l.members)
	rng.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
	if v == theLeader {
		if leader := l.lookForLeader(); leader != nil { // else any will do
			targets[0] = leader
		}
	}
	n := min(len(targets), map[victims]int{anyOne: 1, theLeader: 1, anyTwo: 2, all: len(targets)}[v])
	for _, m := range targets[:n] {
		k := m.kill()
		if count[k]++; k != nobody {
			hit++
		}
	}
	return hit
}

// clientsAtWork are what members are killed under.
var clientsAtWork = rates{pace: 10 * time.Millisecond, ballast: 32 << 10, ballastPace: 50 * time.Millisecond}

func TestKillsAtAnyMomentLoseNothingAndNeedNoHand(t *testing.T) {
	kills := *killCount
	if kills == 0 {
		kills = 6
	}
	killAtAnyMoment(t, 3, kills)
}

func TestASingleMemberKilledAtAnyMomentComesBackByItself(t *testing.T) { killAtAnyMoment(t, 1, 6) }

func killAtAnyMoment(t *testing.T, members, kills int) {
	t.Parallel()
	seed := seed()
	t.Logf("%d kills, seed %d", kills, seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	c := startCluster(t, loopback(members))
	l := newLoad(c, seed)
	l.startClients(clientsAtWork)
	began := time.Now()
	outages := map[string][]time.Duration{}
	done, burst, from, count := 0, 0, l.now(), map[killed]int{}
	for done < kills {
		if burst == 0 {
			from = l.now()
		}
		v := draw(rng)
		if l.hit(rng, v, count) > 0 {
			done++
			burst++
		}
		// Half of them come when writes flow again, the others at any moment of
		// what the one before has started: a process that begins, reads its log,
		// stands for election, catches up.
		if burst == 0 || rng.IntN(2) == 0 && done < kills {
			l.pause(time.Duration(rng.IntN([]int{300, 1500}[rng.IntN(2)])) * time.Millisecond)
			continue
		}
		l.awaitWrites()
		what := "kills in a row"
		if burst == 1 {
			what = "a kill of " + v.String()
		}
		outages[what] = append(outages[what], l.outage(from))
		burst = 0
		if rng.IntN(4) == 0 {
			l.awaitReady(l.members...)
		}
		l.pause(time.Duration(rng.IntN(300)) * time.Millisecond)
	}
	took := time.Since(began)
	v := l.verify()
	l.judge(v)
	t.Logf("%d kills in %v, of %d serving processes and %d that were only starting\n%s", done, took.Round(time.Second), count[serving], count[starting], l.report(v))
	for _, what := range sortedKeys(outages) {
		d := outages[what]
		t.Logf("no write was acknowledged after %s (%d times): median %v, longest %v", what, len(d), ms(median(d)), ms(slices.Max(d)))
	}
}
