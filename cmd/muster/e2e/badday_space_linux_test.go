package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

// volume is a small file system of its own, seen from outside through the
// process that holds its mount namespace. It vanishes with that process.
type volume struct {
	Dir string
	in  *bufio.Writer
	out *bufio.Reader
}

func newVolume(t *testing.T, size string) *volume {
	t.Helper()
	at := t.TempDir()
	args := []string{"-m", "sh", "-c", `while read -r line; do eval "$line" 2>&1; echo "done $?"; done`}
	if os.Getuid() != 0 {
		args = append([]string{"-r"}, args...)
	}
	cmd := exec.Command("unshare", args...)
	cmd.SysProcAttr = program.WithParent()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("no mount namespace to be had (%v)", err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	v := &volume{Dir: filepath.Join("/proc", fmt.Sprint(cmd.Process.Pid), "root", at), in: bufio.NewWriter(stdin), out: bufio.NewReader(stdout)}
	if err := v.do("mount -t tmpfs -o size=" + size + " tmpfs " + at); err != nil {
		t.Skipf("no file system may be mounted here, not even in a namespace (%v)", err)
	}
	return v
}

// mount changes the file system's options.
func (v *volume) mount(t *testing.T, options string) {
	t.Helper()
	_, inside, _ := strings.Cut(v.Dir, "/root")
	if err := v.do("mount -o remount," + options + " " + inside); err != nil {
		t.Fatal(err)
	}
}

func (v *volume) do(command string) error {
	if _, err := v.in.WriteString(command + "\n"); err != nil {
		return err
	}
	if err := v.in.Flush(); err != nil {
		return err
	}
	said := ""
	for {
		line, err := v.out.ReadString('\n')
		if err != nil {
			return fmt.Errorf("%s: %w %s", command, err, said)
		}
		if line == "done 0\n" {
			return nil
		}
		if strings.HasPrefix(line, "done ") {
			return fmt.Errorf("%s: %s", command, said)
		}
		said += line
	}
}

func TestAFullDiskStopsTheMemberAndCostsNothingThatWasAcknowledged(t *testing.T) {
	v := newVolume(t, "150m")
	m := newMember(t, "m1")
	m.Dir = filepath.Join(v.Dir, "data")
	m.Start(t)
	cl := connect(t, m.Client)
	value := strings.Repeat("x", 1<<20)
	acked := 0
	for {
		if _, err := cl.Put(within(t, patience), fmt.Sprintf("k%04d", acked), value); err != nil {
			t.Logf("the put after %d MiB: %v", acked, err)
			break
		}
		if acked++; acked > 300 {
			t.Fatal("the disk doesn't get full")
		}
	}
	m.wait(t, patience)
	requireRefusal(t, result{m.Cmd.ProcessState.ExitCode(), "", m.Log()}, 1, "no space left on device", m.Dir, "make room")
	// Without room it says so again, and breaks nothing.
	refused(t, m, 1, "no space left on device", m.Dir)
	v.mount(t, "size=800m")
	m.Start(t)
	cl = connect(t, m.Client)
	r := get(t, cl, "k", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if len(r.Kvs) < acked || len(r.Kvs) > acked+1 {
		t.Errorf("%d keys are there, %d were acknowledged", len(r.Kvs), acked)
	}
	put(t, cl, "k", "goes on")
	if state, _ := m.Stop(t); !state.Success() && state.ExitCode() > 0 {
		t.Errorf("stop: %v", state)
	}
}

func TestAReadOnlyDiskIsRefusedAtStart(t *testing.T) {
	v := newVolume(t, "150m")
	m := newMember(t, "m1")
	m.Dir = filepath.Join(v.Dir, "data")
	v.mount(t, "ro")
	refused(t, m, 1, "read-only file system", m.Dir)
	v.mount(t, "rw")
	m.Start(t)
	put(t, connect(t, m.Client), "k", "v")
	m.Kill()
	v.mount(t, "ro")
	refused(t, m, 1, "read-only file system", m.Dir)
	v.mount(t, "rw")
	m.Start(t)
	if kv := get(t, connect(t, m.Client), "k").Kvs; len(kv) != 1 {
		t.Errorf("what was written before: %v", kv)
	}
}
