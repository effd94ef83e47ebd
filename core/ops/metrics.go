package ops

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Stats is the member's state at one moment, read once a scrape. The zero
// value of a field is its metric's value before anything happened.
type Stats struct {
	HasLeader, IsLeader bool
	ClusterVersion      string // e.g. 3.7.0; empty until decided

	LeaderChanges                                         uint64
	ProposalsCommitted, ProposalsApplied, ProposalsFailed uint64
	ProposalsPending                                      int64
	ReadIndexesFailed, HeartbeatSendFailure               uint64
	LeasesGranted, LeasesRevoked, LeasesRenewed           uint64
	LeasesExpired                                         uint64
	Puts, Deletes, Txns                                   uint64
	ApplyingSnapshot                                      bool

	// DBSize is what the state takes, DBInUse what of it is live, both bytes.
	DBSize, DBInUse, Quota      int64
	Revision, CompactRevision   int64
	Keys                        int64
	WatchStreams, Watchers      int64
	SlowWatchers, PendingEvents int64
	Events                      uint64
	Peers, ConnectedPeers       []uint64
	WatchersFellBehind          uint64
	DivergedMembers             uint64
}

// Instruments are fed as things happen. Each is safe for concurrent use.
type Instruments struct {
	WALFsync, WALWrite prometheus.Observer // seconds
	WALBytes           prometheus.Gauge    // written so far; etcd calls it a gauge
	// CheckpointSync is one sync of a checkpoint being written, Checkpoint
	// the whole of it; dashboards know them as backend commit and snapshot.
	CheckpointSync, Checkpoint prometheus.Observer // seconds
	// PeerRoundTrip is labelled with the peer's id in hexadecimal.
	PeerRoundTrip                    *prometheus.HistogramVec
	PeerSentBytes, PeerRecvBytes     *prometheus.CounterVec
	PeerSentFailed                   *prometheus.CounterVec
	ClientSentBytes, ClientRecvBytes prometheus.Counter
}

// NewInstruments registers them. Call it once a registry.
func NewInstruments(reg prometheus.Registerer) (*Instruments, error) {
	var all []prometheus.Collector
	histogram := func(name, help string, first float64, n int) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(first, 2, n),
		})
		all = append(all, h)
		return h
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		all = append(all, c)
		return c
	}
	written := prometheus.NewGauge(prometheus.GaugeOpts{Name: "etcd_disk_wal_write_bytes_total", Help: "Total number of bytes written in WAL."})
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		all = append(all, c)
		return c
	}
	rtt := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "etcd_network_peer_round_trip_time_seconds", Help: "Round-Trip-Time histogram between peers",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
	}, []string{"To"})
	in := &Instruments{
		WALFsync:        histogram("etcd_disk_wal_fsync_duration_seconds", "The latency distributions of fsync called by WAL.", 0.001, 14),
		WALWrite:        histogram("etcd_disk_wal_write_duration_seconds", "The latency distributions of write called by WAL.", 0.001, 14),
		WALBytes:        written,
		CheckpointSync:  histogram("etcd_disk_backend_commit_duration_seconds", "The latency distributions of commit called by backend.", 0.001, 14),
		Checkpoint:      histogram("etcd_disk_backend_snapshot_duration_seconds", "The latency distribution of backend snapshots.", 0.01, 17),
		PeerRoundTrip:   rtt,
		PeerSentBytes:   counters("etcd_network_peer_sent_bytes_total", "The total number of bytes sent to peers.", "To"),
		PeerRecvBytes:   counters("etcd_network_peer_received_bytes_total", "The total number of bytes received from peers.", "From"),
		PeerSentFailed:  counters("etcd_network_peer_sent_failures_total", "The total number of send failures from peers.", "To"),
		ClientSentBytes: counter("etcd_network_client_grpc_sent_bytes_total", "The total number of bytes sent to grpc clients."),
		ClientRecvBytes: counter("etcd_network_client_grpc_received_bytes_total", "The total number of bytes received from grpc clients."),
	}
	all = append(all, rtt, written,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	all = append(all, inert()...)
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("ops: metrics: %w", err)
		}
	}
	return in, nil
}

// collector reads the member's Stats when a scrape asks.
type collector struct {
	cfg           Config
	rows          []row
	known, active *prometheus.Desc
	// The version metrics carry what they say in a label.
	server, goVersion, id *prometheus.Desc
	cluster               *prometheus.Desc
}

// row is one number of Stats under its metric name.
type row struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*Stats) float64
}

func newCollector(cfg Config) *collector {
	c := &collector{
		cfg:       cfg,
		known:     prometheus.NewDesc("etcd_network_known_peers", "The current number of known peers.", []string{"Local", "Remote"}, nil),
		active:    prometheus.NewDesc("etcd_network_active_peers", "The current number of active peer connections.", []string{"Local", "Remote"}, nil),
		server:    prometheus.NewDesc("etcd_server_version", "Which version is running. 1 for 'server_version' label with current version.", []string{"server_version"}, nil),
		goVersion: prometheus.NewDesc("etcd_server_go_version", "Which Go version server is running with. 1 for 'server_go_version' label with current version.", []string{"server_go_version"}, nil),
		id:        prometheus.NewDesc("etcd_server_id", "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.", []string{"server_id"}, nil),
		cluster:   prometheus.NewDesc("etcd_cluster_version", "Which version is running. 1 for 'cluster_version' label with current cluster version", []string{"cluster_version"}, nil),
	}
	c.rows = statRows(cfg)
	return c
}

func statRows(cfg Config) []row {
	var rows []row
	add := func(kind prometheus.ValueType, name, help string, read func(*Stats) float64) {
		rows = append(rows, row{prometheus.NewDesc(name, help, nil, nil), kind, read})
	}
	gauge := func(name, help string, read func(*Stats) float64) { add(prometheus.GaugeValue, name, help, read) }
	counter := func(name, help string, read func(*Stats) float64) {
		add(prometheus.CounterValue, name, help, read)
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge("etcd_server_has_leader", "Whether or not a leader exists. 1 is existence, 0 is not.", func(s *Stats) float64 { return flag(s.HasLeader) })
	gauge("etcd_server_is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise.", func(s *Stats) float64 { return flag(s.IsLeader) })
	gauge("etcd_server_is_learner", "Whether or not this member is a learner. 1 if is, 0 otherwise.", func(*Stats) float64 { return flag(cfg.Member.IsLearner()) })
	counter("etcd_server_leader_changes_seen_total", "The number of leader changes seen.", func(s *Stats) float64 { return float64(s.LeaderChanges) })
	gauge("etcd_server_proposals_committed_total", "The total number of consensus proposals committed.", func(s *Stats) float64 { return float64(s.ProposalsCommitted) })
	gauge("etcd_server_proposals_applied_total", "The total number of consensus proposals applied.", func(s *Stats) float64 { return float64(s.ProposalsApplied) })
	gauge("etcd_server_proposals_pending", "The current number of pending proposals to commit.", func(s *Stats) float64 { return float64(s.ProposalsPending) })
	counter("etcd_server_proposals_failed_total", "The total number of failed proposals seen.", func(s *Stats) float64 { return float64(s.ProposalsFailed) })
	counter("etcd_server_read_indexes_failed_total", "The total number of failed read indexes seen.", func(s *Stats) float64 { return float64(s.ReadIndexesFailed) })
	counter("etcd_server_heartbeat_send_failures_total", "The total number of leader heartbeat send failures (likely overloaded from slow disk).", func(s *Stats) float64 { return float64(s.HeartbeatSendFailure) })
	gauge("etcd_server_snapshot_apply_in_progress_total", "1 if the server is applying the incoming snapshot. 0 if none.", func(s *Stats) float64 { return flag(s.ApplyingSnapshot) })
	counter("muster_server_diverged_members_total", "The number of members found to have diverged from the majority since this one started.", func(s *Stats) float64 { return float64(s.DivergedMembers) })
	gauge("etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes.", func(s *Stats) float64 { return float64(s.Quota) })
	gauge("etcd_mvcc_db_total_size_in_bytes", "Total size of the underlying database physically allocated in bytes.", func(s *Stats) float64 { return float64(s.DBSize) })
	gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Total size of the underlying database logically in use in bytes.", func(s *Stats) float64 { return float64(s.DBInUse) })
	counter("etcd_mvcc_put_total", "Total number of puts seen by this member.", func(s *Stats) float64 { return float64(s.Puts) })
	counter("etcd_mvcc_delete_total", "Total number of deletes seen by this member.", func(s *Stats) float64 { return float64(s.Deletes) })
	counter("etcd_mvcc_txn_total", "Total number of txns seen by this member.", func(s *Stats) float64 { return float64(s.Txns) })
	gauge("etcd_debugging_mvcc_current_revision", "The current revision of store.", func(s *Stats) float64 { return float64(s.Revision) })
	gauge("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction in store.", func(s *Stats) float64 { return float64(s.CompactRevision) })
	gauge("etcd_debugging_mvcc_keys_total", "Total number of keys.", func(s *Stats) float64 { return float64(s.Keys) })
	gauge("etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams.", func(s *Stats) float64 { return float64(s.WatchStreams) })
	gauge("etcd_debugging_mvcc_watcher_total", "Total number of watchers.", func(s *Stats) float64 { return float64(s.Watchers) })
	gauge("etcd_debugging_mvcc_slow_watcher_total", "Total number of unsynced slow watchers.", func(s *Stats) float64 { return float64(s.SlowWatchers) })
	gauge("etcd_debugging_mvcc_pending_events_total", "Total number of pending events to be sent.", func(s *Stats) float64 { return float64(s.PendingEvents) })
	counter("etcd_debugging_mvcc_events_total", "Total number of events sent by this member.", func(s *Stats) float64 { return float64(s.Events) })
	counter("muster_watch_fell_behind_total", "How often a watcher fell behind and went on from history.", func(s *Stats) float64 { return float64(s.WatchersFellBehind) })
	counter("etcd_debugging_lease_granted_total", "The total number of granted leases.", func(s *Stats) float64 { return float64(s.LeasesGranted) })
	counter("etcd_debugging_lease_revoked_total", "The total number of revoked leases.", func(s *Stats) float64 { return float64(s.LeasesRevoked) })
	counter("etcd_debugging_lease_renewed_total", "The number of renewed leases seen by the leader.", func(s *Stats) float64 { return float64(s.LeasesRenewed) })
	counter("etcd_debugging_server_lease_expired_total", "The total number of expired leases.", func(s *Stats) float64 { return float64(s.LeasesExpired) })
	used, limit := fileDescriptors()
	gauge("os_fd_used", "The number of used file descriptors.", func(*Stats) float64 { return used() })
	gauge("os_fd_limit", "The file descriptor limit.", func(*Stats) float64 { return limit() })
	return rows
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, r := range c.rows {
		ch <- r.desc
	}
	for _, d := range []*prometheus.Desc{c.known, c.active, c.server, c.goVersion, c.id, c.cluster} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.cfg.Member.Stats()
	for _, r := range c.rows {
		ch <- prometheus.MustNewConstMetric(r.desc, r.kind, r.read(&s))
	}
	one := func(d *prometheus.Desc, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, 1, labels...)
	}
	self := fmt.Sprintf("%x", c.cfg.MemberID)
	one(c.server, c.cfg.Version)
	one(c.goVersion, runtime.Version())
	one(c.id, self)
	if v := s.ClusterVersion; v != "" {
		one(c.cluster, majorMinor(v))
	}
	for _, p := range s.Peers {
		one(c.known, self, fmt.Sprintf("%x", p))
	}
	for _, p := range s.ConnectedPeers {
		one(c.active, self, fmt.Sprintf("%x", p))
	}
}

// majorMinor shortens 3.7.0 to 3.7, as etcd labels a cluster's version.
func majorMinor(v string) string {
	parts := strings.SplitN(v, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}
