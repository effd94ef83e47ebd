package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/musterhq/muster/sdk/mustertest"
)

// TestAnswersAreEtcdctls compares with what etcdctl 3.7.3 printed against a Muster server. A "ctl" block was recorded
// from etcdctl, an "ours" block holds where we differ on purpose. To record again:
//
//	MUSTER_CTL_RECORD=/path/to/etcdctl go test ./cmd/muster/ctl -run TestAnswersAreEtcdctls -rewrite
//
// The first line of a block is the command, what follows it the input. until=N ends the command after N lines of output.
// A line "lease grant" names its lease $1, $2 and so on for the commands after it.
func TestAnswersAreEtcdctls(t *testing.T) {
	cluster := mustertest.Start(t, 1)
	run := map[string]runner{"ours": inProcess, "ctl": inProcess}
	if bin := os.Getenv("MUSTER_CTL_RECORD"); bin != "" {
		run["ctl"] = func(t *testing.T, c command) outcome { return external(t, bin, c) }
	}
	endpoint := strings.TrimPrefix(cluster.Endpoints()[0], "http://")
	status, err := cluster.Client().Status(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	n := &normalizer{}
	n.name(status.Header.ClusterID, "CLUSTER")
	n.name(status.Header.MemberID, "MEMBER")
	datadriven.RunTest(t, "testdata/golden.txt", func(t *testing.T, d *datadriven.TestData) string {
		line, input, _ := strings.Cut(d.Input, "\n")
		args, err := splitWords(n.expand(line))
		if err != nil {
			t.Fatal(err)
		}
		c := command{args: append([]string{"--endpoints", endpoint}, args...), stdin: input}
		if input != "" {
			c.stdin += "\n"
		}
		// datadriven can't hold empty lines in an input.
		c.stdin = strings.ReplaceAll(c.stdin, "~\n", "\n")
		if d.HasArg("until") {
			d.ScanArgs(t, "until", &c.until)
		}
		out := run[d.Cmd](t, c)
		if m := regexp.MustCompile(`^lease ([0-9a-f]{16}) granted`).FindStringSubmatch(out.stdout); m != nil {
			n.lease(t, m[1])
		}
		return n.normalize(out.String(c.until))
	})
}

type command struct {
	args  []string
	stdin string
	until int
}

type outcome struct {
	stdout, stderr string
	code           int
}

// String is what is compared: of stderr, what comes before our hints and etcdctl's usage, without its client's log.
func (o outcome) String(lines int) string {
	s := o.stdout
	if lines > 0 {
		return strings.Join(strings.SplitAfterN(s, "\n", lines+1)[:lines], "")
	}
	for line := range strings.Lines(o.stderr) {
		if strings.HasPrefix(line, `{"level"`) {
			continue
		}
		s += "stderr: " + line
		if strings.HasPrefix(line, "Error:") {
			break
		}
	}
	if o.code != 0 {
		s += fmt.Sprintf("exit %d\n", o.code)
	}
	return s
}

type runner func(*testing.T, command) outcome

// lineLimit ends a command once it has printed enough lines.
type lineLimit struct {
	buf  bytes.Buffer // not embedded: its ReadFrom would go round Write
	left int
	end  func()
}

func (l *lineLimit) Write(p []byte) (int, error) {
	if l.left > 0 {
		if l.left -= bytes.Count(p, []byte("\n")); l.left <= 0 {
			defer l.end()
		}
	}
	return l.buf.Write(p)
}

func inProcess(t *testing.T, c command) outcome {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &lineLimit{left: c.until, end: cancel}
	var errOut safeBuffer
	code := execute(ctx, c.args, strings.NewReader(c.stdin), out, &errOut)
	return outcome{out.buf.String(), errOut.String(), code}
}

func external(t *testing.T, bin string, c command) outcome {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, c.args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out := &lineLimit{left: c.until, end: cancel}
	var errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.stdin), out, &errOut
	code := 0
	if err := cmd.Run(); err != nil && c.until == 0 {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
		code = exit.ExitCode()
	}
	return outcome{out.buf.String(), errOut.String(), code}
}

// safeBuffer is written by a command and by the commands it runs.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// normalizer replaces what differs from run to run.
type normalizer struct {
	names  []string // pairs of a text and its name
	leases []string
}

func (n *normalizer) name(id uint64, name string) {
	n.names = append(n.names, fmt.Sprint(id), name, fmt.Sprintf("%x", id), name+"_HEX")
}

func (n *normalizer) lease(t *testing.T, hex string) {
	var id uint64
	if _, err := fmt.Sscanf(hex, "%x", &id); err != nil {
		t.Fatal(err)
	}
	n.leases = append(n.leases, hex)
	name := fmt.Sprintf("LEASE%d", len(n.leases))
	n.names = append(n.names, hex, name+"_HEX", fmt.Sprint(id), name)
}

func (n *normalizer) expand(line string) string {
	for i, hex := range n.leases {
		line = strings.ReplaceAll(line, fmt.Sprintf("$%d", i+1), hex)
	}
	return line
}

var volatile = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d{2,5}`), "HOST:PORT"},
	{regexp.MustCompile(`took( = |":"|" : )[0-9.µnms]+`), "took${1}TIME"},
	{regexp.MustCompile(`Took" : [0-9.µnms]+`), `Took" : TIME`},
	{regexp.MustCompile(`("dbSize|"dbSizeInUse|"raftIndex|"raftAppliedIndex)":\d+`), `$1":N`},
	{regexp.MustCompile(`("DBSize|"DBSizeInUse|"RaftIndex|"RaftAppliedIndex)" : \d+`), `$1" : N`},
	{regexp.MustCompile(`\d+(\.\d+)? k?B, \d+(\.\d+)? k?B, \d+%`), "SIZE, SIZE, N%"},
	{regexp.MustCompile(`\d+, \d+, , , false`), "N, N, , , false"},
	{regexp.MustCompile(`(?m)(/)[0-9a-f]{14,16}$`), "${1}LEASE_HEX"},
	{regexp.MustCompile(`remaining\(\d+s\)`), "remaining(Ns)"},
}

func (n *normalizer) normalize(s string) string {
	s = strings.NewReplacer(n.names...).Replace(s)
	for _, v := range volatile {
		s = v.pattern.ReplaceAllString(s, v.with)
	}
	return s
}
