package muster_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// tourStep is one command of the README's tour with the output printed there.
type tourStep struct {
	command string
	want    []string
}

// tour reads the README's console blocks: "$ " starts a command, what follows
// up to the next one is its output, and … stands for whatever differs from run to run.
func tour(t *testing.T) []tourStep {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var steps []tourStep
	inside := false
	for line := range strings.Lines(string(readme)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "```console":
			inside = true
		case line == "```":
			inside = false
		case !inside:
		case strings.HasPrefix(line, "$ "):
			steps = append(steps, tourStep{command: line[2:]})
		case len(steps) == 0:
			t.Fatalf("output before any command: %q", line)
		default:
			s := &steps[len(steps)-1]
			s.want = append(s.want, line)
		}
	}
	return steps
}

// The tour runs word for word, in a folder of its own and, where the system
// allows it, in a network namespace of its own, since it uses the default ports.
func TestReadmeTourPrintsWhatItSays(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the tour's script needs Linux's unshare")
	}
	steps := tour(t)
	if len(steps) < 10 {
		t.Fatalf("found %d steps only: the README's tour has moved", len(steps))
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "bin", "muster"), "./cmd/muster")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}

	const marker = "=== step %d ===\n"
	var script strings.Builder
	fmt.Fprintf(&script, "ip link set lo up 2>/dev/null\nexport PATH=%q:$PATH\ntrap 'for p in $(jobs -p); do kill $p; wait $p; done 2>/dev/null' EXIT\n", filepath.Join(dir, "bin"))
	for i, s := range steps {
		fmt.Fprintf(&script, "printf '"+strings.ReplaceAll(marker, "\n", "\\n")+"'\n%s\n", i, s.command)
	}
	args := []string{"bash", "-c", script.String()}
	if exec.Command("unshare", "-rn", "true").Run() == nil {
		args = append([]string{"unshare", "-rn"}, args...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		t.Logf("script: %v", err)
	}
	rest := out.String()
	for i, s := range steps {
		head := fmt.Sprintf(marker, i)
		_, after, ok := strings.Cut(rest, head)
		if !ok {
			t.Fatalf("the script ended before step %d (%s):\n%s", i, s.command, rest)
		}
		got, _, _ := strings.Cut(after, fmt.Sprintf(marker, i+1))
		rest = after
		if !matchesPrinted(s.want, got) {
			t.Errorf("$ %s\nprinted\n%s\nbut the README says\n%s", s.command, got, strings.Join(s.want, "\n"))
		}
	}
	if t.Failed() {
		log, err := os.ReadFile(filepath.Join(dir, "server.log"))
		if err != nil {
			t.Log(err)
		}
		t.Logf("server.log:\n%s", log)
	}
}

// matchesPrinted compares line by line; … matches any part of a line.
func matchesPrinted(want []string, got string) bool {
	pattern := "(?s)^"
	for _, w := range want {
		pattern += strings.ReplaceAll(regexp.QuoteMeta(w), "…", "[^\n]*") + "\n"
	}
	return regexp.MustCompile(pattern + "$").MatchString(got)
}
