package program

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Run is what TestMain of a package does that tests the program: it builds it,
// puts its path into binary, runs the tests and holds them to leaving neither
// processes nor goroutines behind. It returns the exit code.
func Run(m *testing.M, name string, binary *string) int {
	complain := func(format string, args ...any) int {
		fmt.Fprintf(os.Stderr, name+": "+format+"\n", args...)
		return 1
	}
	if testing.Short() {
		fmt.Println(name + ": left out with -short")
		return 0
	}
	// etcd's client reports each retry otherwise, and there will be thousands.
	if err := os.Setenv("ETCD_CLIENT_DEBUG", "fatal"); err != nil {
		return complain("%v", err)
	}
	dir, err := os.MkdirTemp("", "muster-"+name+"-")
	if err != nil {
		return complain("%v", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // a few megabytes in the temporary folder
	if *binary, err = Build(dir); err != nil {
		return complain("%v", err)
	}
	code := m.Run()
	if left := Children(); len(left) > 0 {
		code = complain("processes are left behind: %v", left)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		code = complain("%v", err)
	}
	return code
}
