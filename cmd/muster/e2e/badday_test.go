package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// requireRefusal checks how a program ended that couldn't do what it was asked
// for: it exits with the code, and one line on stderr says what and why. What it
// has logged before is not counted, if it is no error.
func requireRefusal(t *testing.T, r result, code int, wants ...string) {
	t.Helper()
	requireNoTrace(t, "muster", r.stdout+r.stderr)
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	var plain []string
	for _, line := range strings.Split(strings.TrimSpace(r.stderr), "\n") {
		var entry struct{ Level, Msg string }
		switch {
		case strings.HasPrefix(line, "time="): // the sidecar's log
		case json.Unmarshal([]byte(line), &entry) != nil:
			plain = append(plain, line)
		case entry.Level == "error" && entry.Msg != "member stops":
			t.Errorf("logged an error besides: %s", line)
		}
	}
	if len(plain) != 1 || !strings.HasPrefix(plain[0], "muster: ") {
		t.Errorf("stderr has %d lines beside the log, want one that begins with \"muster: \":\n%s", len(plain), tail(r.stderr))
		return
	}
	for _, want := range wants {
		if !strings.Contains(plain[0], want) {
			t.Errorf("%q doesn't say %q", plain[0], want)
		}
	}
}

// refused runs a member that must refuse to start.
func refused(t *testing.T, m *Member, code int, wants ...string) {
	t.Helper()
	requireRefusal(t, runProgram(t, nil, "", muster, m.Flags()...), code, wants...)
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMistakesOnTheCommandLineAreNamedWithTheirRemedy(t *testing.T) {
	tests := []struct {
		name  string
		args  []string
		wants []string
	}{
		{"unknown flag", []string{"--no-such-flag=1"}, []string{"unknown flag: --no-such-flag"}},
		{"a number that is none", []string{"--heartbeat-interval=soon"}, []string{"--heartbeat-interval", `"soon"`}},
		{"advertised URL differs from initial cluster", []string{"--name=a", "--initial-cluster=a=http://127.0.0.1:1"}, []string{"--initial-cluster", "--initial-advertise-peer-urls", "make them equal"}},
		{"own name missing", []string{"--name=a", "--initial-cluster=b=http://127.0.0.1:1"}, []string{"--initial-cluster", `"a"`, "--name"}},
		{"initial cluster garbled", []string{"--initial-cluster=nonsense"}, []string{"--initial-cluster", "name=url"}},
		{"scheme", []string{"--listen-client-urls=ftp://127.0.0.1:1"}, []string{"--listen-client-urls", `"ftp"`, "http"}},
		{"no port", []string{"--listen-peer-urls=http://127.0.0.1"}, []string{"--listen-peer-urls", "no port", "http://host:port"}},
		{"no URL", []string{"--advertise-client-urls=127.0.0.1:1"}, []string{"--advertise-client-urls", "http://host:port"}},
		{"a name to listen on", []string{"--listen-client-urls=http://example.org:1"}, []string{"--listen-client-urls", "IP address"}},
		{"clients and peers on one port", []string{"--listen-client-urls=http://127.0.0.1:1", "--listen-peer-urls=http://127.0.0.1:1", "--initial-advertise-peer-urls=http://127.0.0.1:1"}, []string{"--listen-peer-urls", "port each"}},
		{"election sooner than heartbeats", []string{"--election-timeout=100"}, []string{"--election-timeout", "--heartbeat-interval"}},
		{"a file that isn't there", []string{"--config-file=/nonexistent.yaml"}, []string{"--config-file", "no such file"}},
		{"a file that is no YAML", []string{"--config-file=" + writeFile(t, "c.yaml", "name: [\n")}, []string{"--config-file", "c.yaml"}},
		{"a file that is a list", []string{"--config-file=" + writeFile(t, "c.yaml", "- name\n")}, []string{"--config-file", "c.yaml"}},
		{"unknown field in the file", []string{"--config-file=" + writeFile(t, "c.yaml", "name: x\nnames: y\n")}, []string{"--config-file", `"names"`, "remove it"}},
		{"wrong value in the file", []string{"--config-file=" + writeFile(t, "c.yaml", "max-txn-ops: many\n")}, []string{"--config-file", `"max-txn-ops"`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := newMember(t, "m1")
			m.Args = test.args
			refused(t, m, 2, test.wants...)
			if _, err := os.Stat(m.Dir); err == nil {
				t.Error("a data directory was made")
			}
		})
	}
}

func TestMistakesOfOtherCommandsAreNamedToo(t *testing.T) {
	for _, test := range []struct {
		name  string
		args  []string
		wants []string
	}{
		{"unknown command", []string{"sever"}, []string{"sever"}},
		{"server with an argument", []string{"server", "x"}, []string{"x"}},
		{"dns with an unknown flag", []string{"dns", "--no-such-flag"}, []string{"--no-such-flag"}},
		{"dns with a bad address", []string{"dns", "--listen=nowhere", "--endpoints=127.0.0.1:1"}, []string{"nowhere"}},
		{"registrar without a file", []string{"registrar"}, []string{"--config"}},
		{"registrar with a missing file", []string{"registrar", "--config=/nonexistent.yaml"}, []string{"/nonexistent.yaml", "no such file"}},
		{"registrar file that is no YAML", []string{"registrar", "--config=" + writeFile(t, "r.yaml", "services: [\n")}, []string{"r.yaml"}},
		{"registrar file with an unknown field", []string{"registrar", "--config=" + writeFile(t, "r.yaml", "services:\n  - name: web\n    prot: 80\n")}, []string{"r.yaml", "prot"}},
		{"service name not LDH", []string{"registrar", "run", "--name=web_1", "--port=80"}, []string{"web_1"}},
		{"service name with capitals", []string{"registrar", "run", "--name=Web", "--port=80"}, []string{"Web"}},
		{"service name too long", []string{"registrar", "run", "--name=" + strings.Repeat("x", 64), "--port=80"}, []string{"63"}},
		{"service name reserved", []string{"registrar", "run", "--name=svc", "--port=80"}, []string{"svc"}},
		{"whole name too long", []string{"registrar", "run", "--name=" + strings.Repeat("x", 63), "--ns=" + strings.Repeat("y", 63), "--id=" + strings.Repeat("z", 63), "--port=" + strings.Repeat("p", 62) + "=80"}, []string{"shorten"}},
		{"no port", []string{"registrar", "run", "--name=web"}, []string{"--port"}},
		{"port out of range", []string{"registrar", "run", "--name=web", "--port=http=70000"}, []string{"70000"}},
		{"a check that doesn't exist", []string{"registrar", "run", "--name=web", "--port=80", "--check=smoke:x"}, []string{"smoke"}},
		{"a command that doesn't exist", []string{"registrar", "run", "--name=web", "--port=80", "--endpoints=127.0.0.1:1", "--", "/nonexistent"}, []string{"/nonexistent"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := runProgram(t, nil, "", muster, test.args...)
			if r.code == 0 {
				t.Error("exit code 0")
			}
			requireRefusal(t, r, r.code, test.wants...)
		})
	}
}

func TestAPortThatIsTakenEndsTheMemberBeforeItHasWrittenAnything(t *testing.T) {
	for _, flag := range []string{"--listen-client-urls", "--listen-peer-urls", "--dns-listen"} {
		t.Run(flag, func(t *testing.T) {
			m := newMember(t, "m1")
			addr := map[string]string{"--listen-client-urls": m.Client, "--listen-peer-urls": m.Peer, "--dns-listen": m.DNS}[flag]
			taken, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer taken.Close()
			refused(t, m, 1, flag, addr, "address already in use", "stop")
			if _, err := os.Stat(m.Dir); err == nil && flag != "--dns-listen" {
				t.Error("a data directory was made")
			}
			taken.Close()
			m.Start(t)
		})
	}
}

func TestADataDirectoryThatIsNotOursIsLeftAlone(t *testing.T) {
	t.Run("of another cluster", func(t *testing.T) {
		m := newMember(t, "m1")
		m.Start(t)
		put(t, connect(t, m.Client), "k", "v")
		m.Stop(t)
		other := newMember(t, "other", "--initial-cluster-token=other")
		other.Dir = m.Dir
		refused(t, other, 1, "belongs to another cluster", m.Dir, "--data-dir")
		m.Start(t)
		if kv := get(t, connect(t, m.Client), "k").Kvs; len(kv) != 1 {
			t.Errorf("what was in it: %v", kv)
		}
	})
	t.Run("in use", func(t *testing.T) {
		m := newMember(t, "m1")
		m.Start(t)
		other := newMember(t, "m1")
		other.Dir = m.Dir
		refused(t, other, 1, "in use by another process", m.Dir)
		put(t, connect(t, m.Client), "k", "v")
	})
	t.Run("etcd's", func(t *testing.T) {
		m := newMember(t, "m1")
		if err := os.MkdirAll(filepath.Join(m.Dir, "member", "wal"), 0o700); err != nil {
			t.Fatal(err)
		}
		refused(t, m, 1, "etcd", m.Dir, "snapshot save")
		entries, err := os.ReadDir(m.Dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("the directory holds %v now, %v; want member alone", entries, err)
		}
	})
	t.Run("a file", func(t *testing.T) {
		m := newMember(t, "m1")
		if err := os.WriteFile(m.Dir, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, m, 1, "data directory", m.Dir)
	})
	t.Run("inside a file", func(t *testing.T) {
		m := newMember(t, "m1")
		if err := os.WriteFile(m.Dir, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		m.Dir = filepath.Join(m.Dir, "data")
		refused(t, m, 1, "data directory", m.Dir)
	})
}
