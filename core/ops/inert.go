package ops

import "github.com/prometheus/client_golang/prometheus"

// inert are etcd's metrics for parts that don't exist here (bbolt's commit
// phases, defragmentation, the v2 store, the gRPC proxy) or aren't counted (how
// many ranges: grpc_server_handled_total says). They stay at zero, so that
// dashboards and recording rules that mention them find them.
func inert() []prometheus.Collector {
	var all []prometheus.Collector
	for _, m := range []struct{ name, help string }{
		{"etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "The latency distributions of commit.rebalance called by bboltdb backend."},
		{"etcd_debugging_disk_backend_commit_spill_duration_seconds", "The latency distributions of commit.spill called by bboltdb backend."},
		{"etcd_debugging_disk_backend_commit_write_duration_seconds", "The latency distributions of commit.write called by bboltdb backend."},
		{"etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs."},
		{"etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "Bucketed histogram of db compaction pause duration."},
		{"etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "Bucketed histogram of db compaction total duration."},
		{"etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "Bucketed histogram of index compaction pause duration."},
		{"etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "The total duration in seconds of running through the send loop control stream response."},
		{"etcd_debugging_server_watch_send_loop_progress_duration_seconds", "The total duration in seconds of running through the progress loop control stream response."},
		{"etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", "The average duration in seconds of running through the send loop watch stream response, per event."},
		{"etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", "The total duration in seconds of running through the send loop watch stream response all events."},
		{"etcd_debugging_snap_save_marshalling_duration_seconds", "The marshalling cost distributions of save called by snapshot."},
		{"etcd_debugging_snap_save_total_duration_seconds", "The total latency distributions of save called by snapshot."},
		{"etcd_disk_backend_defrag_duration_seconds", "The latency distribution of backend defragmentation."},
		{"etcd_mvcc_hash_duration_seconds", "The latency distribution of storage hash operation."},
		{"etcd_mvcc_hash_rev_duration_seconds", "The latency distribution of storage hash by revision operation."},
		{"etcd_snap_db_fsync_duration_seconds", "The latency distributions of fsyncing .snap.db file"},
		{"etcd_snap_db_save_total_duration_seconds", "The total latency distributions of v3 snapshot save"},
		{"etcd_snap_fsync_duration_seconds", "The latency distributions of fsync called by snap."},
	} {
		all = append(all, prometheus.NewHistogram(prometheus.HistogramOpts{Name: m.name, Help: m.help}))
	}
	for _, m := range []struct{ name, help string }{
		{"etcd_debugging_auth_revision", "The current revision of auth store."},
		{"etcd_debugging_mvcc_db_compaction_last", "The unix time of the last db compaction. Resets to 0 on start."},
		{"etcd_debugging_mvcc_total_put_size_in_bytes", "The total size of put kv pairs seen by this member."},
		{"etcd_debugging_store_watchers", "Count of currently active watchers."},
		{"etcd_disk_defrag_inflight", "Whether or not defrag is active on the member. 1 means active, 0 means not."},
		{"etcd_grpc_proxy_cache_hits_total", "Total number of cache hits"},
		{"etcd_grpc_proxy_cache_keys_total", "Total number of keys/ranges cached"},
		{"etcd_grpc_proxy_cache_misses_total", "Total number of cache misses"},
		{"etcd_grpc_proxy_watchers_coalescing_total", "Total number of current watchers coalescing"},
		{"etcd_mvcc_db_open_read_transactions", "The number of currently open read transactions"},
	} {
		all = append(all, prometheus.NewGauge(prometheus.GaugeOpts{Name: m.name, Help: m.help}))
	}
	for _, m := range []struct{ name, help string }{
		{"etcd_debugging_mvcc_db_compaction_keys_total", "Total number of db keys compacted."},
		{"etcd_debugging_store_expires_total", "Total number of expired keys."},
		{"etcd_debugging_store_watch_requests_total", "Total number of incoming watch requests (new or reestablished)."},
		{"etcd_grpc_proxy_events_coalescing_total", "Total number of events coalescing"},
		{"etcd_mvcc_range_total", "Total number of ranges seen by this member."},
		{"etcd_server_slow_read_indexes_total", "The total number of pending read indexes not in sync with leader's or timed out read index requests."},
		{"etcd_server_learner_promote_successes", "The total number of successful learner promotions while this member is leader."},
		{"etcd_server_slow_apply_total", "The total number of slow apply requests (likely overloaded from slow disk)."},
		{"etcd_server_learner_promote_failures", "The total number of failed learner promotions (likely learner not ready) while this member is leader."},
	} {
		all = append(all, prometheus.NewCounter(prometheus.CounterOpts{Name: m.name, Help: m.help}))
	}
	all = append(all, inertVectors()...)
	return all
}

// inertVectors have labels: one child each, since a vector without any is not
// shown at all.
func inertVectors() []prometheus.Collector {
	apply := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "etcd_server_apply_duration_seconds", Help: "The latency distributions of v2 apply called by backend.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 20),
	}, []string{"version", "op", "success"})
	apply.WithLabelValues("v3", "Put", "true")
	request := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "etcd_server_request_duration_seconds", Help: "Response latency distribution in seconds for each type.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 13),
	}, []string{"type", "success"})
	request.WithLabelValues("Put", "true")
	feature := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "etcd_server_feature_enabled", Help: "Whether or not a feature is enabled. 1 is enabled, 0 is not.",
	}, []string{"name", "stage"})
	for _, g := range []string{"AllAlpha", "CompactHashCheck", "InitialCorruptCheck", "LeaseCheckpoint", "LeaseCheckpointPersist", "StopGRPCServiceOnDefrag"} {
		feature.WithLabelValues(g, "ALPHA")
	}
	feature.WithLabelValues("AllBeta", "BETA")
	return []prometheus.Collector{apply, request, feature}
}
