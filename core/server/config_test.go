package server

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// parse reads settings the way the command does.
func parse(t *testing.T, args, environ []string) (Config, *Flags, []string, error) {
	t.Helper()
	cfg := Default()
	fs := pflag.NewFlagSet("server", pflag.ContinueOnError)
	f := cfg.AddFlags(fs)
	if err := fs.Parse(SingleDash(args, fs)); err != nil {
		return cfg, f, nil, err
	}
	warnings, err := f.Resolve(environ)
	return cfg, f, warnings, err
}

func TestFlagBeatsEnvironmentBeatsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "muster.yml")
	err := os.WriteFile(file, []byte(`
name: from-file
data-dir: /file
heartbeat-interval: 50
election-timeout: 2000
listen-client-urls: [http://127.0.0.1:1, http://127.0.0.1:2]
unsafe-no-fsync: true
snapshot-count: 5000
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cfg, f, warnings, err := parse(t,
		[]string{"--name=from-flag", "--config-file", file},
		[]string{"MUSTER_NAME=from-env", "MUSTER_DATA_DIR=/env", "ETCD_DATA_DIR=/etcd", "ETCD_ELECTION_TIMEOUT=3000", "ETCD_LOG_LEVEL=", "ETCD_VERIFY=all", "HOME=/"})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Name != "from-flag" || cfg.DataDir != "/env" || cfg.ElectionTimeout != 3*time.Second || cfg.HeartbeatInterval != 50*time.Millisecond {
		t.Errorf("got name %q, data-dir %q, election %v, heartbeat %v", cfg.Name, cfg.DataDir, cfg.ElectionTimeout, cfg.HeartbeatInterval)
	}
	if !slices.Equal(cfg.ListenClientURLs, []string{"http://127.0.0.1:1", "http://127.0.0.1:2"}) || !cfg.UnsafeNoFsync {
		t.Errorf("from the file: %v, %v", cfg.ListenClientURLs, cfg.UnsafeNoFsync)
	}
	if !slices.Equal(warnings, []string{"unrecognized environment variable ETCD_VERIFY"}) {
		t.Errorf("warnings: %q", warnings)
	}
	if !f.Given("data-dir") || f.Given("dns-listen") || f.Given("log-level") {
		t.Error("Given tells defaults and choices apart wrongly")
	}
}

func TestFlagsTakeEtcdsForms(t *testing.T) {
	cfg, _, _, err := parse(t, []string{"-name", "x", "-data-dir=/d", "--unsafe-no-fsync=false", "--snapshot-count", "100", "--listen-client-urls", "http://127.0.0.1:1,http://127.0.0.1:2"}, nil)
	if err != nil || cfg.Name != "x" || cfg.DataDir != "/d" || len(cfg.ListenClientURLs) != 2 {
		t.Errorf("%+v, %v", cfg, err)
	}
	if cfg, _, _, err = parse(t, []string{"--max-concurrent-streams=4294967295", "--unsafe-no-fsync", "--pre-vote"}, nil); err != nil || cfg.MaxConcurrentStreams != 1<<32-1 || !cfg.UnsafeNoFsync {
		t.Errorf("%d, %v", cfg.MaxConcurrentStreams, err)
	}
}

func TestWrongSettingsNameTheirSource(t *testing.T) {
	file := filepath.Join(t.TempDir(), "muster.yml")
	if err := os.WriteFile(file, []byte("naem: x\nheartbeat-interval: soon\nclient-transport-security:\n  cert-file: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, env []string
		want      []string
	}{
		{[]string{"--cert-file=x"}, nil, []string{"--cert-file"}},
		{[]string{"--heartbeat-interval=1s"}, nil, []string{"heartbeat-interval", "milliseconds"}},
		{nil, []string{"ETCD_ELECTION_TIMEOUT=x"}, []string{"ETCD_ELECTION_TIMEOUT"}},
		{[]string{"--config-file=" + file}, nil, []string{`"naem"`, `"heartbeat-interval"`, `"client-transport-security"`, "remove it"}},
		{[]string{"--config-file=/nowhere"}, nil, []string{"--config-file", "/nowhere"}},
	} {
		_, _, _, err := parse(t, c.args, c.env)
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%v %v: %v, want it to name %s", c.args, c.env, err, w)
			}
		}
	}
}

func TestValidateNamesTheFlagAndTheRemedy(t *testing.T) {
	ok := Default()
	if err := ok.Validate(); err != nil {
		t.Fatalf("the defaults: %v", err)
	}
	for _, c := range []struct {
		change func(*Config)
		want   []string
	}{
		{func(c *Config) { c.Name = "" }, []string{"--name", "give"}},
		{func(c *Config) { c.Name = "a=b" }, []string{"--name", "choose another"}},
		{func(c *Config) { c.ListenClientURLs = nil }, []string{"--listen-client-urls", "at least one"}},
		{func(c *Config) { c.ListenClientURLs = []string{"127.0.0.1:2379"} }, []string{"--listen-client-urls", "http://host:port"}},
		{func(c *Config) { c.ListenClientURLs = []string{"https://127.0.0.1:2379"} }, []string{"TLS is not supported yet"}},
		{func(c *Config) { c.ListenPeerURLs = []string{"https://127.0.0.1:2380"} }, []string{"--listen-peer-urls", "TLS is not supported yet"}},
		{func(c *Config) { c.ListenClientURLs = []string{"http://example.com:2379"} }, []string{"IP address"}},
		{func(c *Config) { c.ListenClientURLs = []string{"http://127.0.0.1"} }, []string{"has no port"}},
		{func(c *Config) { c.ListenClientURLs = []string{"http://127.0.0.1:2379/x"} }, []string{"more than a host and a port"}},
		{func(c *Config) { c.ListenClientURLs = []string{"ftp://127.0.0.1:2379"} }, []string{`"ftp"`}},
		{func(c *Config) { c.ListenClientURLs = []string{"http://0.0.0.0:2379"} }, []string{"--advertise-client-urls", "is needed"}},
		{func(c *Config) { c.ListenPeerURLs = []string{"http://[::]:2380"} }, []string{"--initial-advertise-peer-urls", "is needed"}},
		{func(c *Config) { c.ListenPeerURLs = c.ListenClientURLs }, []string{"--listen-peer-urls", "a port each"}},
		{func(c *Config) { c.ListenMetricsURLs = c.ListenClientURLs }, []string{"--listen-metrics-urls", "choose another"}},
		{func(c *Config) { c.InitialCluster = "b=http://127.0.0.1:1" }, []string{"--initial-cluster", `"default"`, "--name to one of b"}},
		{func(c *Config) { c.InitialCluster = "default" }, []string{"--initial-cluster", "name=url"}},
		{func(c *Config) {
			c.InitialCluster = "default=http://127.0.0.1:1"
			c.InitialAdvertisePeerURLs = []string{"http://127.0.0.1:2"}
		}, []string{"--initial-cluster", "make them equal"}},
		{func(c *Config) { c.InitialCluster = "default=http://127.0.0.1:1,b=http://127.0.0.1:1" }, []string{"each member needs its own"}},
		{func(c *Config) { c.InitialClusterState = "old" }, []string{"--initial-cluster-state"}},
		{func(c *Config) { c.ElectionTimeout = 400 * time.Millisecond }, []string{"--election-timeout", "--heartbeat-interval"}},
		{func(c *Config) { c.QuotaBackendBytes = -1 }, []string{"--quota-backend-bytes"}},
		{func(c *Config) { c.AutoCompactionMode = "hourly" }, []string{"--auto-compaction-mode"}},
		{func(c *Config) { c.AutoCompactionRetention = "soon" }, []string{"--auto-compaction-retention"}},
		{func(c *Config) { c.AutoCompactionMode, c.AutoCompactionRetention = "revision", "1h" }, []string{"--auto-compaction-retention", "revision"}},
		{func(c *Config) { c.LogLevel = "loud" }, []string{"--log-level"}},
		{func(c *Config) { c.LogFormat = "xml" }, []string{"--log-format"}},
		{func(c *Config) { c.Metrics = "all" }, []string{"--metrics"}},
		{func(c *Config) { c.DNSListen = "8600" }, []string{"--dns-listen", "host:port"}},
	} {
		cfg := Default()
		c.change(&cfg)
		err := cfg.Validate()
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("got %v, want it to say %q", err, w)
			}
		}
	}
}

func TestWhatIsLeftOpenFollowsFromTheRest(t *testing.T) {
	c := Default()
	c.Name = "n1"
	c.ListenPeerURLs = []string{"http://127.0.0.1:5", "http://127.0.0.1:6"}
	c.fill()
	if c.DataDir != "n1.muster" || c.InitialCluster != "n1=http://127.0.0.1:5,n1=http://127.0.0.1:6" || c.AdvertiseClientURLs[0] != defaultClientURL {
		t.Errorf("%q %q %q", c.DataDir, c.InitialCluster, c.AdvertiseClientURLs)
	}
}

func TestAMemberThatIsToldNothingIsFoundedWhereItListens(t *testing.T) {
	peer := Default().ListenPeerURLs
	for _, c := range []struct {
		name           string
		peers          []string
		cluster        string
		wantDir        string
		wantName, want string
	}{
		{"default", nil, "", "default.muster", "default", peer[0]},
		{"m1", nil, "", "m1.muster", "m1", peer[0]},
		{"m1", []string{"http://a:1"}, "", "m1.muster", "m1", "http://a:1"},
		{"m1", nil, "m1=unix:///a,m2=http://b:1", "m1.muster", "m1", "unix:///a"},
	} {
		cfg := Default()
		cfg.Name, cfg.InitialAdvertisePeerURLs, cfg.InitialCluster = c.name, c.peers, c.cluster
		n, err := cfg.Founding()
		if err != nil || n.Name != c.wantName || n.Dir != c.wantDir || n.Token != cfg.InitialClusterToken || !slices.Equal(n.InitialCluster[c.wantName], []string{c.want}) {
			t.Errorf("%+v: %q %q %q %v, %v", c, n.Name, n.Dir, n.Token, n.InitialCluster, err)
		}
	}
	cfg := Default()
	cfg.InitialCluster = "default=ftp://a:1"
	if _, err := cfg.Founding(); err == nil || !strings.Contains(err.Error(), "--initial-cluster") || !strings.Contains(err.Error(), `"ftp" is not supported`) {
		t.Errorf("ftp: %v", err)
	}
}

func TestRetention(t *testing.T) {
	for in, want := range map[[2]string]Retention{
		{"periodic", "0"}:    {},
		{"periodic", "2"}:    {Period: 2 * time.Hour},
		{"periodic", "30m"}:  {Period: 30 * time.Minute},
		{"revision", "1000"}: {Revisions: 1000},
	} {
		c := Config{AutoCompactionMode: in[0], AutoCompactionRetention: in[1]}
		if got, err := c.retention(); err != nil || got != want {
			t.Errorf("%v: %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestLogLinesHaveEtcdsForm(t *testing.T) {
	var out bytes.Buffer
	l, err := NewLogger(&out, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	l.Info("not shown")
	l.With("who", "me").Warn("shown", "took", 1500*time.Millisecond)
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%q: %v", out.String(), err)
	}
	ts, _ := line["ts"].(string)
	if _, err := time.Parse("2006-01-02T15:04:05.999999Z0700", ts); err != nil {
		t.Error(err)
	}
	delete(line, "ts")
	if caller, _ := line["caller"].(string); !strings.HasPrefix(caller, "server/config_test.go:") {
		t.Errorf("caller %q", caller)
	}
	if line["level"] != "warn" || line["msg"] != "shown" || line["took"] != "1.5s" || line["who"] != "me" || len(line) != 5 {
		t.Errorf("%v", line)
	}
	out.Reset()
	if l, err = NewLogger(&out, "debug", "console"); err != nil {
		t.Fatal(err)
	}
	l.Log(t.Context(), slog.LevelDebug, "text")
	if !strings.Contains(out.String(), "level=debug") || !strings.Contains(out.String(), "msg=text") {
		t.Errorf("console: %q", out.String())
	}
}
