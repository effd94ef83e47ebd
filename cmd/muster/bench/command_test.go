package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// serve starts the real program.
func serve(t *testing.T) *serverProcess {
	t.Helper()
	if program == "" {
		t.Skip("left out with -short: needs the program")
	}
	s, err := newServer(kindMuster, program, filepath.Join(t.TempDir(), "server"), -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// bench runs a command and returns what it printed.
func bench(ctx context.Context, args ...string) (string, error) {
	cmd := Command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

func TestEveryLoadRunsAgainstTheProgram(t *testing.T) {
	s := serve(t)
	small := []string{"--conns", "3", "--clients", "20"}
	for _, c := range []struct {
		name string
		args []string
		want uint64
	}{
		{"put", append(small, "--total", "3000", "--key-space-size", "500", "--sequential-keys"), 3000},
		{"put", append(small, "--total", "50", "--rate", "500"), 50},
		{"range", append(small, "--total", "1000", "--key-space-size", "500"), 1000},
		{"range", append(small, "--total", "100", "--consistency", "s", "0000", "--prefix", "--limit", "7"), 100},
		{"range", append(small, "--total", "100", "", "--from-key", "--count-only"), 100},
		{"lease", append(small, "--total", "400"), 400},
		{"watch", []string{"--conns", "3", "--watchers", "40", "--watch-keys", "4", "--total", "50"}, 50 * 10},
	} {
		out, err := bench(t.Context(), append([]string{c.name, "--endpoints", "http://" + s.addr, "-w", "json"}, c.args...)...)
		var r result
		if err != nil || json.Unmarshal([]byte(out), &r) != nil {
			t.Errorf("%s %v: %v\n%s", c.name, c.args, err, out)
			continue
		}
		if r.Operations != c.want || r.Failed != 0 || r.PerSecond <= 0 || r.Latency.P50 <= 0 || r.Latency.Max < r.Latency.P99 {
			t.Errorf("%s %v: got %+v, want %d operations", c.name, c.args, r, c.want)
		}
		if len(r.ServerPIDs) != 1 || r.ServerPIDs[0] != s.pid() || r.ServerMicros <= 0 || r.GeneratorMicros <= 0 || r.ServerResident <= 0 {
			t.Errorf("%s %v: the server's costs aren't found, its pid is %d: %+v", c.name, c.args, s.pid(), r)
		}
	}
}

func TestTheGeneratorIsClearlyCheaperThanTheServer(t *testing.T) {
	s := serve(t)
	for _, load := range []string{"put", "range"} {
		out, err := bench(t.Context(), load, "--endpoints", s.addr, "--total", "20000", "-w", "json")
		var r result
		if err != nil || json.Unmarshal([]byte(out), &r) != nil || r.generatorTooDear() {
			t.Errorf("%s: generator %.2f µs, server %.2f µs an operation, %v", load, r.GeneratorMicros, r.ServerMicros, err)
		}
	}
}

// dnsReady waits until DNS has its first look at the registry: until then it
// answers SERVFAIL, beside a member that serves.
func dnsReady(t *testing.T, server string) {
	t.Helper()
	q := new(dns.Msg).SetQuestion("muster.internal.", dns.TypeSOA)
	for deadline := time.Now().Add(20 * time.Second); ; {
		answer, _, err := new(dns.Client).ExchangeContext(t.Context(), q, server)
		if err == nil && answer.Rcode == dns.RcodeSuccess {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("DNS does not serve its zone: %v, %v", answer, err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestDNSIsMeasured(t *testing.T) {
	s := serve(t)
	dnsReady(t, s.dns)
	out, err := bench(t.Context(), "dns", "muster.internal", "--type", "SOA,NS", "--server", s.dns, "--total", "500")
	if err != nil || !strings.Contains(out, "500 in ") || !strings.Contains(out, "server CPU:") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAnEndedContextPrintsWhatWasMeasured(t *testing.T) {
	s := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	timer := stopAfter(cancel)
	defer timer.Stop()
	out, err := bench(ctx, "put", "--endpoints", s.addr, "--total", "100000000", "--conns", "2", "--clients", "4")
	if err != nil || !strings.Contains(out, "interrupted:") || !strings.Contains(out, "throughput:") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRefusedOperationsAreAnErrorByName(t *testing.T) {
	s := serve(t)
	const tooLarge = "4000000"
	out, err := bench(t.Context(), "put", "--endpoints", s.addr, "--conns", "1", "--clients", "2", "--total", "3", "--val-size", tooLarge)
	if err == nil || !strings.Contains(err.Error(), "3 operations failed, most often: ") || !strings.Contains(out, "0 in ") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestMistakesInFlagsExitWithTwo(t *testing.T) {
	for _, args := range [][]string{
		{"put", "--nonesuch"},
		{"put", "--total", "0"},
		{"put", "--conns", "10", "--clients", "5"},
		{"put", "--key-size", "2"},
		{"put", "--val-size", "-1"},
		{"put", "-w", "xml"},
		{"put", "--rate", "-1"},
		{"put", "--endpoints", "https://127.0.0.1:1"},
		{"put", "--endpoints", "127.0.0.1"},
		{"range", "--consistency", "x"},
		{"range", "--prefix"},
		{"range", "a", "b", "--from-key"},
		{"lease", "--ttl", "0"},
		{"watch", "--watchers", "10", "--watch-keys", "3"},
		{"watch", "--val-size", "4"},
		{"dns", "a.example", "--type", "NONESUCH"},
		{"dns", "a.example", "--server", "127.0.0.1"},
		{"compare"},
		{"compare", "--etcd", "/nonesuch"},
		{"compare", "--etcd", "/bin/sh", "--rounds", "0"},
		{"compare", "--etcd", "/bin/sh", "-w", "fields"},
		{"soak-memory", "--long-lived", "101"},
	} {
		_, err := bench(t.Context(), args...)
		var coded interface{ ExitCode() int }
		if err == nil || !errors.As(err, &coded) || coded.ExitCode() != 2 {
			t.Errorf("%v: %v, want a usage error", args, err)
		}
	}
}

func TestAServerThatIsNotThereIsNamed(t *testing.T) {
	for _, load := range []string{"put", "range", "lease", "watch"} {
		_, err := bench(t.Context(), load, "--endpoints", "127.0.0.1:1", "--total", "1")
		if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
			t.Errorf("%s: %v", load, err)
		}
	}
}

// TestComparisonOfTheProgramWithItself lets the program stand in for etcd, as it does
// under that name.
func TestComparisonOfTheProgramWithItself(t *testing.T) {
	if program == "" {
		t.Skip("left out with -short: needs the program")
	}
	dir := t.TempDir()
	etcd := filepath.Join(dir, "etcd")
	if err := os.Symlink(program, etcd); err != nil {
		t.Fatal(err)
	}
	var out, log bytes.Buffer
	c := comparison{
		binaries: map[string]string{kindEtcd: etcd, kindMuster: program}, generator: program, rounds: 1, dir: dir, output: "markdown",
		size:  sizes{keys: 200, puts: 2000, reads: 2000, keepAlives: 1000, watchPuts: 5, million: 1000},
		cores: pin(), log: &log, found: findings{},
	}
	cmd := compareCommand()
	cmd.SetOut(&out)
	cmd.SetContext(t.Context())
	if err := c.run(cmd); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out.String(), log.String())
	}
	for _, want := range []string{
		"| put | server CPU a put, µs |", "| linearizable range | server CPU a read, µs |", "| lease keep-alive |", "| watch, 1000 watchers of a key |",
		"resident memory, MiB", "restart after SIGKILL, ms", "restart after SIGTERM, ms", "range limit=100, median, ms", "≤ 0.55", "generator / etcd",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("folders are left behind: %v, %v", left, err)
	}
}

func TestSoakReportsMemoryAndSyncs(t *testing.T) {
	if program == "" {
		t.Skip("left out with -short: needs the program")
	}
	out, err := bench(t.Context(), "soak-memory", "--muster", program, "--dir", t.TempDir(), "--duration", "1300ms", "--conns", "4", "--clients", "40",
		"--key-space-size", "100", "--keep-revisions", "10", "-w", "json")
	var r soakReport
	if err != nil || json.Unmarshal([]byte(out), &r) != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !r.MemoryOK || r.Live <= 0 || r.Peak < r.Resident || r.Keys < 101 || r.Otherwise.Count == 0 || r.Load.Operations == 0 {
		t.Errorf("report %+v", r)
	}
}
