package server

import (
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// ParseLevel reads etcd's level names.
func ParseLevel(s string) (slog.Level, error) {
	switch s {
	case "debug":
		return slog.LevelDebug, nil
	case "info", "":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error", "dpanic", "panic", "fatal":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%q is none of debug, info, warn, error", s)
}

// NewLogger writes to w in etcd's form: one JSON object a line with level, ts,
// caller and msg, or text if format is "console".
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	l, err := ParseLevel(level)
	if err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: l, AddSource: true, ReplaceAttr: etcdForm}
	if format == "console" {
		return slog.New(slog.NewTextHandler(w, opts)), nil
	}
	return slog.New(slog.NewJSONHandler(w, opts)), nil
}

const timeForm = "2006-01-02T15:04:05.000000Z0700"

// etcdForm renames slog's own fields and writes durations as people read them.
func etcdForm(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 {
		switch v := a.Value.Any().(type) {
		case time.Time:
			if a.Key == slog.TimeKey {
				return slog.String("ts", v.Format(timeForm))
			}
		case slog.Level:
			if a.Key == slog.LevelKey {
				return slog.String("level", strings.ToLower(v.String()))
			}
		case *slog.Source:
			if a.Key == slog.SourceKey && v != nil {
				return slog.String("caller", caller(v))
			}
		}
	}
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().String())
	}
	return a
}

// caller is folder/file.go:line.
func caller(s *slog.Source) string {
	dir, file := filepath.Split(s.File)
	return fmt.Sprintf("%s/%s:%d", filepath.Base(dir), file, s.Line)
}

// startAttrs is the start-up line: the whole configuration under etcd's names.
func (c *Config) startAttrs(versionLine string) []any {
	return []any{
		"etcd-version", versionLine, "go-version", runtime.Version(), "go-os", runtime.GOOS, "go-arch", runtime.GOARCH,
		"name", c.Name, "data-dir", c.DataDir,
		"heartbeat-interval", c.HeartbeatInterval, "election-timeout", c.ElectionTimeout,
		"initial-advertise-peer-urls", c.InitialAdvertisePeerURLs, "listen-peer-urls", c.ListenPeerURLs,
		"advertise-client-urls", c.AdvertiseClientURLs, "listen-client-urls", c.ListenClientURLs,
		"listen-metrics-urls", c.ListenMetricsURLs,
		"initial-cluster", c.InitialCluster, "initial-cluster-state", c.InitialClusterState, "initial-cluster-token", c.InitialClusterToken,
		"quota-backend-bytes", c.QuotaBackendBytes, "max-request-bytes", c.MaxRequestBytes, "max-txn-ops", c.MaxTxnOps,
		"max-concurrent-streams", c.MaxConcurrentStreams, "max-pending-requests", c.MaxPendingRequests,
		"auto-compaction-mode", c.AutoCompactionMode, "auto-compaction-retention", c.AutoCompactionRetention,
		"unsafe-no-fsync", c.UnsafeNoFsync, "dns-listen", c.DNSListen, "dns-zone", c.DNSZone,
	}
}
