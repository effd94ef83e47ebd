package chaos

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

// muster is the program under test; TestMain sets it once.
var muster string

// What a run is asked for; see doc.go.
var (
	stormTime = flag.Duration("chaos", 0, "how long TestStorm goes on (default: a short while)")
	killCount = flag.Int("kills", 0, "how often TestKills kills (default: a few times)")
	onlyFlag  = flag.String("faults", "", "which kinds of fault TestStorm deals: a regular expression (default: all)")
	keepFlag  = flag.Bool("keep", false, "keep the members' logs and data after a success, too")
	seedFlag  = flag.Uint64("seed", 0, "seed of the plan (default: of the moment)")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if testing.Short() {
		fmt.Println("chaos: left out with -short")
		return 0
	}
	// etcd's client reports each retry otherwise, and there will be thousands.
	if err := os.Setenv("ETCD_CLIENT_DEBUG", "fatal"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "muster-chaos-build-")
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
		fmt.Fprintf(os.Stderr, "chaos: processes are left behind: %v\n", left)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		code = 1
	}
	return code
}

// seed is the one that was asked for, or a new one.
func seed() uint64 {
	if *seedFlag != 0 {
		return *seedFlag
	}
	return uint64(time.Now().UnixNano()) % 1_000_000
}
