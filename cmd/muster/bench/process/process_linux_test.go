package process

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestProcessorTimeGrowsWithWork(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 30*time.Millisecond; {
	}
	after, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if after <= before {
		t.Errorf("processor time went from %v to %v over work", before, after)
	}
}

func TestAnUnknownProcessIsAnError(t *testing.T) {
	const pid = 1 << 22 // above the kernel's largest
	if _, err := CPU(pid); err == nil {
		t.Error("it had processor time")
	}
	if _, err := MemoryOf(pid); err == nil {
		t.Error("it had memory")
	}
}

func TestMemoryIsThatOfTheProcess(t *testing.T) {
	m, err := MemoryOf(os.Getpid())
	if err != nil || m.Resident < 1<<20 || m.Peak < m.Resident/2 {
		t.Errorf("memory of this process: %+v, %v", m, err)
	}
}

func TestTheListenerOfAPortIsFound(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Logf("%s: %v", addr, err) // no IPv6 here
			continue
		}
		port := ln.Addr().(*net.TCPAddr).Port
		if pid, err := Listener(port); err != nil || pid != os.Getpid() {
			t.Errorf("listener of %s is %d, %v; want this process, %d", ln.Addr(), pid, err, os.Getpid())
		}
		ln.Close()
		if pid, err := Listener(port); !errors.Is(err, ErrNoListener) {
			t.Errorf("after closing, listener is %d, %v", pid, err)
		}
	}
}

func TestAChildStartsOnItsCore(t *testing.T) {
	cores, err := Cores()
	if err != nil || len(cores) == 0 {
		t.Fatalf("cores: %v, %v", cores, err)
	}
	last := cores[len(cores)-1]
	var out strings.Builder
	cmd := exec.Command("grep", "Cpus_allowed_list", "/proc/self/status")
	cmd.Stdout = &out
	if err := StartOn(cmd, last); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(out.String(), ":")
	if got, want := strings.TrimSpace(list), strconv.Itoa(last); got != want {
		t.Errorf("the child's cores are %q, want %q", got, want)
	}
	if now, err := Cores(); err != nil || len(now) != len(cores) {
		t.Errorf("this process's cores are now %v (%v), were %v", now, err, cores)
	}
}
