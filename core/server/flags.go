package server

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/pflag"

	"github.com/musterhq/muster/core/machine"
)

// Flags describes a Config as flags. The same table reads the environment and
// the configuration file, so that every setting has one name everywhere:
// --data-dir, MUSTER_DATA_DIR, data-dir:.
type Flags struct {
	set  *pflag.FlagSet
	file string
}

// urlList is a comma-separated list; giving it replaces what was there.
type urlList struct{ to *[]string }

func (l urlList) String() string {
	if l.to == nil {
		return ""
	}
	return strings.Join(*l.to, ",")
}

func (l urlList) Set(s string) error {
	*l.to = nil
	for _, u := range strings.Split(s, ",") {
		if u = strings.TrimSpace(u); u != "" {
			*l.to = append(*l.to, u)
		}
	}
	return nil
}

func (l urlList) Type() string { return "urls" }

// millis is a duration given in whole milliseconds, as etcd's timing flags.
type millis struct{ to *time.Duration }

func (m millis) String() string {
	if m.to == nil {
		return ""
	}
	return fmt.Sprint(m.to.Milliseconds())
}

func (m millis) Set(s string) error {
	var n uint32
	if _, err := fmt.Sscanf(s, "%d", &n); err != nil || fmt.Sprint(n) != s {
		return fmt.Errorf("%q is not a number of milliseconds", s)
	}
	*m.to = time.Duration(n) * time.Millisecond
	return nil
}

func (m millis) Type() string { return "milliseconds" }

// streamCount takes etcd's default, which is beyond what 32 bits of a stream
// window make sense of, for "no limit of mine".
type streamCount struct{ to *uint32 }

func (n streamCount) String() string {
	if n.to == nil {
		return ""
	}
	return fmt.Sprint(*n.to)
}

func (n streamCount) Set(s string) error {
	var v uint64
	if _, err := fmt.Sscanf(s, "%d", &v); err != nil || fmt.Sprint(v) != s || v == 0 || v > math.MaxUint32 {
		return fmt.Errorf("%q is not a number between 1 and %d", s, uint32(math.MaxUint32))
	}
	*n.to = uint32(v)
	return nil
}

func (n streamCount) Type() string { return "uint32" }

// AddFlags puts every setting on fs, with c's present values as defaults.
func (c *Config) AddFlags(fs *pflag.FlagSet) *Flags {
	f := &Flags{set: fs}
	first := machine.DefaultSettings()
	c.AddFoundingFlags(fs)
	fs.Var(urlList{&c.ListenClientURLs}, "listen-client-urls", "where clients are served")
	fs.Var(urlList{&c.AdvertiseClientURLs}, "advertise-client-urls", "where clients find this member (default: the listening URLs)")
	fs.Var(urlList{&c.ListenPeerURLs}, "listen-peer-urls", "where other members are heard")
	fs.Var(urlList{&c.ListenMetricsURLs}, "listen-metrics-urls", "where /metrics and /health are served besides the client port")
	fs.StringVar(&c.InitialClusterState, "initial-cluster-state", c.InitialClusterState, "new to found a cluster, existing to join one (half of its voters must answer)")
	fs.Var(millis{&c.HeartbeatInterval}, "heartbeat-interval", "milliseconds between a leader's heartbeats")
	fs.Var(millis{&c.ElectionTimeout}, "election-timeout", "milliseconds without a leader until an election")
	fs.Int64Var(&c.QuotaBackendBytes, "quota-backend-bytes", c.QuotaBackendBytes, clusterwide("how much data, history included, before writes are refused", first.Quota))
	fs.UintVar(&c.MaxTxnOps, "max-txn-ops", c.MaxTxnOps, clusterwide("operations allowed in a txn", first.MaxTxnOps))
	fs.UintVar(&c.MaxRequestBytes, "max-request-bytes", c.MaxRequestBytes, clusterwide("bytes allowed in a request", first.MaxRequestBytes))
	fs.Var(streamCount{&c.MaxConcurrentStreams}, "max-concurrent-streams", "calls a client connection may have open at a time")
	fs.UintVar(&c.MaxPendingRequests, "max-pending-requests", c.MaxPendingRequests, "writes this member takes on at a time; more are refused as \"too many requests\"")
	fs.BoolVar(&c.StrictReconfigCheck, "strict-reconfig-check", c.StrictReconfigCheck, "refuse membership changes that could cost the quorum")
	fs.UintVar(&c.MaxLearners, "max-learners", c.MaxLearners, clusterwide("learners the cluster may have at a time", first.MaxLearners))
	fs.StringVar(&c.AutoCompactionMode, "auto-compaction-mode", c.AutoCompactionMode, "periodic or revision")
	fs.StringVar(&c.AutoCompactionRetention, "auto-compaction-retention", c.AutoCompactionRetention, "history kept: a duration or hours, or a number of revisions (0: all)")
	fs.DurationVar(&c.WatchProgressNotifyInterval, "watch-progress-notify-interval", c.WatchProgressNotifyInterval, "how often idle watchers that ask for it hear where they stand")
	fs.DurationVar(&c.WarningUnaryRequestDuration, "warning-unary-request-duration", c.WarningUnaryRequestDuration, "how long a request may take before it is logged")
	fs.StringVar(&c.Metrics, "metrics", c.Metrics, "basic, or extensive to add latency histograms per method")
	fs.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error")
	fs.StringVar(&c.LogFormat, "log-format", c.LogFormat, "json or console")
	fs.BoolVar(&c.EnablePprof, "enable-pprof", c.EnablePprof, "serve Go's profiles under /debug/pprof/ on the client port")
	fs.BoolVar(&c.UnsafeNoFsync, "unsafe-no-fsync", c.UnsafeNoFsync, "acknowledge writes before they are on disk: for tests only, loses data")
	fs.StringVar(&c.DNSListen, "dns-listen", c.DNSListen, "where DNS is answered, UDP and TCP (empty: nowhere)")
	fs.StringVar(&c.DNSZone, "dns-zone", c.DNSZone, "the zone DNS answers for")
	fs.StringVar(&f.file, "config-file", "", "YAML file with the same names as the flags")
	for name, why := range acceptedOnly {
		fs.String(name, "", "accepted for etcd's sake: "+why)
		fs.Lookup(name).Hidden = true
		// A boolean of etcd's may stand bare.
		fs.Lookup(name).NoOptDefVal = "true"
	}
	fs.Lookup("snapshot-count").NoOptDefVal = ""
	return f
}

// clusterwide is the help for a setting that all members have in common.
func clusterwide(what string, first int64) string {
	return fmt.Sprintf("%s; a leader's flag counts for the whole cluster (0: as it was, at first %d)", what, first)
}

// AddFoundingFlags puts those settings on fs that a data directory is founded
// with: of what founds one without starting a member they are all.
func (c *Config) AddFoundingFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Name, "name", c.Name, "this member's name")
	fs.StringVar(&c.DataDir, "data-dir", c.DataDir, "where the data lives (default <name>.muster in the working directory)")
	fs.Var(urlList{&c.InitialAdvertisePeerURLs}, "initial-advertise-peer-urls", "where other members find this one (default: --listen-peer-urls, else "+strings.Join(c.ListenPeerURLs, ",")+")")
	fs.StringVar(&c.InitialCluster, "initial-cluster", c.InitialCluster, "the founding members, name=peer-url,… (default: this member alone)")
	fs.StringVar(&c.InitialClusterToken, "initial-cluster-token", c.InitialClusterToken, "keeps clusters founded with equal URLs apart")
}

// acceptedOnly are settings of etcd's that change nothing here and harm
// nothing either; start scripts pass them.
var acceptedOnly = map[string]string{
	"snapshot-count":            "a checkpoint is due by bytes of log",
	"snapshot-catchup-entries":  "the log kept behind a checkpoint is counted in bytes",
	"max-snapshots":             "two checkpoints are kept",
	"max-wals":                  "the log is kept back to the older checkpoint",
	"compaction-batch-limit":    "compaction runs between batches of writes",
	"compaction-sleep-interval": "compaction runs between batches of writes",
	"pre-vote":                  "it is always on",
	"logger":                    "there is one",
}

// Resolve fills what no flag said from the environment, then from the
// configuration file. environ is os.Environ()'s. It returns warnings about
// variables that look meant for this program and are none of its settings.
func (f *Flags) Resolve(environ []string) (warnings []string, err error) {
	given := map[string]string{}
	f.set.Visit(func(fl *pflag.Flag) { given[fl.Name] = "--" + fl.Name })
	env := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && v != "" {
			env[k] = v
		}
	}
	var errs []error
	known := map[string]bool{}
	f.set.VisitAll(func(fl *pflag.Flag) {
		suffix := strings.ToUpper(strings.ReplaceAll(fl.Name, "-", "_"))
		for _, name := range []string{"MUSTER_" + suffix, "ETCD_" + suffix} {
			known[name] = true
			v, ok := env[name]
			if !ok || given[fl.Name] != "" {
				continue
			}
			given[fl.Name] = name
			if err := f.set.Set(fl.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s=%q: %w", name, v, cause(err)))
			}
		}
	})
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if (strings.HasPrefix(name, "ETCD_") || strings.HasPrefix(name, "MUSTER_")) && !known[name] {
			warnings = append(warnings, "unrecognized environment variable "+name)
		}
	}
	if f.file != "" {
		errs = append(errs, f.readFile(given))
	}
	return warnings, errors.Join(errs...)
}

// cause unwraps pflag's own account of which flag it was.
func cause(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

func (f *Flags) readFile(given map[string]string) error {
	b, err := os.ReadFile(f.file)
	if err != nil {
		return fmt.Errorf("--config-file: %w", err)
	}
	var settings map[string]any
	if err := yaml.Unmarshal(b, &settings); err != nil {
		return fmt.Errorf("--config-file %s: %s", f.file, strings.SplitN(err.Error(), "\n", 2)[0])
	}
	var errs []error
	for name, v := range settings {
		fl := f.set.Lookup(name)
		if fl == nil || name == "config-file" || name == "help" || name == "version" {
			errs = append(errs, fmt.Errorf("--config-file %s: unknown field %q: remove it, or see `muster server --help` for the names", f.file, name))
			continue
		}
		if given[name] != "" || v == nil {
			continue
		}
		s, err := scalar(v)
		if err == nil {
			err = f.set.Set(name, s)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("--config-file %s: field %q: %w", f.file, name, cause(err)))
		}
	}
	return errors.Join(errs...)
}

// scalar turns a YAML value into what the flag of that name would be given.
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			s, err := scalar(e)
			if err != nil {
				return "", err
			}
			parts[i] = s
		}
		return strings.Join(parts, ","), nil
	case map[string]any:
		return "", errors.New("expected a value, found a section")
	default:
		return fmt.Sprint(v), nil
	}
}

// Given tells whether the setting came from a flag, the environment or the
// file rather than being the default. Call it after Resolve.
func (f *Flags) Given(name string) bool { return f.set.Changed(name) }

// SingleDash rewrites etcd's -flag form to --flag for every flag of fs.
func SingleDash(args []string, fs *pflag.FlagSet) []string {
	out := make([]string, len(args))
	for i, a := range args {
		if len(a) > 2 && a[0] == '-' && a[1] != '-' {
			if name, _, _ := strings.Cut(a[1:], "="); len(name) > 1 && fs.Lookup(name) != nil {
				a = "-" + a
			}
		}
		out[i] = a
	}
	return out
}
