package main

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary stands in for muster: started with this variable set, it runs
// the program and nothing else.
const asProgram = "MUSTER_TEST_RUN_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(run(os.Args))
	}
	os.Exit(m.Run())
}

// command prepares a run under the given name, in an empty directory and an
// environment of nothing but PATH and env.
func command(t *testing.T, name string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	link := filepath.Join(dir, name)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(link, args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), asProgram + "=1"}, env...)
	return cmd
}

func TestExitCodesAndMessages(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		name       string
		args       []string
		code       int
		out, stage string // what stdout has, what the one line on stderr has
	}{
		{"muster", []string{"version"}, 0, "etcd Version: 3.7.3", ""},
		{"etcd", []string{"--version"}, 0, "etcd Version: 3.7.3\n", ""},
		{"etcd", []string{"-version"}, 0, "etcd Version: 3.7.3\n", ""},
		{"muster", []string{"server", "--help"}, 0, "--data-dir", ""},
		{"muster", []string{"server", "--no-such"}, 2, "", "unknown flag: --no-such"},
		{"muster", []string{"server", "--listen-client-urls=https://127.0.0.1:1"}, 2, "", "TLS is not supported yet"},
		{"muster", []string{"server", "x"}, 2, "", `muster: unexpected argument "x": a member is told everything by flags`},
		{"muster", []string{"serve"}, 1, "", "muster: unknown command \"serve\" for \"muster\"; Did you mean this? server\n"},
		{"etcd", []string{"-heartbeat-interval", "x"}, 2, "", "heartbeat-interval"},
		{"etcd", []string{"gateway", "start"}, 1, "", "gateway is not supported"},
		{"muster", []string{"server", "--log-level=error", "--listen-peer-urls=http://127.0.0.1:0", "--listen-client-urls=http://" + taken.Addr().String()}, 1, "", "--listen-client-urls"},
	} {
		cmd := command(t, c.name, nil, c.args...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.stage) {
			t.Errorf("%s %v: %v, stdout %q, stderr %q", c.name, c.args, err, out.String(), errs.String())
		}
		if c.stage != "" && strings.Count(errs.String(), "\n") != 1 {
			t.Errorf("%s %v: more than a line: %q", c.name, c.args, errs.String())
		}
	}
}

func TestAMemberStartedAsEtcdStopsOnSIGTERM(t *testing.T) {
	cmd := command(t, "etcd", []string{"ETCD_VERIFY=all", "ETCD_UNSUPPORTED_ARCH=x"},
		"-listen-client-urls", "http://127.0.0.1:0", "--listen-peer-urls=http://127.0.0.1:0", "--snapshot-count=100", "--dns-listen=")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(stderr)
	var log []string
	ready := false
	for !ready && lines.Scan() {
		log = append(log, lines.Text())
		ready = strings.Contains(lines.Text(), `"msg":"ready to serve client requests"`)
	}
	if !ready {
		t.Fatalf("never ready:\n%s", strings.Join(log, "\n"))
	}
	if all := strings.Join(log, "\n"); !strings.Contains(all, "unrecognized environment variable ETCD_VERIFY") {
		t.Errorf("no warning about ETCD_VERIFY:\n%s", all)
	}
	if _, err := os.Stat(filepath.Join(cmd.Dir, "default.etcd")); err != nil {
		t.Errorf("the data directory: %v", err)
	}
	start := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(stderr)
	// As etcd: it has died of the signal, which a shell calls 143.
	err = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("%v\n%s", err, rest)
	}
	if took := time.Since(start); took > 1500*time.Millisecond {
		t.Errorf("stopping took %v", took)
	}
}
