package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

// inside is set for the copy of the test that runs in the sandbox.
const inside = "MUSTER_CHAOS_INSIDE"

// sandbox runs a test in a copy of this program that has namespaces of its own
// for processes, mounts and the network. It is process 1 there: whatever way it
// ends, by SIGKILL even, the kernel ends all that it has started and takes its
// devices, mounts and namespaces away. It returns true inside.
func sandbox(t *testing.T, args ...string) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		if err := furnish(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if err := possible(); err != nil {
		if *stormTime == 0 {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", append([]string{"-test.run=^" + t.Name() + "$", "-test.timeout=0"}, args...)...)
	cmd.Env = append(os.Environ(), inside+"=1", program.Binary+"="+muster)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		t.Fatalf("chaos needs namespaces of its own: %v; run it as root", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals: // it cleans up and ends
			_ = cmd.Process.Signal(s)
		case err := <-ended:
			if err != nil {
				t.Fatalf("in the sandbox: %v", err)
			}
			return false
		}
	}
}

// possible tells what is missing.
func possible() error {
	for tool, pkg := range map[string]string{"ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("chaos needs the command %s: apt-get install %s", tool, pkg)
		}
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("chaos needs network devices of its own (%w): run it as root, on a kernel with CONFIG_TUN", err)
	}
	return f.Close()
}

// furnish makes the sandbox's mounts its own.
func furnish() error {
	return errors.Join(
		os.NewSyscallError("make mounts private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")),
		os.NewSyscallError("mount /proc", unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")),
		os.NewSyscallError("mount /run", unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m")),
		os.Mkdir("/run/netns", 0o755),
	)
}

// volume is a file system of its own, as small as one likes. It vanishes with
// the sandbox.
type volume struct{ dir string }

// volumeSize is enough for a log between checkpoints, and what is kept of it.
const volumeSize = 2 << 30

func newVolume(t *testing.T) volume {
	t.Helper()
	v := volume{dir: t.TempDir()}
	if err := unix.Mount("tmpfs", v.dir, "tmpfs", 0, fmt.Sprintf("size=%d", volumeSize)); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(v.dir, unix.MNT_DETACH) })
	return v
}

// fill leaves no more room than is used.
func (v volume) fill() error {
	var st unix.Statfs_t
	if err := unix.Statfs(v.dir, &st); err != nil {
		return err
	}
	return v.resize(int64(st.Blocks-st.Bfree) * st.Bsize)
}

func (v volume) resize(bytes int64) error {
	return unix.Mount("tmpfs", v.dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", bytes))
}
