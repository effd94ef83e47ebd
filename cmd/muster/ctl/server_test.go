package ctl

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/sdk"
	"github.com/musterhq/muster/sdk/mustertest"
)

// patience bounds how long a test waits for what must come.
const patience = 20 * time.Second

// running is a command that hasn't ended yet.
type running struct {
	t         *testing.T
	interrupt context.CancelFunc
	out, err  *screen
	code      chan int
}

func start(t *testing.T, endpoint string, in io.Reader, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{t: t, interrupt: cancel, out: newScreen(), err: newScreen(), code: make(chan int, 1)}
	go func() { r.code <- execute(ctx, append([]string{"--endpoints", endpoint}, args...), in, r.out, r.err) }()
	t.Cleanup(cancel)
	return r
}

// ended waits for the exit code.
func (r *running) ended() int {
	r.t.Helper()
	select {
	case code := <-r.code:
		return code
	case <-time.After(patience):
		r.t.Fatalf("command hasn't ended; it printed %q and %q", r.out, r.err)
		return 0
	}
}

// shows waits until the output contains text.
func (r *running) shows(text string) {
	r.t.Helper()
	if !r.out.wait(text) {
		r.t.Fatalf("output is %q, stderr %q; want %q in it", r.out, r.err, text)
	}
}

// screen is an output that can be waited for.
type screen struct {
	mu      sync.Mutex
	text    strings.Builder
	changed chan struct{}
}

func newScreen() *screen { return &screen{changed: make(chan struct{})} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) wait(text string) bool {
	timeout := time.After(patience)
	for {
		s.mu.Lock()
		found, changed := strings.Contains(s.text.String(), text), s.changed
		s.mu.Unlock()
		if found {
			return true
		}
		select {
		case <-changed:
		case <-timeout:
			return false
		}
	}
}

func TestWithAServer(t *testing.T) {
	cluster := mustertest.Start(t, 1)
	endpoint, client := cluster.Endpoints()[0], cluster.Client()
	empty := strings.NewReader("")
	put := func(t *testing.T, key, value string) {
		t.Helper()
		if _, err := client.Put(t.Context(), key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	nothingLeft := func(t *testing.T, prefix string) {
		t.Helper()
		r, err := client.Get(t.Context(), prefix, sdk.WithPrefix())
		if err != nil || r.Count != 0 {
			t.Errorf("keys under %q: %v, %v; want none", prefix, r.KVs, err)
		}
		leases, err := client.Leases(t.Context())
		if err != nil || len(leases) != 0 {
			t.Errorf("leases: %x, %v; want none", leases, err)
		}
	}

	t.Run("an interrupted lock is free and its lease revoked", func(t *testing.T) {
		holder := start(t, endpoint, empty, "lock", "l1")
		holder.shows("l1/")
		waiter := start(t, endpoint, empty, "lock", "l1")
		inLine(t, client, "l1/", 2)
		waiter.interrupt()
		if code := waiter.ended(); code != exitError || !strings.Contains(waiter.err.String(), "Error: context canceled\n") {
			t.Errorf("the waiter exits %d with %q", code, waiter.err)
		}
		holder.interrupt()
		if code := holder.ended(); code != 0 {
			t.Errorf("the holder exits %d with %q; want 0", code, holder.err)
		}
		nothingLeft(t, "l1/")
	})

	t.Run("lock runs a command with its key and rising revision and hands on its exit code", func(t *testing.T) {
		last := 0
		for range 2 {
			r := start(t, endpoint, strings.NewReader("input"), "lock", "l2", "--", "sh", "-c",
				"echo $ETCD_LOCK_KEY; echo rev=$ETCD_LOCK_REV; echo token=$MUSTER_LOCK_TOKEN; cat; exit 3")
			if code := r.ended(); code != 3 {
				t.Errorf("exit code %d with %q; want 3", code, r.err)
			}
			out := r.out.String()
			_, rest, _ := strings.Cut(out, "rev=")
			rev, err := strconv.Atoi(strings.SplitN(rest, "\n", 2)[0])
			if err != nil || rev <= last || !strings.HasPrefix(out, "l2/") || !strings.HasSuffix(out, "input") {
				t.Errorf("the command prints %q after revision %d", out, last)
			}
			last = rev
		}
		nothingLeft(t, "l2/")
	})

	t.Run("an interrupt is passed on to lock's command", func(t *testing.T) {
		r := start(t, endpoint, empty, "lock", "l3", "--", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done")
		r.shows("ready")
		r.interrupt()
		if code := r.ended(); code != 9 {
			t.Errorf("exit code %d with %q; want 9", code, r.err)
		}
		nothingLeft(t, "l3/")
	})

	t.Run("a leader resigns when interrupted, and observers see who leads", func(t *testing.T) {
		first := start(t, endpoint, empty, "elect", "e1", "first")
		first.shows("first")
		observer := start(t, endpoint, empty, "elect", "e1", "-l")
		observer.shows("first")
		second := start(t, endpoint, empty, "elect", "e1", "second")
		inLine(t, client, "e1/", 2)
		first.interrupt()
		if code := first.ended(); code != 0 {
			t.Errorf("the first leader exits %d with %q", code, first.err)
		}
		second.shows("second")
		observer.shows("second")
		observer.interrupt()
		second.interrupt()
		if a, b := observer.ended(), second.ended(); a != 0 || b != 0 {
			t.Errorf("exit codes %d and %d; want 0", a, b)
		}
		nothingLeft(t, "e1/")
	})

	t.Run("keep-alive leaves the lease when interrupted and ends when it is revoked", func(t *testing.T) {
		l, err := client.Grant(t.Context(), 10*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("%016x", l.ID)
		r := start(t, endpoint, empty, "lease", "keep-alive", id)
		r.shows("lease " + id + " keepalived with TTL(600)\n")
		r.interrupt()
		r.ended()
		if _, err := client.TimeToLive(t.Context(), l.ID, false); err != nil {
			t.Errorf("after the interrupt: %v", err)
		}
		if err := client.Revoke(t.Context(), l.ID); err != nil {
			t.Fatal(err)
		}
		r = start(t, endpoint, empty, "lease", "keep-alive", id)
		if code, want := r.ended(), "lease "+id+" expired or revoked.\n"; code != 0 || r.out.String() != want {
			t.Errorf("exit code %d, output %q; want 0 and %q", code, r.out, want)
		}
	})

	t.Run("interactive watches share a progress request", func(t *testing.T) {
		in, lines := io.Pipe()
		defer lines.Close()
		r := start(t, endpoint, in, "watch", "-i")
		fmt.Fprintln(lines, "watch i/ --prefix --prev-kv")
		fmt.Fprintln(lines, `watch "j" -- echo seen`)
		// The second answer comes after the second watch stands.
		for range 2 {
			fmt.Fprintln(lines, "progress")
		}
		r.shows("progress notify: ")
		put(t, "i/1", "one")
		r.shows("PUT\ni/1\none\n")
		put(t, "j", "two")
		r.shows("PUT\nj\ntwo\nseen\n")
		lines.Close()
		if code := r.ended(); code != exitInput {
			t.Errorf("exit code %d at the end of input; want %d", code, exitInput)
		}
	})

	t.Run("services show the effective status of instances", func(t *testing.T) { testServices(t, client, endpoint) })

	t.Run("a signal ends a watch with the shell's code for it", func(t *testing.T) {
		put(t, "w0", "1")
		r := start(t, endpoint, empty, "watch", "w0", "--rev", "1")
		r.shows("PUT\nw0\n1\n")
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := r.ended(); code != 143 || r.err.String() != "" {
			t.Errorf("exit code %d with %q; want 143 and nothing said", code, r.err)
		}
	})

	t.Run("a watch goes on after the server was gone, without gap or repetition", func(t *testing.T) {
		r := start(t, endpoint, empty, "watch", "w1", "--rev", "1")
		put(t, "w1", "one")
		r.shows("one")
		cluster.Kill(0)
		if !r.err.wait("Warning: the watch has no connection") {
			t.Errorf("stderr is %q; want a warning", r.err)
		}
		cluster.Restart(0)
		// A write may go out on the connection to the killed process; a read is repeated.
		if _, err := client.Get(t.Context(), "w1"); err != nil {
			t.Fatal(err)
		}
		put(t, "w1", "two")
		r.shows("two")
		if got, want := r.out.String(), "PUT\nw1\none\nPUT\nw1\ntwo\n"; got != want {
			t.Errorf("output is %q, want %q", got, want)
		}
		r.interrupt()
		r.ended()
	})

	t.Run("lock's command is killed before the lease can end", func(t *testing.T) {
		pidFile := filepath.Join(t.TempDir(), "pid")
		r := start(t, endpoint, empty, "lock", "l4", "--ttl", "2", "--", "sh", "-c", "trap '' TERM; sleep 600 & echo $! >"+pidFile+"; echo ready; wait; wait")
		r.shows("ready")
		ttl := grantedTTL(t, client)
		cluster.Pause(0)
		paused := time.Now()
		defer cluster.Resume(0)
		if code := r.ended(); code != exitError || !strings.Contains(r.err.String(), "session expired") {
			t.Errorf("exit code %d with %q", code, r.err)
		}
		if took := time.Since(paused); took > ttl {
			t.Errorf("the command lived for %v without the server; the lease lasts %v", took, ttl)
		}
		text, err := os.ReadFile(pidFile)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if alive(pid) {
			t.Errorf("process %d, started by the command, still runs", pid)
		}
	})
}

// inLine waits until n keys stand under prefix.
func inLine(t *testing.T, client *sdk.Client, prefix string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	keys := make(map[string]bool)
	for b, err := range client.Watch(ctx, prefix, sdk.WithPrefix(), sdk.WithRev(1)) {
		if err != nil {
			t.Fatalf("waiting for %d keys under %s: %v", n, prefix, err)
		}
		for _, e := range b.Events {
			keys[e.KV.Key] = e.Type == sdk.Put
		}
		standing := 0
		for _, there := range keys {
			if there {
				standing++
			}
		}
		if standing == n {
			return
		}
	}
}

// grantedTTL is the TTL of the only lease.
func grantedTTL(t *testing.T, client *sdk.Client) time.Duration {
	t.Helper()
	leases, err := client.Leases(t.Context())
	if err != nil || len(leases) != 1 {
		t.Fatalf("leases: %x, %v; want one", leases, err)
	}
	l, err := client.TimeToLive(t.Context(), leases[0], false)
	if err != nil {
		t.Fatal(err)
	}
	return l.Granted
}

// alive tells whether a process runs; one that has ended and waits to be reaped doesn't.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func testServices(t *testing.T, client *sdk.Client, endpoint string) {
	registry := discovery.NewRegistry(discovery.RegistryConfig{Store: client})
	instance := func(svc, id string, state discovery.State) discovery.Instance {
		return discovery.Instance{
			ID: id, Svc: svc, Node: "n1", State: state, Owner: "test",
			Endpoints: []discovery.Endpoint{{Name: "http", Addr: "10.0.0.7", Port: 8080}, {Name: "admin", Addr: "fd00::7", Port: 9090}},
		}
	}
	critical := discovery.Health{Status: discovery.StatusCritical, Reason: "connection refused"}
	err := registry.Register(t.Context(), 0,
		discovery.Registration{Instance: instance("web", "a", discovery.StateUp)},
		discovery.Registration{Instance: instance("web", "b", discovery.StateUp), Health: &critical},
		discovery.Registration{Instance: instance("web", "c", discovery.StateDraining)})
	if err == nil {
		other := instance("api", "x", discovery.StateUp)
		other.NS = "shop"
		err = registry.Register(t.Context(), 0, discovery.Registration{Instance: other})
	}
	if err == nil {
		err = registry.PutService(t.Context(), discovery.Service{NS: "shop", Name: "empty"})
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		want string
	}{
		{"list", "default, web, 1, 3\nshop, api, 1, 1\nshop, empty, 0, 0\n"},
		{"list --namespace shop", "shop, api, 1, 1\nshop, empty, 0, 0\n"},
		{"show empty --namespace shop", ""},
		{
			"show web", "a, PASSING, n1, http=10.0.0.7:8080/tcp admin=[fd00::7]:9090/tcp, \n" +
				"b, CRITICAL, n1, http=10.0.0.7:8080/tcp admin=[fd00::7]:9090/tcp, connection refused\n" +
				"c, DRAINING, n1, http=10.0.0.7:8080/tcp admin=[fd00::7]:9090/tcp, \n",
		},
		{"list --namespace shop -w table", `
┌───────────┬───────┬─────────┬───────────┐
│ NAMESPACE │ NAME  │ SERVING │ INSTANCES │
├───────────┼───────┼─────────┼───────────┤
│      shop │   api │       1 │         1 │
│      shop │ empty │       0 │         0 │
└───────────┴───────┴─────────┴───────────┘
`[1:]},
	} {
		r := start(t, endpoint, strings.NewReader(""), append([]string{"service"}, strings.Fields(c.args)...)...)
		if code := r.ended(); code != 0 || r.out.String() != c.want {
			t.Errorf("service %s: exit code %d with %q, output\n%s\nwant\n%s", c.args, code, r.err, r.out, c.want)
		}
	}
	r := start(t, endpoint, strings.NewReader(""), "service", "show", "web", "-w", "json")
	r.ended()
	for _, want := range []string{`"status":"CRITICAL","serving":false`, `"reason":"connection refused"`, `"health":{`, `"record":{`} {
		if !strings.Contains(r.out.String(), want) {
			t.Errorf("json is %s; want %s in it", r.out, want)
		}
	}
}
