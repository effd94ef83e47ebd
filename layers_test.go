package muster_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/musterhq/muster/"

// layers says for each package which of ours it may import: the floors of
// ARCHITECTURE.md. A pattern ending in /... covers a folder. The first match
// in order decides. Tests may import anything.
var layers = []struct {
	pkg     string
	imports []string
	why     string
}{
	{"core/vfs", nil, "floor 0 stands on nothing of ours"},
	{"core/interval", nil, "floor 0 stands on nothing of ours"},
	{"core/pki", nil, "floor 0 stands on nothing of ours"},
	{"core/simbug", nil, "floor 0: any package of core may hold a hook for the simulator's bugs"},
	{"core/spec", nil, "the specification must not share code with what it specifies"},
	{"core/wal", []string{"core/vfs"}, "floor 1"},
	{"core/mvcc", []string{"core/interval"}, "floor 1: the store does no I/O"},
	{"core/lease", nil, "floor 1: time is an argument, storage somebody else's"},
	{"core/auth", []string{"core/interval"}, "floor 1"},
	{"core/membership", nil, "floor 1"},
	{"core/machine", []string{"core/mvcc", "core/lease", "core/auth", "core/membership", "core/interval"}, "the state machine must not know log, disk or network"},
	{"core/checkpoint", []string{"core/vfs", "core/mvcc", "core/lease", "core/membership", "core/machine"}, "floor 2: the state as a file"},
	{"core/watch", []string{"core/mvcc", "core/interval"}, "floor 3: fan-out knows events and history, nothing of raft"},
	{"core/replica", []string{"core/wal", "core/checkpoint", "core/vfs"}, "floor 3: the raft stepper"},
	{"core/transport", []string{"core/pki", "core/checkpoint"}, "floor 3: bytes between members"},
	{"core/node", []string{
		"core/vfs", "core/interval", "core/pki", "core/wal", "core/mvcc", "core/lease", "core/auth", "core/membership",
		"core/machine", "core/checkpoint", "core/watch", "core/replica", "core/transport",
	}, "floor 4 joins floors 0 to 3 and knows no gRPC"},
	{"core/rpc", []string{
		"core/node", "core/machine", "core/watch", "core/checkpoint", "core/interval",
		"core/mvcc", "core/lease", "core/auth", "core/membership",
	}, "floor 5: wire formats end here"},
	{"core/ops", nil, "floor 5 declares the interfaces it needs"},
	{"core/gateway", nil, "floor 5 declares the interfaces it needs"},
	{"core/keysv2", nil, "floor 5 declares the interfaces it needs"},
	{"core/console", nil, "floor 5 declares the interfaces it needs"},
	{"core/server", []string{"core/..."}, "floor 6 assembles core and hears of nothing above it"},
	{"core/simtest", []string{
		"core/node", "core/replica", "core/machine", "core/watch", "core/vfs", "core/spec", "core/wal",
		"core/checkpoint", "core/mvcc", "core/lease", "core/membership", "core/transport",
	}, "the simulator steps what the server runs"},
	{"sdk", nil, "users import the SDK: it must not bring the server along"},
	{"recipes/rpc", []string{"sdk", "recipes/..."}, "recipes never import core"},
	{"sdk/mustertest", []string{"sdk"}, "it starts the real binary for tests and links none of it"},
	{"recipes/...", []string{"sdk", "recipes/internal/..."}, "recipes stand on the SDK alone"},
	{"discovery", []string{"sdk"}, "discovery stands on the SDK alone"},
	{"discovery/...", []string{"discovery", "sdk"}, "discovery never imports core"},
	{"dnsserver/...", []string{"discovery/...", "dnsserver/...", "sdk"}, "the DNS server never imports core"},
	{"registrar/...", []string{"discovery/...", "registrar/...", "sdk"}, "the registrar never imports core"},
	{"examples/...", []string{"sdk", "recipes/...", "discovery/..."}, "examples are what a user would write"},
	{"internal/choices", nil, "what tests of all floors draw from stands on nothing of ours"},
	{"cmd/...", []string{"..."}, "the top wires everything"},
	{"", nil, "the root holds tests only"},
}

func matches(pattern, pkg string) bool {
	if base, ok := strings.CutSuffix(pattern, "..."); ok {
		return strings.HasPrefix(pkg+"/", base)
	}
	return pattern == pkg
}

func TestPackagesImportOnlyLowerFloors(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != "." && (strings.HasPrefix(name, ".") || name == "testdata") {
			return filepath.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); d.IsDir() && path != "." && err == nil {
			return filepath.SkipDir // a module of its own: etcd's server, to measure against
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		files++
		pkg := filepath.ToSlash(filepath.Dir(path))
		if pkg == "." {
			pkg = ""
		}
		i := slices.IndexFunc(layers, func(l struct {
			pkg     string
			imports []string
			why     string
		},
		) bool {
			return matches(l.pkg, pkg)
		})
		if i < 0 {
			t.Errorf("%s is on no floor: give package %s a line in layers_test.go and in ARCHITECTURE.md", path, pkg)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if strings.HasPrefix(imp, "go.etcd.io/etcd/server") || strings.HasPrefix(imp, "go.etcd.io/etcd/client/v3") {
				t.Errorf("%s imports %s: etcd's server and client never enter our binaries", path, imp)
			}
			ours, ok := strings.CutPrefix(imp, modulePath)
			if !ok || ours == pkg || ours == "core/simbug" && strings.HasPrefix(pkg, "core/") {
				continue // simbug is empty in every build but the simulator's
			}
			if !slices.ContainsFunc(layers[i].imports, func(p string) bool { return matches(p, ours) }) {
				t.Errorf("%s imports %s, which %s may not: %s", path, ours, pkg, layers[i].why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Fatalf("looked at %d files only: the walk is broken", files)
	}
}
