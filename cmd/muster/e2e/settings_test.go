package e2e

import (
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestALeaderWithoutAFlagLeavesTheClustersSettingsAsTheyAre(t *testing.T) {
	const quota, ops = 200_000, 150
	c := newCluster(t, 2, "--unsafe-no-fsync")
	told, untold := c.Members[0], c.Members[1]
	told.Args = append(told.Args, fmt.Sprint("--quota-backend-bytes=", quota), fmt.Sprint("--max-txn-ops=", ops), "--max-request-bytes=3000000")
	for _, m := range c.Members {
		m.Launch(t)
	}
	clients := map[*Member]*clientv3.Client{}
	for _, m := range c.Members {
		m.AwaitReady(t)
		clients[m] = connect(t, m.Client)
	}
	quotaOf := func(m *Member) int64 {
		st, err := memberStatus(t, clients[m], m)
		if err != nil {
			return -1
		}
		return st.DbSizeQuota
	}

	c.MakeLeader(t, clients[told], told)
	eventually(t, "both have the leader's quota", func() bool { return quotaOf(told) == quota && quotaOf(untold) == quota })
	c.MakeLeader(t, clients[untold], untold)
	// A leader settles its settings no later than it has all compare their hashes,
	// which is an entry and happens after each write. The first such may come before
	// the index is read, so there is a second write.
	written := func(key string) uint64 {
		t.Helper()
		put, err := clients[untold].Put(within(t, patience), key, "v")
		if err != nil {
			t.Fatal(err)
		}
		var at uint64
		eventually(t, "the write is counted", func() bool {
			st, err := memberStatus(t, clients[untold], untold)
			if err == nil && st.Header.Revision >= put.Header.Revision {
				at = st.RaftAppliedIndex
			}
			return at > 0
		})
		return at
	}
	at := written("k")
	written("l")
	eventually(t, "the new leader has hashes compared", func() bool {
		st, err := memberStatus(t, clients[untold], untold)
		return err == nil && (st.RaftAppliedIndex > at+1 || st.DbSizeQuota != quota)
	})
	for _, m := range c.Members {
		if got := quotaOf(m); got != quota {
			t.Errorf("%s: the quota is %d after a leader that was not told one, want %d", m.Name, got, quota)
		}
		var many []clientv3.Op
		for i := range ops {
			many = append(many, clientv3.OpPut(fmt.Sprint("k", i), "v"))
		}
		if _, err := clients[m].Txn(within(t, patience)).Then(many...).Commit(); err != nil {
			t.Errorf("%s: a txn of %d operations: %v", m.Name, ops, err)
		}
		if _, err := clients[m].Txn(within(t, patience)).Then(append(many, clientv3.OpGet("k"))...).Commit(); err == nil {
			t.Errorf("%s took a txn of %d operations", m.Name, ops+1)
		}
	}
}
