package program

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Binary names a program to test instead of one that is built.
const Binary = "MUSTER_E2E_BINARY"

// Build compiles the program into dir as it is released, and returns its path.
func Build(dir string) (string, error) {
	if path := os.Getenv(Binary); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(dir, "muster")
	cmd := exec.Command("go", "build", "-o", path, "github.com/musterhq/muster/cmd/muster")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build muster: %w\n%s", err, out)
	}
	return path, nil
}

// Children are the processes that this one started and that still exist,
// zombies included. Without /proc there is no telling.
func Children() []string {
	var found []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // gone meanwhile
		}
		// pid (name) state ppid …; the name may hold anything.
		stat := string(b)
		fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
		if len(fields) > 1 && fields[1] == fmt.Sprint(os.Getpid()) {
			found = append(found, strings.TrimSpace(stat[:strings.LastIndexByte(stat, ')')+1]))
		}
	}
	return found
}
