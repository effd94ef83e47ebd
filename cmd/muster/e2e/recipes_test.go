package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

var (
	recipesFor  = flag.Duration("recipes", 0, "how long to maltreat the users of locks and elections; 0: each fault once")
	recipesSeed = flag.Uint64("recipes-seed", 0, "seed of the faults; 0: a fresh one")
)

// recipeTTL is the lease of the recipes' users.
const recipeTTL = 2 * time.Second

// recipeClient is a worker process with its wire to the members.
type recipeClient struct {
	spec recipeSpec
	wire *wire
	*process
}

// The promises are those of the recipes' docs, and of correctness.md §3 and §4:
// tokens rise; who writes under a guard holds the front of the line; a handle is
// over before its lease can end, and to a client that was stopped before it
// writes; every waiter ends; nothing is left in a line, nor after the sessions' end.
func TestLocksAndElectionsUnderFaults(t *testing.T) {
	seed := *recipesSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-recipes-seed=%d", seed)
	c := startCluster(t, 3)
	admin := connect(t, c.Endpoints()...)
	var clients []*recipeClient
	for i, election := range []bool{false, false, true, true} {
		w := newWire(t, c.Members)
		spec := recipeSpec{
			Name: fmt.Sprint("c", i), Line: map[bool]string{false: "line/lock", true: "line/election"}[election],
			Election: election, Endpoints: w.Endpoints, TTL: recipeTTL,
		}
		clients = append(clients, startRecipeClient(t, spec, w))
	}
	for _, rc := range clients {
		eventually(t, rc.spec.Name+" is at work", func() bool { return strings.Contains(rc.Log(), `"event":"wrote"`) })
	}
	n := &nemesis{t: t, c: c, admin: admin, clients: clients, rng: rand.New(rand.NewPCG(seed, 1)), done: map[string]int{}, revoked: map[int64]bool{}}
	n.mu.stopped = map[*recipeClient]bool{}
	n.inflict(time.Now().Add(*recipesFor))
	c.CatchUp(t)

	// Faults have stopped: every waiter ends, and while the sessions live on
	// nothing is left in the lines.
	for _, rc := range clients {
		rc.signal(t, syscall.SIGUSR1)
	}
	for _, rc := range clients {
		requireSettled(t, rc)
	}
	count := func(prefix string) int64 {
		return get(t, admin, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly()).Count
	}
	eventually(t, "the lines are empty while the sessions live on", func() bool {
		return count("line/lock/")+count("line/election/") == 0
	})
	for _, rc := range clients {
		rc.signal(t, syscall.SIGTERM)
	}
	for _, rc := range clients {
		if state := rc.wait(t, settleTime); !state.Success() {
			t.Errorf("%s ended with %v: %s", rc.spec.Name, state, tail(rc.Log()))
		}
	}
	eventually(t, "nothing is left after the sessions' end, no key and no lease", func() bool {
		leases, err := admin.Leases(within(t, time.Second))
		return err == nil && len(leases.Leases) == 0 && count("line/") == 0
	})

	told := readReports(t, clients)
	told.check(t, n)
	writes := checkGuardedWrites(t, c, admin)
	t.Logf("%d turns, %d guarded writes, %d refused, %d waits failed, %d of %d stopped clients found their handle over; faults:\n%v",
		len(told.turns), writes, told.refused, told.failed, told.overAfterStop, told.stoppedHolding, n)
	if len(told.turns) < 20 || writes < 50 || len(n.mu.standstills) == 0 {
		t.Error("that is too little to have proved anything")
	}
}

func startRecipeClient(t *testing.T, spec recipeSpec, w *wire) *recipeClient {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	out := program.NewOutput()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s said last:\n%s", spec.Name, tail(out.String()))
		}
	})
	return &recipeClient{spec, w, start(t, out, "", []string{recipeWorkerEnv + "=" + string(b)}, self)}
}

// requireSettled waits until all of a client's goroutines have had one more turn.
func requireSettled(t *testing.T, rc *recipeClient) {
	t.Helper()
	deadline := time.After(3 * settleTime)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		text := rc.Log()
		if strings.Count(text, `"event":"settled"`) == workersPerProcess {
			return
		}
		if i := strings.Index(text, `"event":"stuck"`); i >= 0 {
			t.Fatalf("%s can't get a turn though faults have stopped: %s", rc.spec.Name, firstLine(text[i:]))
		}
		select {
		case <-tick.C:
		case <-rc.Done:
			t.Fatalf("%s has ended: %v", rc.spec.Name, rc.Cmd.ProcessState)
		case <-deadline:
			t.Fatalf("%s still waits though faults have stopped", rc.spec.Name)
		}
	}
}

// recipeTurn is one holder's time at the front, as it was told.
type recipeTurn struct {
	who, line string
	token     int64
	lease     int64
	from      time.Duration   // when it knew
	alive     []time.Duration // when it looked and was told that it still held
	over      time.Duration   // when it looked and was told that it did not
}

type recipeReports struct {
	turns           []*recipeTurn
	refused, failed int
	// Of the clients that were stopped while they held: those that looked
	// afterwards, and those that were then told that it was over.
	stoppedHolding, overAfterStop int
	zombies                       []string // guard refused a holder that took itself for one
}

func readReports(t *testing.T, clients []*recipeClient) *recipeReports {
	t.Helper()
	r := &recipeReports{}
	for _, rc := range clients {
		open := map[string]*recipeTurn{}
		for _, line := range strings.Split(rc.Log(), "\n") {
			var e recipeEvent
			if !strings.HasPrefix(line, `{"event"`) {
				continue // the SDK's own log
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s reports %q: %v", rc.spec.Name, line, err)
			}
			turn := open[e.Who]
			switch e.Event {
			case "held":
				turn = &recipeTurn{who: e.Who, line: e.Line, token: e.Token, lease: e.Lease, from: e.At}
				open[e.Who], r.turns = turn, append(r.turns, turn)
			case "alive":
				turn.alive = append(turn.alive, e.At)
			case "over":
				turn.over = e.At
			case "refused":
				r.refused++
				if e.Alive {
					r.zombies = append(r.zombies, fmt.Sprintf("%x %s", turn.lease, line))
				}
			case "failed":
				r.failed++
			case "went back":
				t.Errorf("an observer of %s was told of an earlier leader again: %s", e.Line, line)
			}
		}
	}
	return r
}

// check holds what the clients believed against each other.
func (r *recipeReports) check(t *testing.T, n *nemesis) {
	t.Helper()
	slices.SortFunc(r.turns, func(a, b *recipeTurn) int {
		if c := strings.Compare(a.line, b.line); c != 0 {
			return c
		}
		return int(a.token - b.token)
	})
	for i := 1; i < len(r.turns); i++ {
		a, b := r.turns[i-1], r.turns[i]
		if a.line != b.line {
			continue
		}
		if a.token == b.token {
			t.Errorf("%s: token %d was given to %s and to %s", a.line, a.token, a.who, b.who)
		}
		if b.from < a.from {
			t.Errorf("%s: %s knew of its token %d before %s of its token %d", a.line, b.who, b.token, a.who, a.token)
		}
		if n.revoked[a.lease] {
			continue // it learns of that with its next renewal; the guard protects until then
		}
		for _, at := range a.alive {
			if at > b.from {
				t.Errorf("%s: %s (token %d) was told that it held %v after %s had got token %d",
					a.line, a.who, a.token, at-b.from, b.who, b.token)
			}
		}
	}
	for _, turn := range r.turns {
		client, _, _ := strings.Cut(turn.who, ".")
		for _, at := range turn.alive {
			if stoppedWhile(n.mu.standstills, client, turn.from, at) {
				t.Errorf("%s was stopped for longer than its TTL and then told that it still held token %d", turn.who, turn.token)
			}
		}
		for _, s := range n.mu.standstills {
			if s.name == client && turn.from < s.from && turn.over >= s.to {
				r.overAfterStop++
			}
			if s.name == client && turn.from < s.from && (turn.over >= s.to || len(turn.alive) > 0 && turn.alive[len(turn.alive)-1] > s.to) {
				r.stoppedHolding++
			}
		}
	}
	for _, z := range r.zombies {
		lease, report, _ := strings.Cut(z, " ")
		if id, err := strconv.ParseInt(lease, 16, 64); err != nil || !n.revoked[id] {
			t.Errorf("a guarded write was refused to a holder whose handle was not over: %s", report)
		}
	}
}

// checkGuardedWrites goes through everything that ever happened in the store:
// each guarded write must be by the front of its line, in order of tokens.
func checkGuardedWrites(t *testing.T, c *Cluster, cl *clientv3.Client) (writes int) {
	t.Helper()
	end := put(t, cl, "the end", "").Header.Revision
	lines := map[string]map[string]int64{} // create revisions of the keys that stand, by line
	last := map[string]int64{}             // token of the last guarded write, by line
	for r := range cl.Watch(watching(t), "\x00", clientv3.WithFromKey(), clientv3.WithRev(1)) {
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range r.Events {
			key := string(e.Kv.Key)
			if e.Kv.ModRevision == end {
				return writes
			}
			if line, ok := strings.CutPrefix(key, "guarded/"); ok {
				writes++
				token, err := strconv.ParseInt(firstWord(string(e.Kv.Value)), 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				front := int64(0)
				for _, rev := range lines[line] {
					if front == 0 || rev < front {
						front = rev
					}
				}
				if token != front || token < last[line] {
					t.Errorf("%s: revision %d is a write with token %d; the front was %d, the last write's token %d",
						line, e.Kv.ModRevision, token, front, last[line])
				}
				last[line] = token
				continue
			}
			i := strings.LastIndexByte(key, '/')
			if i < 0 || !strings.HasPrefix(key, "line/") || strings.Contains(key, "\x00") {
				continue
			}
			line := key[:i]
			if lines[line] == nil {
				lines[line] = map[string]int64{}
			}
			if e.Type == clientv3.EventTypeDelete {
				delete(lines[line], key)
			} else {
				lines[line][key] = e.Kv.CreateRevision
			}
		}
	}
	t.Fatalf("the watch of everything on %v ended", c.Endpoints())
	return writes
}

func firstWord(s string) string {
	word, _, _ := strings.Cut(s, " ")
	return word
}
