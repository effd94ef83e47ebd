package e2e

import (
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func testRangeExtents(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	for _, k := range []string{"a", "b", "c", "d"} {
		put(t, cl, p+k, "v"+k)
	}
	for _, c := range []struct {
		what, key string
		opts      []clientv3.OpOption
		keys      string
		count     int64
		more      bool
	}{
		{"one", "b", nil, "b", 1, false},
		{"absent", "x", nil, "", 0, false},
		{"prefix", "", []clientv3.OpOption{clientv3.WithPrefix()}, "abcd", 4, false},
		{"range", "b", []clientv3.OpOption{clientv3.WithRange(p + "d")}, "bc", 2, false},
		{"range the wrong way round", "d", []clientv3.OpOption{clientv3.WithRange(p + "b")}, "", 0, false},
		{"limit", "", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithLimit(3)}, "abc", 4, true},
		{"limit not reached", "", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithLimit(4)}, "abcd", 4, false},
		{"count", "", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithCountOnly()}, "", 4, false},
	} {
		r := get(t, cl, p+c.key, c.opts...)
		if keys(r, p) != c.keys || r.Count != c.count || r.More != c.more {
			t.Errorf("%s: keys %q, count %d, more %v; want %q, %d, %v", c.what, keys(r, p), r.Count, r.More, c.keys, c.count, c.more)
		}
	}
	for _, kv := range get(t, cl, p, clientv3.WithPrefix(), clientv3.WithKeysOnly()).Kvs {
		if len(kv.Value) != 0 || kv.ModRevision == 0 || kv.Version != 1 {
			t.Errorf("keys only: %v", kv)
		}
	}
	put(t, cl, "\xff\xff", "the last")
	r := get(t, cl, p+"c", clientv3.WithFromKey())
	if n := len(r.Kvs); n < 3 || string(r.Kvs[0].Key) != p+"c" || string(r.Kvs[n-1].Key) != "\xff\xff" {
		t.Errorf("from key: %v", r.Kvs)
	}
}

func testRangeOrder(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	// Creation b a c, last change c b a, versions 1 2 3, values z y x.
	first := put(t, cl, p+"b", "0").Header.Revision
	put(t, cl, p+"a", "0")
	put(t, cl, p+"c", "z")
	put(t, cl, p+"b", "y")
	put(t, cl, p+"a", "0")
	last := put(t, cl, p+"a", "x").Header.Revision
	sorted := func(by clientv3.SortTarget, o clientv3.SortOrder, more ...clientv3.OpOption) string {
		return keys(get(t, cl, p, append(more, clientv3.WithPrefix(), clientv3.WithSort(by, o))...), p)
	}
	for _, c := range []struct {
		what, got, want string
	}{
		{"key", sorted(clientv3.SortByKey, clientv3.SortAscend), "abc"},
		{"key down", sorted(clientv3.SortByKey, clientv3.SortDescend), "cba"},
		{"create", sorted(clientv3.SortByCreateRevision, clientv3.SortAscend), "bac"},
		{"create, order not given", sorted(clientv3.SortByCreateRevision, clientv3.SortNone), "bac"},
		{"mod", sorted(clientv3.SortByModRevision, clientv3.SortAscend), "cba"},
		{"mod down", sorted(clientv3.SortByModRevision, clientv3.SortDescend), "abc"},
		{"version", sorted(clientv3.SortByVersion, clientv3.SortAscend), "cba"},
		{"value", sorted(clientv3.SortByValue, clientv3.SortAscend), "abc"},
		{"sorted, then limited", sorted(clientv3.SortByModRevision, clientv3.SortAscend, clientv3.WithLimit(1)), "c"},
		{"first created", keys(get(t, cl, p, append(clientv3.WithFirstCreate(), clientv3.WithPrefix())...), p), "b"},
		{"last changed", keys(get(t, cl, p, append(clientv3.WithLastRev(), clientv3.WithPrefix())...), p), "a"},
		{"min mod", sorted(clientv3.SortByKey, clientv3.SortAscend, clientv3.WithMinModRev(last)), "a"},
		{"max mod", sorted(clientv3.SortByKey, clientv3.SortAscend, clientv3.WithMaxModRev(last-1)), "bc"},
		{"min create", sorted(clientv3.SortByKey, clientv3.SortAscend, clientv3.WithMinCreateRev(first+1)), "ac"},
		{"max create", sorted(clientv3.SortByKey, clientv3.SortAscend, clientv3.WithMaxCreateRev(first)), "b"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.what, c.got, c.want)
		}
	}
	if r := get(t, cl, p, clientv3.WithPrefix(), clientv3.WithMinModRev(last)); r.Count != 3 {
		t.Errorf("count is %d: filters must not change it", r.Count)
	}
}

func testRangeRevisions(t *testing.T, c *Cluster, cl *clientv3.Client, p string) {
	one := put(t, cl, p+"k", "1").Header.Revision
	put(t, cl, p+"k", "2")
	del := must[*clientv3.DeleteResponse](t)(cl.Delete(within(t, patience), p+"k")).Header.Revision
	again := put(t, cl, p+"k", "3").Header.Revision
	for rev, want := range map[int64]string{one - 1: "", one: "1", one + 1: "2", del: "", again: "3", 0: "3"} {
		r := get(t, cl, p+"k", clientv3.WithRev(rev))
		got := ""
		if len(r.Kvs) > 0 {
			got = string(r.Kvs[0].Value)
		}
		if got != want || r.Header.Revision < again {
			t.Errorf("at %d: %q at header revision %d, want %q at %d or later", rev, got, r.Header.Revision, want, again)
		}
	}
	kv := get(t, cl, p+"k").Kvs[0]
	if kv.Version != 1 || kv.CreateRevision != again || kv.ModRevision != again {
		t.Errorf("created anew: %v, want version 1 and revisions %d", kv, again)
	}
	_, err := cl.Get(within(t, patience), p+"k", clientv3.WithRev(again+1000))
	requireError(t, "future revision", err, rpctypes.ErrFutureRev)
	for _, m := range c.Members {
		member := connect(t, m.Client)
		eventually(t, m.Name+" has the newest value", func() bool {
			r := get(t, member, p+"k", clientv3.WithSerializable())
			return len(r.Kvs) == 1 && string(r.Kvs[0].Value) == "3"
		})
	}
}

func testPutOptions(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	if r := put(t, cl, p+"k", "1", clientv3.WithPrevKV()); r.PrevKv != nil {
		t.Errorf("previous value of nothing: %v", r.PrevKv)
	}
	if r := put(t, cl, p+"k", "2", clientv3.WithPrevKV()); r.PrevKv == nil || string(r.PrevKv.Value) != "1" {
		t.Errorf("previous value: %v", r.PrevKv)
	}
	lease := must[*clientv3.LeaseGrantResponse](t)(cl.Grant(within(t, patience), 60))
	put(t, cl, p+"k", "", clientv3.WithIgnoreValue(), clientv3.WithLease(lease.ID))
	put(t, cl, p+"k", "3", clientv3.WithIgnoreLease())
	kv := get(t, cl, p+"k").Kvs[0]
	if string(kv.Value) != "3" || kv.Lease != int64(lease.ID) || kv.Version != 4 {
		t.Errorf("after ignoring value, then lease: %v", kv)
	}
	_, err := cl.Put(within(t, patience), p+"absent", "", clientv3.WithIgnoreValue())
	requireError(t, "ignore value of an absent key", err, rpctypes.ErrKeyNotFound)
	_, err = cl.Put(within(t, patience), p+"k", "v", clientv3.WithLease(12345))
	requireError(t, "put under an unknown lease", err, rpctypes.ErrLeaseNotFound)
}

func testDelete(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	for _, k := range []string{"a", "b", "c", "d"} {
		put(t, cl, p+k, k)
	}
	rev := get(t, cl, p).Header.Revision
	r := must[*clientv3.DeleteResponse](t)(cl.Delete(within(t, patience), p+"x"))
	if r.Deleted != 0 || r.Header.Revision != rev {
		t.Errorf("delete of nothing: %v, want revision %d still", r, rev)
	}
	r = must[*clientv3.DeleteResponse](t)(cl.Delete(within(t, patience), p+"b", clientv3.WithRange(p+"d"), clientv3.WithPrevKV()))
	if r.Deleted != 2 || len(r.PrevKvs) != 2 || string(r.PrevKvs[0].Value) != "b" || r.Header.Revision != rev+1 {
		t.Errorf("delete of a range: %v", r)
	}
	r = must[*clientv3.DeleteResponse](t)(cl.Delete(within(t, patience), p, clientv3.WithPrefix()))
	if r.Deleted != 2 || len(r.PrevKvs) != 0 || get(t, cl, p, clientv3.WithPrefix()).Count != 0 {
		t.Errorf("delete of a prefix: %v", r)
	}
}

func testTxnCompares(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	lease := must[*clientv3.LeaseGrantResponse](t)(cl.Grant(within(t, patience), 60))
	rev := put(t, cl, p+"k", "m").Header.Revision
	put(t, cl, p+"k", "n", clientv3.WithLease(lease.ID))
	k := p + "k"
	for i, c := range []struct {
		cmp  clientv3.Cmp
		want bool
	}{
		{clientv3.Compare(clientv3.Value(k), "=", "n"), true},
		{clientv3.Compare(clientv3.Value(k), "!=", "n"), false},
		{clientv3.Compare(clientv3.Value(k), ">", "m"), true},
		{clientv3.Compare(clientv3.Value(k), "<", "m"), false},
		{clientv3.Compare(clientv3.Version(k), "=", 2), true},
		{clientv3.Compare(clientv3.Version(k), ">", 2), false},
		{clientv3.Compare(clientv3.CreateRevision(k), "=", rev), true},
		{clientv3.Compare(clientv3.ModRevision(k), "=", rev+1), true},
		{clientv3.Compare(clientv3.ModRevision(k), "<", rev+1), false},
		{clientv3.Compare(clientv3.LeaseValue(k), "=", int64(lease.ID)), true},
		{clientv3.Compare(clientv3.Version(p+"absent"), "=", 0), true},
		{clientv3.Compare(clientv3.Value(p+"absent"), "!=", "x"), false},
		{clientv3.Compare(clientv3.Value(p), "=", "n").WithPrefix(), true},
		{clientv3.Compare(clientv3.ModRevision(p), ">", rev+1).WithPrefix(), false},
	} {
		r := must[*clientv3.TxnResponse](t)(cl.Txn(within(t, patience)).If(c.cmp).Then(clientv3.OpGet(k)).Commit())
		if r.Succeeded != c.want || r.Succeeded != (len(r.Responses) == 1) {
			t.Errorf("compare %d (%v): succeeded %v, %d responses", i, c.cmp, r.Succeeded, len(r.Responses))
		}
	}
	// A txn is one revision, whatever it does; its reads see its writes.
	r := must[*clientv3.TxnResponse](t)(cl.Txn(within(t, patience)).
		If(clientv3.Compare(clientv3.Version(k), "=", 99)).
		Else(clientv3.OpPut(p+"x", "1"), clientv3.OpPut(p+"y", "1"), clientv3.OpGet(p+"x"), clientv3.OpDelete(k, clientv3.WithPrevKV())).Commit())
	if r.Succeeded || r.Header.Revision != rev+2 || len(r.Responses) != 4 {
		t.Fatalf("txn: %v", r)
	}
	if g := r.Responses[2].GetResponseRange(); g.Count != 1 || g.Kvs[0].ModRevision != rev+2 {
		t.Errorf("the txn's read of its own write: %v", g)
	}
	if d := r.Responses[3].GetResponseDeleteRange(); d.Deleted != 1 || string(d.PrevKvs[0].Value) != "n" {
		t.Errorf("the txn's delete: %v", d)
	}
}

func testTxnNested(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	put(t, cl, p+"k", "1")
	is := func(v string) []clientv3.Cmp {
		return []clientv3.Cmp{clientv3.Compare(clientv3.Value(p+"k"), "=", v)}
	}
	// The inner compares see what was before the whole txn.
	r := must[*clientv3.TxnResponse](t)(cl.Txn(within(t, patience)).If(is("1")...).Then(
		clientv3.OpPut(p+"k", "2"),
		clientv3.OpTxn(is("1"), []clientv3.Op{
			clientv3.OpPut(p+"inner", "then"),
			clientv3.OpTxn(is("2"), nil, []clientv3.Op{clientv3.OpPut(p+"innermost", "else")}),
		}, []clientv3.Op{clientv3.OpPut(p+"inner", "else")}),
		clientv3.OpGet(p, clientv3.WithPrefix()),
	).Commit())
	inner := r.Responses[1].GetResponseTxn()
	if !r.Succeeded || !inner.Succeeded || inner.Responses[1].GetResponseTxn().Succeeded {
		t.Errorf("branches: %v", r)
	}
	got := ""
	for _, kv := range r.Responses[2].GetResponseRange().Kvs {
		got += fmt.Sprintf("%s=%s ", strings.TrimPrefix(string(kv.Key), p), kv.Value)
		if kv.ModRevision != r.Header.Revision {
			t.Errorf("%s has revision %d, the txn %d", kv.Key, kv.ModRevision, r.Header.Revision)
		}
	}
	if want := "inner=then innermost=else k=2 "; got != want {
		t.Errorf("after the txn: %s, want %s", got, want)
	}
}

func testTxnRefused(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	rev := get(t, cl, p).Header.Revision
	_, err := cl.Txn(within(t, patience)).Then(clientv3.OpPut(p+"k", "1"), clientv3.OpPut(p+"k", "2")).Commit()
	requireError(t, "two puts of one key", err, rpctypes.ErrDuplicateKey)
	_, err = cl.Txn(within(t, patience)).Then(clientv3.OpPut(p+"k", "1"), clientv3.OpDelete(p, clientv3.WithPrefix())).Commit()
	requireError(t, "a put and a delete of one key", err, rpctypes.ErrDuplicateKey)
	_, err = cl.Txn(within(t, patience)).Then(clientv3.OpPut(p+"k", "1"),
		clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(p+"k", "2")}, nil)).Commit()
	requireError(t, "a put and a nested put of one key", err, rpctypes.ErrDuplicateKey)
	ops := make([]clientv3.Op, 129)
	for i := range ops {
		ops[i] = clientv3.OpPut(fmt.Sprint(p, i), "")
	}
	_, err = cl.Txn(within(t, patience)).Then(ops...).Commit()
	requireError(t, "129 operations", err, rpctypes.ErrTooManyOps)
	// An operation that fails takes the others with it.
	_, err = cl.Txn(within(t, patience)).Then(clientv3.OpPut(p+"k", "1"), clientv3.OpPut(p+"l", "2", clientv3.WithLease(4711))).Commit()
	requireError(t, "a put under an unknown lease", err, rpctypes.ErrLeaseNotFound)
	if r := get(t, cl, p, clientv3.WithPrefix()); r.Count != 0 || r.Header.Revision != rev {
		t.Errorf("refused txns left %v at revision %d, want nothing at %d", r.Kvs, r.Header.Revision, rev)
	}
	must[*clientv3.TxnResponse](t)(cl.Txn(within(t, patience)).Then(ops[:128]...).Commit())
}

func testErrors(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	ctx := within(t, patience)
	_, err := cl.Get(ctx, "")
	requireError(t, "get without key", err, rpctypes.ErrEmptyKey)
	_, err = cl.Put(ctx, "", "v")
	requireError(t, "put without key", err, rpctypes.ErrEmptyKey)
	_, err = cl.Delete(ctx, "")
	requireError(t, "delete without key", err, rpctypes.ErrEmptyKey)
	_, err = cl.Put(ctx, p+"k", strings.Repeat("x", 1536*1024))
	requireError(t, "put of 1.5 MiB and a bit", err, rpctypes.ErrRequestTooLarge)
	_, err = cl.Grant(ctx, 9_000_000_001)
	requireError(t, "grant for 285 years", err, rpctypes.ErrLeaseTTLTooLarge)
	_, err = cl.Revoke(ctx, 99)
	requireError(t, "revoke of an unknown lease", err, rpctypes.ErrLeaseNotFound)
	_, err = cl.KeepAliveOnce(ctx, 99)
	requireError(t, "keep-alive of an unknown lease", err, rpctypes.ErrLeaseNotFound)
	_, err = cl.Compact(ctx, 1<<40)
	requireError(t, "compaction of the future", err, rpctypes.ErrFutureRev)
	_, err = cl.MemberRemove(ctx, 99)
	if err == nil {
		t.Error("an unknown member was removed")
	}
	if r, err := cl.TimeToLive(ctx, 99); err != nil || r.TTL != -1 {
		t.Errorf("time to live of an unknown lease: %v, %v; want -1 without error", r, err)
	}
	put(t, cl, p+"k", "still served")
}

func testCompaction(t *testing.T, _ *Cluster, cl *clientv3.Client, p string) {
	old := put(t, cl, p+"k", "1").Header.Revision
	put(t, cl, p+"k", "2")
	rev := put(t, cl, p+"k", "3").Header.Revision
	must[*clientv3.CompactResponse](t)(cl.Compact(within(t, patience), rev-1, clientv3.WithCompactPhysical()))
	_, err := cl.Get(within(t, patience), p+"k", clientv3.WithRev(old))
	requireError(t, "get before the compaction", err, rpctypes.ErrCompacted)
	_, err = cl.Compact(within(t, patience), rev-1)
	requireError(t, "compaction once more", err, rpctypes.ErrCompacted)
	for at, want := range map[int64]string{rev - 1: "2", rev: "3"} {
		if r := get(t, cl, p+"k", clientv3.WithRev(at)); len(r.Kvs) != 1 || string(r.Kvs[0].Value) != want {
			t.Errorf("at %d: %v, want %s", at, r.Kvs, want)
		}
	}
}
