package server

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Validate reports everything that can't work, each with the flag's name and
// what to do about it.
func (c *Config) Validate() error {
	var errs []error
	bad := func(flag, format string, a ...any) {
		errs = append(errs, fmt.Errorf("--%s: "+format, append([]any{flag}, a...)...))
	}
	if c.Name == "" {
		bad("name", "is empty: give this member a name")
	}
	if strings.ContainsAny(c.Name, "=,") {
		bad("name", "%q contains '=' or ',', which --initial-cluster can't express: choose another name", c.Name)
	}
	for _, l := range []struct {
		flag string
		urls []string
		must bool
	}{
		{"listen-client-urls", c.ListenClientURLs, true},
		{"listen-peer-urls", c.ListenPeerURLs, true},
		{"advertise-client-urls", c.AdvertiseClientURLs, false},
		{"initial-advertise-peer-urls", c.InitialAdvertisePeerURLs, false},
		{"listen-metrics-urls", c.ListenMetricsURLs, false},
	} {
		if l.must && len(l.urls) == 0 {
			bad(l.flag, "is empty: give at least one URL, such as http://127.0.0.1:2379")
		}
		for _, u := range l.urls {
			if err := checkURL(u, strings.HasPrefix(l.flag, "listen-")); err != nil {
				bad(l.flag, "%w", err)
			}
		}
	}
	if len(c.AdvertiseClientURLs) == 0 && anyWildcard(c.ListenClientURLs) {
		bad("advertise-client-urls", "is needed when --listen-client-urls listens on every address: say at which one clients find this member")
	}
	if len(c.InitialAdvertisePeerURLs) == 0 && anyWildcard(c.ListenPeerURLs) {
		bad("initial-advertise-peer-urls", "is needed when --listen-peer-urls listens on every address: say at which one the others find this member")
	}
	if both := shared(c.ListenClientURLs, c.ListenPeerURLs); both != "" {
		bad("listen-peer-urls", "%s is in --listen-client-urls too: clients and peers need a port each", both)
	}
	for _, l := range [][]string{c.ListenClientURLs, c.ListenPeerURLs} {
		if both := shared(l, c.ListenMetricsURLs); both != "" {
			bad("listen-metrics-urls", "%s is taken by another listener: choose another port", both)
		}
	}
	if c.InitialClusterState != "new" && c.InitialClusterState != "existing" {
		bad("initial-cluster-state", "%q is neither \"new\" nor \"existing\"", c.InitialClusterState)
	}
	errs = append(errs, c.validateCluster()...)
	errs = append(errs, c.validateLimits()...)
	return errors.Join(errs...)
}

func (c *Config) validateCluster() []error {
	if c.InitialCluster == "" {
		return nil
	}
	members, err := parseCluster(c.InitialCluster)
	if err != nil {
		return []error{fmt.Errorf("--initial-cluster: %w", err)}
	}
	own, ok := members[c.Name]
	if !ok {
		return []error{fmt.Errorf("--initial-cluster: this member's name %q is not in it: add %s=<its peer URL>, or set --name to one of %s",
			c.Name, c.Name, strings.Join(slices.Sorted(keys(members)), ", "))}
	}
	if len(c.InitialAdvertisePeerURLs) > 0 && !slices.Equal(slices.Sorted(slices.Values(own)), slices.Sorted(slices.Values(c.InitialAdvertisePeerURLs))) {
		return []error{fmt.Errorf("--initial-cluster: has %s=%s but --initial-advertise-peer-urls is %s: make them equal",
			c.Name, strings.Join(own, ","), strings.Join(c.InitialAdvertisePeerURLs, ","))}
	}
	seen := map[string]string{}
	for name, urls := range members {
		for _, u := range urls {
			if err := checkURL(u, false); err != nil {
				return []error{fmt.Errorf("--initial-cluster: %s=%w", name, err)}
			}
			if other, dup := seen[u]; dup && other != name {
				return []error{fmt.Errorf("--initial-cluster: %s is given for %s and %s: each member needs its own", u, other, name)}
			}
			seen[u] = name
		}
	}
	return nil
}

// maxProgressInterval is a year: long enough, and far from where durations end.
const maxProgressInterval = 365 * 24 * time.Hour

func (c *Config) validateLimits() []error {
	var errs []error
	bad := func(flag, format string, a ...any) {
		errs = append(errs, fmt.Errorf("--%s: "+format, append([]any{flag}, a...)...))
	}
	if c.HeartbeatInterval <= 0 {
		bad("heartbeat-interval", "must be above 0")
	}
	if c.ElectionTimeout < 5*c.HeartbeatInterval {
		bad("election-timeout", "%v is less than five heartbeat intervals (%v): raise it, or lower --heartbeat-interval", c.ElectionTimeout, c.HeartbeatInterval)
	}
	if c.ElectionTimeout > 50*time.Second {
		bad("election-timeout", "%v is too long: at most 50000", c.ElectionTimeout)
	}
	if c.QuotaBackendBytes < 0 {
		bad("quota-backend-bytes", "must not be negative: 0 leaves it as the cluster has it, which is 2 GiB at first")
	}
	// What the cluster's settings cannot hold would be refused by every member
	// that reads it back.
	if c.MaxTxnOps > math.MaxInt32 {
		bad("max-txn-ops", "%d is above %d", c.MaxTxnOps, math.MaxInt32)
	}
	if c.MaxRequestBytes > 64<<20 {
		bad("max-request-bytes", "%d is above 64 MiB", c.MaxRequestBytes)
	}
	if c.MaxLearners > math.MaxInt32 {
		bad("max-learners", "%d is above %d", c.MaxLearners, math.MaxInt32)
	}
	if i := c.WatchProgressNotifyInterval; i < 0 || i > maxProgressInterval {
		bad("watch-progress-notify-interval", "%v is not between 0 and %v", i, maxProgressInterval)
	}
	if c.MaxConcurrentStreams == 0 {
		bad("max-concurrent-streams", "must be above 0")
	}
	if c.MaxPendingRequests == 0 || c.MaxPendingRequests > 1<<20 {
		bad("max-pending-requests", "%d is not between 1 and %d", c.MaxPendingRequests, 1<<20)
	}
	if c.Metrics != "basic" && c.Metrics != "extensive" {
		bad("metrics", "%q is neither \"basic\" nor \"extensive\"", c.Metrics)
	}
	if _, err := ParseLevel(c.LogLevel); err != nil {
		bad("log-level", "%w", err)
	}
	if c.LogFormat != "json" && c.LogFormat != "console" {
		bad("log-format", "%q is neither \"json\" nor \"console\"", c.LogFormat)
	}
	if _, err := c.retention(); err != nil {
		errs = append(errs, err)
	}
	if c.DNSListen != "" {
		if _, _, err := net.SplitHostPort(c.DNSListen); err != nil {
			bad("dns-listen", "%q is not host:port, such as 127.0.0.1:8600", c.DNSListen)
		}
	}
	return errs
}

// Retention is how much history automatic compaction keeps; the zero value
// keeps all.
type Retention struct {
	Period    time.Duration
	Revisions int64
}

func (c *Config) retention() (r Retention, err error) {
	text := c.AutoCompactionRetention
	n, numErr := strconv.ParseInt(text, 10, 64)
	switch c.AutoCompactionMode {
	case "revision":
		if numErr != nil || n < 0 {
			return r, fmt.Errorf("--auto-compaction-retention: %q is not a number of revisions, as mode revision needs", text)
		}
		r.Revisions = n
	case "periodic", "":
		if numErr == nil {
			if n < 0 || n > int64(math.MaxInt64/time.Hour) {
				return r, fmt.Errorf("--auto-compaction-retention: %q hours cannot be counted: 0 keeps all history", text)
			}
			r.Period = time.Duration(n) * time.Hour
		} else if r.Period, err = time.ParseDuration(text); err != nil {
			return r, fmt.Errorf("--auto-compaction-retention: %q is neither hours nor a duration such as 30m", text)
		}
		if r.Period < 0 {
			return r, fmt.Errorf("--auto-compaction-retention: %q is negative", text)
		}
	default:
		return r, fmt.Errorf("--auto-compaction-mode: %q is neither \"periodic\" nor \"revision\"", c.AutoCompactionMode)
	}
	return r, nil
}

// CheckPeerURL says what is wrong with a URL that a member is to be reached at by
// the others.
func CheckPeerURL(s string) error { return checkURL(s, false) }

// checkURL accepts what can be listened on or dialled today.
func checkURL(s string, listen bool) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" {
		return fmt.Errorf("%q is not a URL: write http://host:port", s)
	}
	switch u.Scheme {
	case "http":
	case "unix":
		if u.Host+u.Path == "" {
			return fmt.Errorf("%q names no socket: write unix:///path/to/socket", s)
		}
		return nil
	case "https", "unixs":
		return fmt.Errorf("%q: TLS is not supported yet: use http", s)
	default:
		return fmt.Errorf("%q: scheme %q is not supported: use http or unix", s, u.Scheme)
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		return fmt.Errorf("%q has no port: write http://host:port", s)
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 && !listen {
		return fmt.Errorf("%q: %q is not a port", s, port)
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("%q has more than a host and a port: write http://host:port", s)
	}
	// A name could resolve to another address after the next restart; etcd
	// refuses it too, but for localhost.
	if listen && host != "" && host != "localhost" && net.ParseIP(strings.SplitN(host, "%", 2)[0]) == nil {
		return fmt.Errorf("%q: listen on an IP address, not on a name", s)
	}
	return nil
}

func anyWildcard(urls []string) bool {
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil {
			continue
		}
		if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && (u.Hostname() == "" || ip != nil && ip.IsUnspecified()) {
			return true
		}
	}
	return false
}

// shared is a URL that stands in both lists, unless its port is left open.
func shared(a, b []string) string {
	for _, u := range a {
		if slices.Contains(b, u) && !strings.HasSuffix(u, ":0") {
			return u
		}
	}
	return ""
}

// parseCluster reads name=url,name=url; a name may come again for another URL.
func parseCluster(s string) (map[string][]string, error) {
	members := map[string][]string{}
	for _, part := range strings.Split(s, ",") {
		name, u, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "" || u == "" {
			return nil, fmt.Errorf("%q is not name=url", part)
		}
		members[name] = append(members[name], u)
	}
	return members, nil
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
