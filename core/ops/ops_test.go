package ops

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

type fakeMember struct {
	err, barrier error
	leader       uint64
	learner      bool
	alarms       []string
	stats        Stats
}

func (f *fakeMember) Err() error       { return f.err }
func (f *fakeMember) Leader() uint64   { return f.leader }
func (f *fakeMember) IsLearner() bool  { return f.learner }
func (f *fakeMember) Alarms() []string { return f.alarms }
func (f *fakeMember) Stats() Stats     { return f.stats }
func (f *fakeMember) ReadBarrier(ctx context.Context) error {
	if f.barrier != nil {
		return f.barrier
	}
	return ctx.Err()
}

func fixture(t *testing.T, m *fakeMember) http.Handler {
	t.Helper()
	reg := prometheus.NewRegistry()
	if _, err := NewInstruments(reg); err != nil {
		t.Fatal(err)
	}
	o, err := New(Config{Member: m, MemberID: 0xab, Version: "3.7.3", ClusterVersion: "3.7.0", StorageVersion: "3.7.0", Registry: reg})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	o.Register(mux)
	return mux
}

func TestProbesAnswerAsEtcdDoes(t *testing.T) {
	healthy := fakeMember{leader: 1}
	with := func(change func(*fakeMember)) *fakeMember {
		m := healthy
		change(&m)
		return &m
	}
	leaderless := with(func(m *fakeMember) { m.leader = 0; m.barrier = errors.New("no leader") })
	full := with(func(m *fakeMember) { m.alarms = []string{"NOSPACE"} })
	corrupt := with(func(m *fakeMember) { m.alarms = []string{"CORRUPT"} })
	learner := with(func(m *fakeMember) { m.learner = true })
	broken := with(func(m *fakeMember) { m.err = errors.New("disk failed") })
	for _, c := range []struct {
		m    *fakeMember
		path string
		code int
		body string
	}{
		{&healthy, "/version", 200, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`},
		{&healthy, "/health", 200, `{"health":"true","reason":""}`},
		{&healthy, "/livez", 200, "ok\n"},
		{&healthy, "/readyz", 200, "ok\n"},
		{&healthy, "/readyz?verbose", 200, "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n"},
		{&healthy, "/livez/serializable_read", 200, "ok\n"},
		{&healthy, "/readyz/linearizable_read?verbose", 200, "[+]linearizable_read ok\nok\n"},
		{&healthy, "/readyz/nonsense", 404, "404 page not found\n"},
		{leaderless, "/health", 503, `{"health":"false","reason":"RAFT NO LEADER"}` + "\n"},
		{leaderless, "/health?serializable=true", 200, `{"health":"true","reason":""}`},
		{leaderless, "/livez", 200, "ok\n"},
		{leaderless, "/readyz", 503, "[+]data_corruption ok\n[+]serializable_read ok\n[-]linearizable_read failed: no leader\n[+]non_learner ok\n\n"},
		{leaderless, "/readyz?exclude=linearizable_read", 200, "ok\n"},
		{full, "/health", 503, `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{full, "/health?exclude=NOSPACE", 200, `{"health":"true","reason":""}`},
		{full, "/readyz", 200, "ok\n"},
		{corrupt, "/health?exclude=NOSPACE", 503, `{"health":"false","reason":"ALARM CORRUPT"}` + "\n"},
		{corrupt, "/readyz/data_corruption", 503, "[-]data_corruption failed: alarm activated: CORRUPT\n\n"},
		{corrupt, "/livez", 200, "ok\n"},
		{learner, "/readyz/non_learner", 503, "[-]non_learner failed: not supported for learner\n\n"},
		{broken, "/livez", 503, "[-]serializable_read failed: disk failed\n\n"},
		{broken, "/health?serializable=true", 503, `{"health":"false","reason":"RANGE ERROR:disk failed"}` + "\n"},
	} {
		w := httptest.NewRecorder()
		fixture(t, c.m).ServeHTTP(w, httptest.NewRequest(http.MethodGet, c.path, nil))
		if w.Code != c.code || w.Body.String() != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.path, w.Code, w.Body.String(), c.code, c.body)
		}
	}
}

func TestOnlyGetIsAllowed(t *testing.T) {
	h := fixture(t, &fakeMember{})
	for _, path := range []string{"/version", "/health", "/livez", "/readyz"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader("x")))
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET" {
			t.Errorf("POST %s: %d, Allow %q", path, w.Code, w.Header().Get("Allow"))
		}
	}
}

// testdata/etcd-3.7.3-metrics.txt is what a real etcd's first scrape declares.
func TestEveryMetricOfEtcdsIsThereFromTheFirstScrape(t *testing.T) {
	b, err := os.ReadFile("testdata/etcd-3.7.3-metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	h := fixture(t, &fakeMember{leader: 1, stats: Stats{ClusterVersion: "3.7.0", Peers: []uint64{0xab}}})
	// promhttp's own counters show from the second scrape on.
	var body string
	for range 2 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		body = w.Body.String()
	}
	have := strings.Split(body, "\n")
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		// rpc registers grpc_server_*; the client counters of core/rpc likewise.
		if !strings.HasPrefix(line, "# TYPE grpc_server_") && !slices.Contains(have, line) {
			t.Errorf("lacks %s", line)
		}
	}
	for _, want := range []string{
		`etcd_server_version{server_version="3.7.3"} 1`,
		`etcd_cluster_version{cluster_version="3.7"} 1`,
		`etcd_server_id{server_id="ab"} 1`,
		`etcd_network_known_peers{Local="ab",Remote="ab"} 1`,
	} {
		if !slices.Contains(have, want) {
			t.Errorf("lacks %s", want)
		}
	}
}

func TestStatsReachTheirMetrics(t *testing.T) {
	h := fixture(t, &fakeMember{leader: 1, learner: true, stats: Stats{
		HasLeader: true, LeaderChanges: 3, ProposalsCommitted: 4, ProposalsApplied: 5, ProposalsPending: 6, ProposalsFailed: 7,
		DBSize: 8, DBInUse: 9, Quota: 10, Revision: 11, Watchers: 12, WatchStreams: 13, SlowWatchers: 14, PendingEvents: 15, Events: 16,
		WatchersFellBehind: 17, ConnectedPeers: []uint64{0xcd},
	}})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		"etcd_server_has_leader 1", "etcd_server_is_leader 0", "etcd_server_is_learner 1", "etcd_server_leader_changes_seen_total 3",
		"etcd_server_proposals_committed_total 4", "etcd_server_proposals_applied_total 5", "etcd_server_proposals_pending 6", "etcd_server_proposals_failed_total 7",
		"etcd_mvcc_db_total_size_in_bytes 8", "etcd_mvcc_db_total_size_in_use_in_bytes 9", "etcd_server_quota_backend_bytes 10",
		"etcd_debugging_mvcc_current_revision 11", "etcd_debugging_mvcc_watcher_total 12",
		"etcd_debugging_mvcc_watch_stream_total 13", "etcd_debugging_mvcc_slow_watcher_total 14", "etcd_debugging_mvcc_pending_events_total 15",
		"etcd_debugging_mvcc_events_total 16", "muster_watch_fell_behind_total 17", `etcd_network_active_peers{Local="ab",Remote="cd"} 1`,
	} {
		if !strings.Contains(w.Body.String(), "\n"+want+"\n") {
			t.Errorf("lacks %s", want)
		}
	}
}
