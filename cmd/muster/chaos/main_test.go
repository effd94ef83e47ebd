package chaos

import (
	"flag"
	"os"
	"testing"
	"time"

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
	os.Exit(program.Run(m, "chaos", &muster))
}

// seed is the one that was asked for, or a new one.
func seed() uint64 {
	if *seedFlag != 0 {
		return *seedFlag
	}
	return uint64(time.Now().UnixNano()) % 1_000_000
}
