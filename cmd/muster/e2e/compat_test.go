package e2e

import (
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// compatTest is one thing that works with etcd's official client. It has the
// prefix p of the key space to itself, but revisions are shared.
type compatTest struct {
	name string
	run  func(t *testing.T, c *Cluster, cl *clientv3.Client, p string)
}

func compatTests() []compatTest {
	return []compatTest{
		{"range by key, prefix, from-key, limit and count", testRangeExtents},
		{"range sorted and filtered by revision", testRangeOrder},
		{"range at an old revision, serializable", testRangeRevisions},
		{"put with previous value, ignored value, ignored lease", testPutOptions},
		{"delete of one, a range and nothing", testDelete},
		{"txn with every compare", testTxnCompares},
		{"txn nested in a txn", testTxnNested},
		{"txn that is malformed", testTxnRefused},
		{"errors have etcd's text and code", testErrors},
		{"compaction", testCompaction},
		{"watch from a past and from a future revision", testWatchRevisions},
		{"watch of a range with previous values and filters", testWatchOptions},
		{"watch progress", testWatchProgress},
		{"watch in fragments", testWatchFragments},
		{"watch cancelled, and one on a compacted revision", testWatchEnds},
		{"many watches on one stream", testWatchMany},
		{"lease granted, attached, listed, revoked", testLease},
		{"lease kept alive, then not", testLeaseExpiry},
		{"mutex", testMutex},
		{"election", testElection},
		{"members, status, health", testMembers},
	}
}

func TestCompatEtcdClientWithOneMember(t *testing.T)    { runCompat(t, 1) }
func TestCompatEtcdClientWithThreeMembers(t *testing.T) { runCompat(t, 3) }

func runCompat(t *testing.T, members int) {
	c := startCluster(t, members)
	for i, test := range compatTests() {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, c, connect(t, c.Endpoints()...), fmt.Sprintf("t%02d/", i))
		})
	}
}

// must makes a test of what a call returned.
func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func put(t *testing.T, cl *clientv3.Client, key, value string, opts ...clientv3.OpOption) *clientv3.PutResponse {
	t.Helper()
	r, err := cl.Put(within(t, patience), key, value, opts...)
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return r
}

func get(t *testing.T, cl *clientv3.Client, key string, opts ...clientv3.OpOption) *clientv3.GetResponse {
	t.Helper()
	r, err := cl.Get(within(t, patience), key, opts...)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	return r
}

// keys are a reply's, without the prefix.
func keys(r *clientv3.GetResponse, prefix string) string {
	s := ""
	for _, kv := range r.Kvs {
		s += string(kv.Key[len(prefix):])
	}
	return s
}

func requireError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) || rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(want) {
		t.Errorf("%s: error %v (%T), want %v", what, err, err, want)
	}
}

func testMembers(t *testing.T, c *Cluster, cl *clientv3.Client, _ string) {
	put(t, cl, "members", "x")
	r := must[*clientv3.MemberListResponse](t)(cl.MemberList(within(t, patience)))
	if len(r.Members) != len(c.Members) {
		t.Fatalf("members: %v", r.Members)
	}
	byName := map[string]*Member{}
	for _, m := range c.Members {
		byName[m.Name] = m
	}
	for _, got := range r.Members {
		m := byName[got.Name]
		if m == nil || len(got.ClientURLs) != 1 || got.ClientURLs[0] != "http://"+m.Client ||
			len(got.PeerURLs) != 1 || got.PeerURLs[0] != "http://"+m.Peer || got.IsLearner || got.ID == 0 {
			t.Errorf("member %v", got)
		}
	}
	leaders := map[uint64]bool{}
	for _, m := range c.Members {
		st := statusOf(t, cl, m)
		leaders[st.Leader] = true
		if st.Version != "3.7.3" || st.RaftTerm == 0 || st.RaftIndex == 0 || st.DbSize <= 0 || len(st.Errors) > 0 || st.IsLearner ||
			st.Header.ClusterId != r.Header.ClusterId {
			t.Errorf("status of %s: %v", m.Name, st)
		}
		one := connect(t, m.Client)
		h, err := grpc_health_v1.NewHealthClient(one.ActiveConnection()).Check(within(t, patience), &grpc_health_v1.HealthCheckRequest{})
		if err != nil || h.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("health of %s: %v, %v", m.Name, h, err)
		}
	}
	if len(leaders) != 1 || leaders[0] {
		t.Errorf("leaders %v: want all members to name one", leaders)
	}
	// Every member serves alone, reads and writes alike.
	for i, m := range c.Members {
		one := connect(t, m.Client)
		want := fmt.Sprint(i)
		put(t, one, "members", want)
		if got := get(t, one, "members", clientv3.WithSerializable()); string(got.Kvs[0].Value) != want {
			t.Errorf("%s doesn't read its own write: %v", m.Name, got.Kvs)
		}
	}
	// What isn't there yet says so, by name.
	_, err := cl.HashKV(within(t, patience), c.Members[0].Client, 0)
	if status.Code(err) != codes.Unimplemented && err != nil {
		t.Errorf("HashKV: %v, want an answer or Unimplemented", err)
	}
}
