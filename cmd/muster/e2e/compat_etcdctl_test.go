package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

// etcdctl is Debian's, 3.4: what people have installed.
type etcdctl struct{ path, endpoints string }

func (e etcdctl) env() []string { return []string{"ETCDCTL_API=3", "ETCDCTL_ENDPOINTS=" + e.endpoints} }

// run returns what is printed on stdout; the command must succeed.
func (e etcdctl) run(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	r := runProgram(t, e.env(), stdin, e.path, args...)
	if r.code != 0 {
		t.Fatalf("etcdctl %v exits with %d:\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

func (e etcdctl) want(t *testing.T, out string, args ...string) {
	t.Helper()
	if got := e.run(t, "", args...); got != out {
		t.Errorf("etcdctl %v prints %q, want %q", args, got, out)
	}
}

func (e etcdctl) start(t *testing.T, args ...string) *process {
	t.Helper()
	return start(t, program.NewOutput(), t.TempDir(), e.env(), e.path, args...)
}

func (e etcdctl) fails(t *testing.T, code int, message string, args ...string) {
	t.Helper()
	if r := runProgram(t, e.env(), "", e.path, args...); r.code != code || !strings.Contains(r.stderr, message) {
		t.Errorf("etcdctl %v exits with %d, %q; want %d, %q", args, r.code, r.stderr, code, message)
	}
}

func TestCompatEtcdctlWithOneMember(t *testing.T)    { runEtcdctl(t, 1) }
func TestCompatEtcdctlWithThreeMembers(t *testing.T) { runEtcdctl(t, 3) }

func runEtcdctl(t *testing.T, members int) {
	path := tool(t, "etcdctl", "etcd-client")
	c := startCluster(t, members)
	e := etcdctl{path, strings.Join(c.Endpoints(), ",")}
	t.Run("kv", e.testKV)
	t.Run("txn", e.testTxn)
	t.Run("watch", e.testWatch)
	t.Run("lease", e.testLease)
	t.Run("lock", e.testLock)
	t.Run("elect", e.testElect)
	t.Run("compaction", e.testCompaction)
	t.Run("members and endpoints", func(t *testing.T) { e.testEndpoints(t, c) })
}

func (e etcdctl) testKV(t *testing.T) {
	e.want(t, "OK\n", "put", "kv/a", "1")
	e.want(t, "OK\nkv/a\n1\n", "put", "kv/a", "2", "--prev-kv", "--write-out=simple")
	e.want(t, "OK\n", "put", "kv/b", "--", "-3")
	if got := e.run(t, "from stdin", "put", "kv/c"); got != "OK\n" {
		t.Errorf("put from stdin: %q", got)
	}
	e.want(t, "kv/a\n2\n", "get", "kv/a")
	e.want(t, "2\n", "get", "kv/a", "--print-value-only", "--consistency=s")
	e.want(t, "kv/a\n2\nkv/b\n-3\nkv/c\nfrom stdin\n", "get", "--prefix", "kv/")
	e.want(t, "kv/c\n\nkv/b\n\nkv/a\n\n", "get", "--prefix", "kv/", "--keys-only", "--order=DESCEND", "--sort-by=KEY")
	e.want(t, "kv/a\n2\n", "get", "kv/a", "kv/c", "--limit=1")
	e.want(t, "1\n", "del", "kv/a")
	e.want(t, "2\nkv/b\n-3\nkv/c\nfrom stdin\n", "del", "--prefix", "kv/", "--prev-kv")
	e.want(t, "0\n", "del", "--prefix", "kv/")
	e.fails(t, 1, "key is not provided", "put", "", "x")
}

func (e etcdctl) testTxn(t *testing.T) {
	e.want(t, "OK\n", "put", "txn/a", "1")
	got := e.run(t, "value(\"txn/a\") = \"1\"\nversion(\"txn/a\") = \"1\"\n\nput txn/a 2\nget txn/a\n\nput txn/a 3\n\n", "txn")
	if want := "SUCCESS\n\nOK\n\ntxn/a\n2\n"; got != want {
		t.Errorf("txn: %q, want %q", got, want)
	}
	got = e.run(t, "value(\"txn/a\") = \"1\"\n\nput txn/a 2\n\ndel txn/a\n\n", "txn")
	if want := "FAILURE\n\n1\n"; got != want {
		t.Errorf("txn: %q, want %q", got, want)
	}
}

func (e etcdctl) testWatch(t *testing.T) {
	out := e.run(t, "", "put", "watch/a", "1", "-w", "json")
	rev := revision(t, out)
	w := e.start(t, "watch", "--prefix", "watch/", "--prev-kv", fmt.Sprint("--rev=", rev))
	e.want(t, "OK\n", "put", "watch/a", "2")
	e.want(t, "1\n", "del", "watch/a")
	if err := w.AwaitLine(within(t, patience), "DELETE\nwatch/a\n2\nwatch/a\n\n"); err != nil {
		t.Error(err)
	}
	w.Kill()
	if want := "PUT\nwatch/a\n1\nPUT\nwatch/a\n1\nwatch/a\n2\nDELETE\nwatch/a\n2\nwatch/a\n\n"; w.Log() != want {
		t.Errorf("watch prints %q, want %q", w.Log(), want)
	}
	// A command for each event, told of it by its environment.
	file := filepath.Join(t.TempDir(), "events")
	w = e.start(t, "watch", "watch/b", fmt.Sprint("--rev=", rev), "--", "sh", "-c", `echo "$ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE" >> `+file)
	e.want(t, "OK\n", "put", "watch/b", "x")
	eventually(t, "the watch's command has run", func() bool {
		b, err := os.ReadFile(file)
		return err == nil && string(b) == "\"PUT\" \"watch/b\" \"x\"\n"
	})
	w.Kill()
}

func revision(t *testing.T, js string) int64 {
	t.Helper()
	var r struct{ Header struct{ Revision int64 } }
	if err := json.Unmarshal([]byte(js), &r); err != nil || r.Header.Revision == 0 {
		t.Fatalf("no revision in %q: %v", js, err)
	}
	return r.Header.Revision
}

func (e etcdctl) testLease(t *testing.T) {
	granted := e.run(t, "", "lease", "grant", "2")
	id := regexp.MustCompile(`^lease ([0-9a-f]{16}) granted with TTL\(2s\)\n$`).FindStringSubmatch(granted)
	if id == nil {
		t.Fatalf("lease grant prints %q", granted)
	}
	e.want(t, "OK\n", "put", "lease/a", "1", "--lease="+id[1])
	alive := e.start(t, "lease", "keep-alive", id[1])
	if err := alive.AwaitLine(within(t, patience), "lease "+id[1]+" keepalived with TTL(2)\n"); err != nil {
		t.Fatal(err)
	}
	if got := e.run(t, "", "lease", "timetolive", "--keys", id[1]); !regexp.MustCompile(`granted with TTL\(2s\), remaining\([012]s\), attached keys\(\[lease/a\]\)`).MatchString(got) {
		t.Errorf("lease timetolive: %q", got)
	}
	eventually(t, "the lease is listed by the member that is asked", func() bool {
		return strings.Contains(e.run(t, "", "lease", "list"), id[1])
	})
	alive.Kill()
	eventually(t, "the lease has expired", func() bool { return e.run(t, "", "get", "lease/a") == "" })
	e.want(t, "lease "+id[1]+" already expired\n", "lease", "timetolive", id[1])
	e.fails(t, 1, "requested lease not found", "lease", "revoke", id[1])
	id = regexp.MustCompile(`^lease ([0-9a-f]{16}) `).FindStringSubmatch(e.run(t, "", "lease", "grant", "100"))
	e.want(t, "OK\n", "put", "lease/b", "1", "--lease="+id[1])
	e.want(t, "lease "+id[1]+" revoked\n", "lease", "revoke", id[1])
	e.want(t, "", "get", "lease/b")
}

func (e etcdctl) testLock(t *testing.T) {
	holder := e.start(t, "lock", "lock/x", "--ttl=5")
	if err := holder.AwaitLine(within(t, patience), "lock/x/"); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir() + "/got-it"
	next := e.start(t, "lock", "lock/x", "--ttl=5", "touch", out)
	eventually(t, "the second waits in line", func() bool {
		return strings.Count(e.run(t, "", "get", "--prefix", "lock/x/", "--keys-only"), "lock/x/") == 2
	})
	if _, err := os.Stat(out); err == nil {
		t.Error("two hold the lock")
	}
	holder.signal(t, syscall.SIGINT)
	holder.wait(t, patience)
	if state := next.wait(t, patience); state.ExitCode() != 0 {
		t.Errorf("lock with a command: %v, %s", state, next.Log())
	}
	if _, err := os.Stat(out); err != nil {
		t.Error(err)
	}
}

func (e etcdctl) testElect(t *testing.T) {
	leader := e.start(t, "elect", "elect/x", "one")
	if err := leader.AwaitLine(within(t, patience), "one\n"); err != nil {
		t.Fatal(err)
	}
	observer := e.start(t, "elect", "--listen", "elect/x")
	if err := observer.AwaitLine(within(t, patience), "one\n"); err != nil {
		t.Fatal(err)
	}
	next := e.start(t, "elect", "elect/x", "two")
	leader.signal(t, syscall.SIGINT)
	leader.wait(t, patience)
	for _, p := range []*process{next, observer} {
		if err := p.AwaitLine(within(t, patience), "two\n"); err != nil {
			t.Error(err)
		}
	}
}

func (e etcdctl) testCompaction(t *testing.T) {
	rev := revision(t, e.run(t, "", "put", "compact/a", "1", "-w", "json"))
	e.want(t, "OK\n", "put", "compact/a", "2")
	e.want(t, fmt.Sprintf("compacted revision %d\n", rev+1), "compaction", fmt.Sprint(rev+1))
	e.fails(t, 1, "etcdserver: mvcc: required revision has been compacted", "get", "compact/a", fmt.Sprint("--rev=", rev))
	e.fails(t, 1, "etcdserver: mvcc: required revision has been compacted", "compaction", fmt.Sprint(rev))
	e.fails(t, 1, "etcdserver: mvcc: required revision is a future revision", "compaction", fmt.Sprint(rev+1000))
	w := e.start(t, "watch", "compact/a", fmt.Sprint("--rev=", rev+1))
	if err := w.AwaitLine(within(t, patience), "PUT\ncompact/a\n2\n"); err != nil {
		t.Error(err)
	}
	w.Kill()
}

func (e etcdctl) testEndpoints(t *testing.T, c *Cluster) {
	list := e.run(t, "", "member", "list")
	status := e.run(t, "", "endpoint", "status")
	r := runProgram(t, e.env(), "", e.path, "endpoint", "health")
	health := r.stdout + r.stderr // 3.4 reports good news on stderr
	if r.code != 0 {
		t.Errorf("endpoint health exits with %d", r.code)
	}
	table := e.run(t, "", "endpoint", "status", "--cluster", "-w", "table")
	for _, m := range c.Members {
		for what, pattern := range map[string]string{
			list:   `(?m)^[0-9a-f]+, started, ` + m.Name + `, http://` + m.Peer + `, http://` + m.Client + `, false$`,
			status: `(?m)^` + m.Client + `, [0-9a-f]+, 3\.7\.3, [0-9.]+ [kM]?B, (true|false), false, [0-9]+, [0-9]+, [0-9]+, $`,
			table:  `(?m)^\|\s+http://` + m.Client + ` \|`,
		} {
			if !regexp.MustCompile(pattern).MatchString(what) {
				t.Errorf("%s: %q doesn't match %s", m.Name, what, pattern)
			}
		}
		if !strings.Contains(health, m.Client+" is healthy") {
			t.Errorf("endpoint health: %q", health)
		}
	}
	if n := strings.Count(status, ", true, false, "); n != 1 {
		t.Errorf("%d members lead:\n%s", n, status)
	}
	nobody := etcdctl{e.path, freePort(t)}
	began := time.Now()
	nobody.fails(t, 1, "context deadline exceeded", "get", "x", "--command-timeout=1s", "--dial-timeout=1s")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("etcdctl without a server took %v", took)
	}
}
