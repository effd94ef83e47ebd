package ctl

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/vfs"
	"github.com/musterhq/muster/sdk/mustertest"
)

// says runs a command against a cluster and returns exit code, output and errors.
func says(t *testing.T, endpoint string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = execute(context.WithoutCancel(t.Context()), append([]string{"--endpoints", endpoint}, args...), strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

func TestMembersAreAddedUpdatedAndRemovedAsByEtcdctl(t *testing.T) {
	cluster := mustertest.Start(t, 1)
	endpoint := cluster.Endpoints()[0]
	code, out, errOut := says(t, endpoint, "member", "add", "m1", "--peer-urls=http://127.0.0.1:1,http://127.0.0.1:2", "--learner")
	added := regexp.MustCompile(`^Member +([0-9a-f]+) added as learner to cluster +[0-9a-f]+\n\nETCD_NAME="m1"\nETCD_INITIAL_CLUSTER="(.*)"\nETCD_INITIAL_ADVERTISE_PEER_URLS="http://127.0.0.1:1,http://127.0.0.1:2"\nETCD_INITIAL_CLUSTER_STATE="existing"\n$`).FindStringSubmatch(out)
	if code != 0 || added == nil || strings.Count(added[2], "m1=http://127.0.0.1:") != 2 || !strings.Contains(added[2], "m0=http://") {
		t.Fatalf("exit code %d, output %q, errors %q", code, out, errOut)
	}
	id := added[1]
	for _, c := range []struct {
		args string
		code int
		out  string // a pattern
		err  string
	}{
		{"member list", 0, id + `, unstarted, , http://127.0.0.1:1,http://127.0.0.1:2, , true`, ""},
		{"member add", 128, "", "Error: member name not provided"},
		{"member add m2 http://127.0.0.1:3", 128, "", "did you mean --peer-urls=http://127.0.0.1:3"},
		{"member add m2", 128, "", "Error: member peer urls not provided"},
		{"member add m2 --peer-urls=http://127.0.0.1:3 --learner", 1, "", "Error: etcdserver: too many learner members in cluster\n"},
		{"member promote " + id, 1, "", "Error: etcdserver: can only promote a learner member which is in sync with leader\n"},
		{"member update " + id + " --peer-urls=http://127.0.0.1:4", 0, `^Member +` + id + ` updated in cluster`, ""},
		{"member update " + id, 128, "", "Error: member peer urls not provided"},
		{"member add m2 --peer-urls=abc", 1, "", `--peer-urls: "abc" is not a URL: write http://host:port`},
		{"member add m2 --peer-urls=http://a:1,http://b", 1, "", `--peer-urls: "http://b" has no port`},
		{"member update " + id + " --peer-urls=ftp://a:1", 1, "", `scheme "ftp" is not supported`},
		{"member add m2 --peer-urls=http://a:1/", 1, "", "nothing behind it"},
		{"member remove xyz", 128, "", "expecting ID in Hex"},
		{"member remove 1", 1, "", "Error: etcdserver: member not found\n"},
		{"member remove " + id + " -w json", 0, `^{"header":{.*"members":\[{.*"name":"m0"`, ""},
		{"member remove " + id, 1, "", "Error: etcdserver: member not found\n"},
		{"move-leader 1", 1, "", "Error: etcdserver: bad leader transferee\n"},
		{"endpoint hashkv", 0, `^127\S+, \d+, 1\n$`, ""},
		{"endpoint hashkv --rev 1000", 1, "", "Failed to get the hash of endpoint"},
	} {
		code, out, errOut := says(t, strings.TrimPrefix(endpoint, "http://"), strings.Fields(c.args)...)
		if code != c.code || !regexp.MustCompile(c.out).MatchString(out) || !strings.Contains(errOut, c.err) {
			t.Errorf("%s: exit code %d, output %q, errors %q; want %d, %q, %q", c.args, code, out, errOut, c.code, c.out, c.err)
		}
	}
}

// Leadership is moved when a member is down, too; then above all.
func TestMoveLeaderPassesOverEndpointsThatDoNotAnswer(t *testing.T) {
	live := strings.TrimPrefix(mustertest.Start(t, 1).Endpoints()[0], "http://")
	_, out, _ := says(t, live, "member", "list")
	id, _, _ := strings.Cut(out, ",")
	const dead = "127.0.0.1:1"
	failed := "Failed to get the status of endpoint " + dead
	for _, c := range []struct {
		endpoints string
		code      int
		out, err  string
	}{
		{dead + "," + live, 0, "Leadership transferred from " + id + " to " + id, failed},
		{dead, 1, "", "connection refused"},
	} {
		code, out, errOut := says(t, c.endpoints, "move-leader", id)
		if code != c.code || strings.TrimSpace(out) != c.out || !strings.Contains(errOut, c.err) {
			t.Errorf("%s: exit code %d, output %q, errors %q; want %d, %q, %q", c.endpoints, code, out, errOut, c.code, c.out, c.err)
		}
	}
}

func TestSnapshotIsSavedDescribedAndRestored(t *testing.T) {
	cluster := mustertest.Start(t, 1)
	endpoint := cluster.Endpoints()[0]
	if code, _, errOut := says(t, endpoint, "put", "k", strings.Repeat("v", 100_000)); code != 0 {
		t.Fatal(errOut)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "s.db")
	if code, out, errOut := says(t, endpoint, "snapshot", "save", file); code != 0 || out != "Snapshot saved at "+file+"\nServer version 3.7.0\n" {
		t.Fatalf("exit code %d, output %q, errors %q", code, out, errOut)
	}
	if names, err := filepath.Glob(file + "*"); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	if code, out, errOut := says(t, endpoint, "snapshot", "status", file); code != 0 || !regexp.MustCompile(`^[0-9a-f]+, 2, 1, 1\d\d kB, 3.7.0\n$`).MatchString(out) {
		t.Errorf("status: exit code %d, output %q, errors %q", code, out, errOut)
	}
	data := filepath.Join(dir, "data")
	if code, out, errOut := says(t, endpoint, "snapshot", "restore", file, "--data-dir", data); code != 0 || !strings.Contains(out, "begins at revision 1000000002") {
		t.Errorf("restore: exit code %d, output %q, errors %q", code, out, errOut)
	}
	if code, _, errOut := says(t, endpoint, "snapshot", "restore", file, "--data-dir", data); code != 1 || !strings.Contains(errOut, "not empty") {
		t.Errorf("restoring again: exit code %d, errors %q", code, errOut)
	}
	if code, out, errOut := says(t, endpoint, "snapshot", "restore", file, "--data-dir", data+"2", "--bump-revision", "0"); code != 0 || !strings.Contains(out, "begins at revision 2") {
		t.Errorf("restore without a bump: exit code %d, output %q, errors %q", code, out, errOut)
	}
	for flags, want := range map[string]string{
		"--initial-cluster=default=ftp://a:1":                                           `scheme "ftp" is not supported`,
		"--initial-cluster=default=https://a:1":                                         "TLS is not supported yet",
		"--initial-cluster=default=http://a":                                            "has no port",
		"--initial-cluster=m1=http://a:1":                                               `name "default" is not in it`,
		"--initial-advertise-peer-urls=a:1":                                             "--initial-advertise-peer-urls",
		"--initial-cluster=default=http://a:1 --initial-advertise-peer-urls=http://b:1": "make them equal",
		"--name=m1 --initial-cluster=m1=http://a:1,m2=http://a:1":                       "each member needs its own",
	} {
		args := append([]string{"snapshot", "restore", file, "--data-dir", data + "3"}, strings.Fields(flags)...)
		if code, _, errOut := says(t, endpoint, args...); code != exitArgs || !strings.Contains(errOut, want) {
			t.Errorf("restore %s: exit code %d, errors %q; want %d, %q", flags, code, errOut, exitArgs, want)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(dir, "short.db")
	for _, c := range []struct {
		cut, code     int
		out, err, why string
	}{
		{0, 0, ", 2, 1, 1", "", "whole"},
		{sha256.Size, 0, ", 2, 1, 1", "no hash at its end: not verified", "without its hash"},
		{sha256.Size / 2, 1, "", "cut short", "with half of its hash"},
	} {
		if err := os.WriteFile(short, b[:len(b)-c.cut], 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errOut := says(t, endpoint, "snapshot", "status", short, "-w", "simple")
		if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errOut, c.err) || c.err == "" && errOut != "" {
			t.Errorf("status of a file %s: exit code %d, output %q, errors %q; want %d, %q, %q", c.why, code, out, errOut, c.code, c.out, c.err)
		}
	}
	b[len(b)/2]++
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"status", "restore"} {
		if code, _, errOut := says(t, endpoint, "snapshot", verb, file); code != 1 || !strings.Contains(errOut, "corrupt") || !strings.Contains(errOut, "take another copy") {
			t.Errorf("%s of a damaged file: exit code %d, errors %q", verb, code, errOut)
		}
	}
	if code, _, errOut := says(t, endpoint+",http://127.0.0.1:1", "snapshot", "save", file); code != 5 || !strings.Contains(errOut, "not multiple") {
		t.Errorf("saving from two members: exit code %d, errors %q", code, errOut)
	}
}

func TestASnapshotThatMayNotBeOnDiskDoesNotGetItsName(t *testing.T) {
	state := []byte("all there is")
	hash := sha256.Sum256(state)
	broken := errors.New("the disk is broken")
	for _, kind := range []vfs.Kind{vfs.OpWrite, vfs.OpSync, vfs.OpRename} {
		messages := []*pb.SnapshotResponse{{Blob: state}, {Blob: hash[:], Version: "3.7.0"}}
		recv := func() (*pb.SnapshotResponse, error) {
			if len(messages) == 0 {
				return nil, io.EOF
			}
			m := messages[0]
			messages = messages[1:]
			return m, nil
		}
		disk := vfs.NewMem()
		if err := vfs.EnsureDir(disk, "/backups"); err != nil {
			t.Fatal(err)
		}
		_, err := saveSnapshot(vfs.NewFault(disk, func(op vfs.Op) error {
			if op.Kind == kind {
				return broken
			}
			return nil
		}), "/backups/s.db", recv)
		if names, _ := disk.ReadDir("/backups"); !errors.Is(err, broken) || len(names) != 0 {
			t.Errorf("%v fails: %v, and in the directory are %v", kind, err, names)
		}
	}
}
