package registrar

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	lib "github.com/musterhq/muster/registrar"
)

// TestMain lets this test binary be the program: what waits for all children can't live in the tests' own process.
func TestMain(m *testing.M) {
	switch os.Getenv("MUSTER_TEST_AS") {
	case "init": // as PID 1: orphans become our children
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			panic(err)
		}
		fallthrough
	case "registrar":
		cmd := Command()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(os.Args[1:])
		err := cmd.ExecuteContext(context.Background())
		var coded interface{ ExitCode() int }
		switch {
		case err == nil:
			os.Exit(0)
		case errors.As(err, &coded):
			os.Exit(coded.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	code := m.Run()
	built.remove()
	os.Exit(code)
}

var built binary

// program is a running muster registrar.
type program struct {
	cmd *exec.Cmd
	out chan string // lines of stdout and stderr; closed when both are

	mu  sync.Mutex
	all []string
}

func launch(t *testing.T, as string, args ...string) *program {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{cmd: exec.Command(exe, args...), out: make(chan string, 10000)}
	p.cmd.Env = append(os.Environ(), "MUSTER_TEST_AS="+as)
	r, w := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.out)
		s := bufio.NewScanner(r)
		for s.Scan() {
			p.mu.Lock()
			p.all = append(p.all, s.Text())
			p.mu.Unlock()
			p.out <- s.Text()
		}
	}()
	exited := make(chan struct{})
	go func() {
		_ = p.cmd.Wait()
		_ = w.Close()
		close(exited)
	}()
	t.Cleanup(func() {
		for range 3 { // the third kills the command and everything of its group
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-exited:
			case <-time.After(300 * time.Millisecond):
			}
		}
		_ = p.cmd.Process.Kill()
		<-exited
		if t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Logf("output of %v:\n%s", args, strings.Join(p.all, "\n"))
		}
	})
	return p
}

// await waits for a line that contains want.
func (p *program) await(t *testing.T, want string) string {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case line, ok := <-p.out:
			if !ok {
				t.Fatalf("ended without a line with %q", want)
			}
			if strings.Contains(line, want) {
				return line
			}
		case <-timeout:
			t.Fatalf("no line with %q", want)
		}
	}
}

// end waits for the program's end and returns its exit code.
func (p *program) end(t *testing.T) int {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case _, ok := <-p.out:
			if !ok {
				return p.cmd.ProcessState.ExitCode()
			}
		case <-timeout:
			t.Fatal("it doesn't end")
		}
	}
}

func (p *program) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// away is a store that nobody serves: the command must work all the same.
var away = []string{"run", "--name", "web", "--port", "http=8080", "--node", "h1", "--addr", "10.0.0.1", "--endpoints", "127.0.0.1:1"} //nolint:gochecknoglobals // a constant

func wrap(extra []string, script string) []string {
	return append(append(append([]string(nil), away...), extra...), "--", "sh", "-c", script)
}

func TestTheExitCodeIsTheCommands(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -9 $$": 137} {
		if got := launch(t, "registrar", wrap(nil, script)...).end(t); got != want {
			t.Errorf("%s: %d, want %d", script, got, want)
		}
	}
	p := launch(t, "registrar", append(append([]string(nil), away...), "--", "/no/such/command")...)
	if got := p.end(t); got != 127 {
		t.Errorf("no such command: %d", got)
	}
}

func TestSignalsGoToTheCommandAndTermOnlyAfterTheDrain(t *testing.T) {
	p := launch(t, "registrar", wrap([]string{"--stop-timeout", "1s"},
		`trap 'echo got usr1' USR1; trap 'echo got hup' HUP; trap 'echo got term; exit 7' TERM; echo up; while :; do sleep 0.05; done`)...)
	p.await(t, "up")
	p.signal(t, syscall.SIGUSR1)
	p.await(t, "got usr1")
	p.signal(t, syscall.SIGHUP)
	p.await(t, "got hup")
	p.signal(t, syscall.SIGTERM)
	p.await(t, "draining")
	p.await(t, "going on without a drain") // the store is away
	p.await(t, "got term")
	if got := p.end(t); got != 7 {
		t.Fatalf("exit code %d", got)
	}
}

func TestASecondSignalDoesNotWaitAndAThirdKills(t *testing.T) {
	p := launch(t, "registrar", wrap([]string{"--stop-timeout", "1h"}, `trap 'echo got term' TERM; echo up; while :; do sleep 0.05; done`)...)
	p.await(t, "up")
	p.signal(t, syscall.SIGTERM)
	p.await(t, "draining")
	p.signal(t, syscall.SIGTERM)
	p.await(t, "got term")
	p.signal(t, syscall.SIGTERM)
	if got := p.end(t); got != 137 {
		t.Fatalf("exit code %d", got)
	}
}

func TestACommandThatDoesNotStopIsKilled(t *testing.T) {
	p := launch(t, "registrar", wrap([]string{"--stop-timeout", "1s"}, `trap '' TERM; echo up; while :; do sleep 0.05; done`)...)
	p.await(t, "up")
	p.signal(t, syscall.SIGTERM)
	p.await(t, "killing it")
	if got := p.end(t); got != 137 {
		t.Fatalf("exit code %d", got)
	}
}

func TestOrphansAreReapedAsPID1Must(t *testing.T) {
	// The command leaves fifty orphans behind, which end at once, and then looks for zombies among its parent's children.
	p := launch(t, "init", wrap(nil, `
for i in $(seq 50); do (true & ) ; done
parent=$PPID
for try in $(seq 100); do
  z=0
  for f in /proc/[0-9]*/stat; do
    if read -r line 2>/dev/null <"$f"; then case "$line" in *") Z $parent "*) z=$((z+1));; esac; fi
  done
  [ $z = 0 ] && { echo "no zombies"; exit 0; }
  sleep 0.05
done
echo "$z zombies"; exit 1`)...)
	p.await(t, "no zombies")
	if got := p.end(t); got != 0 {
		t.Fatalf("exit code %d", got)
	}
}

func TestTheCommandFindsTheAPIInItsEnvironment(t *testing.T) {
	p := launch(t, "registrar", wrap([]string{"--check", "ttl:5s"}, `echo url=$MUSTER_REGISTRAR_URL; exec sleep 60`)...)
	_, url, _ := strings.Cut(p.await(t, "url="), "url=")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	// The checks start with the agent's first round: until then there is no such check.
	for code := 0; code != http.StatusNoContent; {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, url+"/v1/pass/ttl", strings.NewReader("fine"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if code = resp.StatusCode; code != http.StatusNoContent && code != http.StatusNotFound {
			t.Fatal(resp.Status)
		}
	}
	p.await(t, "check changed")
}

func TestMistakesAreNamedBeforeAnythingStarts(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("node: {name: h1}\nservces: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "give --config FILE"},
		{[]string{"--config", "/no/such"}, "no such file"},
		{[]string{"--config", bad}, "line 2:1] unknown field \"servces\""},
		{[]string{"run"}, "give --name and --port"},
		{[]string{"run", "--name", "web"}, "give --name and --port"},
		{[]string{"run", "--name", "Web", "--port", "80"}, "is not a DNS label"},
		{[]string{"run", "--name", "web", "--port", "x"}, "--port x"},
		{[]string{"run", "--name", "web", "--port", "80", "--port", "81"}, "name each port"},
		{[]string{"run", "--name", "web", "--port", "80", "--meta", "x"}, "write key=value"},
		{[]string{"run", "--name", "web", "--port", "80", "--check", "exec:rm"}, "other kinds are not supported yet"},
		{[]string{"run", "--name", "web", "--port", "80", "--check", "http:x"}, "write http:/path"},
		{[]string{"run", "--name", "web", "--port", "80", "--check", "ttl:x"}, "write ttl:10s"},
		{[]string{"run", "--name", "web", "--port", "80", "--ttl", "1ms"}, "lease.ttl"},
		{[]string{"run", "--name", "web", "--port", "80", "--api-http", "0.0.0.0:1"}, "not a loopback address"},
		{[]string{"run", "--name", "web", "--port", "80", "./web"}, "put -- before the command"},
		{[]string{"run", "--name", "web", "--port", "80", "--log-level", "loud"}, "use debug, info, warn or error"},
		{[]string{"run", "--name", "web", "--port", "80", "--cacert", "/no/such"}, "store.tls.ca"},
		{[]string{"run", "--name", "web", "--port", "80", "--user", "x", "--password-file", "/no/such"}, "password_file"},
	} {
		cmd := Command()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(append([]string{}, c.args...))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want …%s…", c.args, err, c.want)
		}
	}
}

func TestRunFlagsMakeAConfiguration(t *testing.T) {
	f := runFlags{
		name: "web", ports: []string{"http=8080", "dns=53/udp"}, tags: []string{"v2"}, meta: []string{"a=b=c"}, node: "h1", addr: "10.0.0.1",
		checks: []string{"http:/healthz", "http://127.0.0.1:9/x", "tcp", "tcp:http", "tcp:h:1", "ttl:10s"}, delay: time.Second, interval: time.Second,
	}
	cfg, err := f.config()
	if err != nil {
		t.Fatal(err)
	}
	s := cfg.Services[0]
	if s.Ports["dns"] != (lib.Port{Number: 53, Proto: "udp"}) || s.Meta["a"] != "b=c" || cfg.API.HTTP != "127.0.0.1:0" || *cfg.Drain.Delay != time.Second {
		t.Fatalf("got %+v", cfg)
	}
	var got []string
	for _, c := range s.Checks {
		got = append(got, fmt.Sprintf("%s|%s|%v", c.HTTP, c.TCP, c.TTL))
	}
	want := "[/healthz||0s http://127.0.0.1:9/x||0s |tcp|0s |http|0s |h:1|0s ||10s]"
	if fmt.Sprint(got) != want {
		t.Fatalf("got  %v\nwant %s", got, want)
	}
}

func TestHelpShowsExamples(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"run", "--help"}} {
		var out bytes.Buffer
		cmd := Command()
		cmd.SetArgs(args)
		cmd.SetOut(&out)
		if err := cmd.Execute(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "Examples:") || !strings.Contains(out.String(), "--check http:/healthz -- ./web") {
			t.Errorf("%v:\n%s", args, out.String())
		}
	}
}

func TestAStaleSocketIsReplacedAndALiveOneIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(path); err == nil || !strings.Contains(err.Error(), "served by another process") {
		t.Fatalf("got %v", err)
	}
	l.(interface{ SetUnlinkOnClose(bool) }).SetUnlinkOnClose(false) //nolint:forcetypeassert // a unix listener
	_ = l.Close()
	l, err = listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}
