package server

import (
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/ops"
	"github.com/musterhq/muster/core/vfs"
)

// deafHub hears nothing.
type deafHub struct{}

func (deafHub) Notify(int64, []mvcc.Event) {}
func (deafHub) Reset(int64)                {}

// serves fails the test unless what Validate let through is a member that
// starts, and starts again.
func serves(t *testing.T, cfg Config) {
	t.Helper()
	for _, u := range slices.Concat(cfg.ListenClientURLs, cfg.ListenPeerURLs, cfg.ListenMetricsURLs) {
		if _, err := url.Parse(u); err != nil {
			t.Fatalf("would listen on %q: %v", u, err)
		}
	}
	cfg.fill()
	nc, err := nodeConfig(&cfg, nil, new(ops.Instruments))
	if err != nil {
		t.Fatalf("validated, but: %v", err)
	}
	if nc.Tick <= 0 || nc.ElectionTicks < 5 {
		t.Fatalf("heartbeats every %v, elections after %d of them", nc.Tick, nc.ElectionTicks)
	}
	keep, err := cfg.retention()
	if err != nil || keep.Period < 0 || keep.Revisions < 0 {
		t.Fatalf("retention %+v, %v", keep, err)
	}
	if i := cfg.WatchProgressNotifyInterval; i < 0 || i+i/10 < 0 {
		t.Fatalf("progress every %v", i)
	}
	if nc.Join {
		return
	}
	nc.FS, nc.SegmentBytes, nc.Metrics = vfs.NewMem(), 1<<14, node.Metrics{}
	if strings.HasSuffix(nc.Dir, "/member") || strings.ContainsRune(nc.Dir, 0) {
		return // taken for etcd's directory; no name of a file
	}
	for range 2 {
		m, err := node.OpenMember(t.Context(), nc, func(*node.Member) node.Hub { return deafHub{} },
			func(first uint64) func() uint64 { return func() uint64 { first++; return first } })
		if err != nil {
			t.Fatalf("validated, but: %v\n%+v", err, nc)
		}
		if err := m.Release(); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzConfig gives arguments and environment, a line each, and a configuration
// file: they are refused, or make a member that starts.
func FuzzConfig(f *testing.F) {
	file := filepath.Join(f.TempDir(), "muster.yml")
	f.Add("--name=a\n--data-dir=/x", "MUSTER_LOG_LEVEL=debug\nETCD_X=1", "heartbeat-interval: 50\nlisten-client-urls: [http://127.0.0.1:1]\n")
	f.Add("-initial-cluster\ndefault=http://127.0.0.1:2380,b=http://[::1]:2380\n--initial-cluster-state=existing", "", "")
	f.Add("--listen-peer-urls=unix:///a,http://0.0.0.0:0\n--initial-advertise-peer-urls=http://a:1", "ETCD_INITIAL_CLUSTER=default=http://a:1", "name: [a, b]\nx:\n  y: 1\n")
	f.Add("--max-txn-ops=4294967296", "", "")
	f.Add("--max-learners=18446744073709551615", "", "")
	f.Add("--max-request-bytes=1\n--quota-backend-bytes=9223372036854775807", "", "")
	f.Add("--auto-compaction-retention=9223372036854775807", "", "")
	f.Add("--auto-compaction-mode=revision\n--auto-compaction-retention=9223372036854775807", "", "")
	f.Add("--watch-progress-notify-interval=2562047h\n--warning-unary-request-duration=-1s", "", "")
	f.Add("--election-timeout=50000\n--heartbeat-interval=1", "", "- 1\n- &a [*a]\n")
	f.Add("", "", "dns-zone: !!binary aGk=\n? {a: b}\n: c\n")
	f.Fuzz(func(t *testing.T, args, environ, yaml string) {
		if strings.Contains(strings.ToLower(args+environ), "config") {
			return // another file of this machine
		}
		var list []string
		if args != "" {
			list = strings.Split(args, "\n")
		}
		if yaml != "" {
			if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			list = append([]string{"--config-file=" + file}, list...)
		}
		cfg, _, _, err := parse(t, list, strings.Split(environ, "\n"))
		if err == nil {
			err = cfg.Validate()
		}
		if err == nil {
			serves(t, cfg)
		} else if err.Error() == "" {
			t.Fatal("refused without a word")
		}
	})
}

func TestLimitsThatNoStateCanHoldAreRefused(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*Config)
	}{
		{"--max-txn-ops", func(c *Config) { c.MaxTxnOps = math.MaxInt32 + 1 }},
		{"--max-learners", func(c *Config) { c.MaxLearners = math.MaxUint }},
		{"--auto-compaction-retention", func(c *Config) { c.AutoCompactionRetention = "9223372036854775807" }},
		{"--auto-compaction-retention", func(c *Config) { c.AutoCompactionRetention = "-9223372036854775808" }}, // 0 ns, times an hour
		{"--watch-progress-notify-interval", func(c *Config) { c.WatchProgressNotifyInterval = math.MaxInt64 }},
		{"--watch-progress-notify-interval", func(c *Config) { c.WatchProgressNotifyInterval = -1 }},
	} {
		cfg := Default()
		c.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want it to name %s", err, c.want)
		}
	}
	cfg := Default()
	cfg.MaxTxnOps, cfg.MaxLearners, cfg.WatchProgressNotifyInterval = math.MaxInt32, math.MaxInt32, 24*time.Hour
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	serves(t, cfg)
}
