package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/core/server"
)

func TestADirectoryRestoredWithTheServersFlagsStartsWithThem(t *testing.T) {
	old := newMember(t, "old", "--unsafe-no-fsync")
	old.Start(t)
	ctl := func(t *testing.T, args ...string) {
		t.Helper()
		r := runProgram(t, nil, "", muster, append([]string{"ctl", "--endpoints", old.Client}, args...)...)
		if r.code != 0 {
			t.Fatalf("muster ctl %v exits %d: %s", args, r.code, r.stderr)
		}
	}
	ctl(t, "put", "k", "kept")
	home := t.TempDir()
	file := filepath.Join(home, "backup.db")
	ctl(t, "snapshot", "save", file)
	old.Stop(t)

	for name, flags := range map[string][]string{
		"none at all":           nil,
		"a name":                {"--name=m1"},
		"a peer URL":            {"--initial-advertise-peer-urls=http://127.0.0.1:21"},
		"a name and a peer URL": {"--name=m1", "--initial-advertise-peer-urls=http://127.0.0.1:21"},
		"a cluster":             {"--name=m1", "--initial-cluster=m1=http://127.0.0.1:21", "--initial-advertise-peer-urls=http://127.0.0.1:21"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(home, strings.ReplaceAll(name, " ", "-"))
			ctl(t, append([]string{"snapshot", "restore", file, "--data-dir", dir}, flags...)...)
			// Elsewhere than on the well-known ports, but reached there as far as it tells others.
			client := freePort(t)
			args := append([]string{
				"server", "--data-dir=" + dir, "--listen-client-urls=http://" + client, "--dns-listen=", "--unsafe-no-fsync",
				"--initial-advertise-peer-urls=" + strings.Join(server.Default().ListenPeerURLs, ","), "--listen-peer-urls=http://127.0.0.1:0",
			}, flags...)
			m := &Member{Name: name, Client: client, out: old.out}
			m.process = start(t, m.out, home, nil, muster, args...)
			m.AwaitReady(t)
			r := runProgram(t, nil, "", muster, "ctl", "--endpoints", client, "get", "k", "--print-value-only")
			if r.code != 0 || r.stdout != "kept\n" {
				t.Errorf("get: exit code %d, %q, %q", r.code, r.stdout, r.stderr)
			}
			m.Stop(t)
		})
	}

	dir := filepath.Join(home, "elsewhere")
	ctl(t, "snapshot", "restore", file, "--data-dir", dir, "--initial-cluster=default=http://localhost:2380")
	r := runProgram(t, nil, "", muster, "server", "--data-dir="+dir, "--dns-listen=",
		"--listen-client-urls=http://127.0.0.1:0", "--listen-peer-urls=http://"+old.Peer)
	if r.code != 1 {
		t.Errorf("a member with other peer URLs: exit code %d", r.code)
	}
	for _, want := range []string{"http://localhost:2380", "default=http://" + old.Peer, "--initial-cluster", "--initial-advertise-peer-urls", "--data-dir"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("the refusal does not say %s:\n%s", want, r.stderr)
		}
	}
}
