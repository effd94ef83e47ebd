package e2e

import (
	"flag"
	"os"
	"os/exec"
	"testing"

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
	os.Exit(program.Run(m, "e2e", &muster))
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
