package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

// muster is the program under test; TestMain sets it once.
var muster string

func TestMain(m *testing.M) {
	if spec := os.Getenv(recipeWorkerEnv); spec != "" {
		os.Exit(recipeWorker(spec)) // a client process of the recipes' tests
	}
	if spec := os.Getenv(floodEnv); spec != "" {
		os.Exit(floodWorker(spec)) // the crowd of the overload tests
	}
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if testing.Short() {
		fmt.Println("e2e: left out with -short")
		return 0
	}
	// etcd's client reports each retry otherwise, and there will be thousands.
	if err := os.Setenv("ETCD_CLIENT_DEBUG", "fatal"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "muster-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if muster, err = program.Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if left := program.Children(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "e2e: processes are left behind: %v\n", left)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	return code
}

// tool finds a program of others. Without it nothing is proved, so that is a
// failure and not a skip.
func tool(t *testing.T, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is needed: apt-get install %s (.ci/run does)", name, debianPackage)
	}
	return path
}
