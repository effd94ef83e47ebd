package sdk_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/sdk"
	"github.com/musterhq/muster/sdk/mustertest"
)

func TestAgainstOneMember(t *testing.T) {
	c := mustertest.Start(t, 1).Client()
	for _, tc := range []struct {
		name string
		test func(*testing.T, *sdk.Client)
	}{
		{"PutGetDeleteCarryEveryOption", putGetDelete},
		{"TxnTakesTheBranchItsComparesSay", txn},
		{"CompactedRevisionsAreRefused", compacted},
		{"LeasesLiveAndEnd", leases},
		{"WatchYieldsWholeTransactions", watchTxn},
		{"BigTransactionsArriveWhole", watchBig},
		{"SessionEndsWithItsLease", sessionRevoked},
		{"MembersTellOfThemselves", members},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, c) })
	}
}

func putGetDelete(t *testing.T, c *sdk.Client) {
	ctx := t.Context()
	var revs []int64
	for i := range 5 {
		r, err := c.Put(ctx, fmt.Sprintf("kv/%d", i), []byte{byte('e' - i)})
		if err != nil {
			t.Fatal(err)
		}
		revs = append(revs, r.Header.Revision)
	}
	if r, err := c.Put(ctx, "kv/0", []byte("z"), sdk.WithPrevKV()); err != nil || r.Prev == nil || string(r.Prev.Value) != "e" {
		t.Errorf("put with previous: %+v, %v", r, err)
	}
	keys := func(want string, opts ...sdk.Option) sdk.GetResult {
		t.Helper()
		r, err := c.Get(ctx, "kv/", opts...)
		got := ""
		for _, kv := range r.KVs {
			got += strings.TrimPrefix(kv.Key, "kv/")
		}
		if err != nil || got != want {
			t.Errorf("got keys %q, error %v; want %q", got, err, want)
		}
		return r
	}
	keys("01234", sdk.WithPrefix())
	keys("12", sdk.WithRange("kv/3"), sdk.WithSort(sdk.SortByKey, sdk.Ascending), sdk.WithMinModRev(revs[1]), sdk.WithMaxModRev(revs[3]))
	keys("43210", sdk.WithPrefix(), sdk.WithSort(sdk.SortByKey, sdk.Descending))
	keys("43210", sdk.WithPrefix(), sdk.WithSort(sdk.SortByValue, sdk.Ascending))
	keys("01234", sdk.WithFromKey(), sdk.WithSerializable())
	if r := keys("01", sdk.WithPrefix(), sdk.WithLimit(2)); !r.More || r.Count != 5 {
		t.Errorf("limited: more %v, count %d; want true and 5", r.More, r.Count)
	}
	if r := keys("", sdk.WithPrefix(), sdk.WithCountOnly()); r.Count != 5 {
		t.Errorf("count %d; want 5", r.Count)
	}
	r, err := c.Get(ctx, "kv/0", sdk.WithRev(revs[0]), sdk.WithKeysOnly())
	if kv, ok := r.First(); err != nil || !ok || kv.ModRevision != revs[0] || len(kv.Value) != 0 {
		t.Errorf("old revision, key only: %+v, %v", r, err)
	}
	if _, err := c.Put(ctx, "none", nil, sdk.WithIgnoreValue()); !errors.Is(err, sdk.ErrKeyNotFound) {
		t.Errorf("put ignoring the value of no key: %v", err)
	}
	d, err := c.Delete(ctx, "kv/", sdk.WithPrefix(), sdk.WithPrevKV())
	if err != nil || d.Deleted != 5 || len(d.Prev) != 5 || string(d.Prev[0].Value) != "z" {
		t.Errorf("delete: %+v, %v", d, err)
	}
}

func txn(t *testing.T, c *sdk.Client) {
	ctx := t.Context()
	if _, err := c.Put(ctx, "old", []byte("2")); err != nil {
		t.Fatal(err)
	}
	r, err := c.Txn(ctx, sdk.Txn{
		If: []sdk.Cmp{sdk.CmpVersion("txn/a", "=", 0), sdk.CmpCreate("txn/", "=", 0).WithPrefix()},
		Then: []sdk.Op{
			sdk.OpPut("txn/a", []byte("1")), sdk.OpPut("txn/b", []byte("2")), sdk.OpGet("txn/", sdk.WithPrefix()),
			sdk.OpTxn(sdk.Txn{If: []sdk.Cmp{sdk.CmpValue("old", "=", []byte("2"))}, Then: []sdk.Op{sdk.OpDelete("old", sdk.WithPrevKV())}}),
		},
	})
	if err != nil || !r.Succeeded || len(r.Results) != 4 {
		t.Fatalf("got %+v, %v", r, err)
	}
	if got := r.Results[2].Get.KVs; len(got) != 2 || got[0].CreateRevision != r.Header.Revision {
		t.Errorf("inner get: %+v", got)
	}
	if in := r.Results[3].Txn; !in.Succeeded || in.Results[0].Delete.Deleted != 1 || string(in.Results[0].Delete.Prev[0].Value) != "2" {
		t.Errorf("nested: %+v", in)
	}
	r, err = c.Txn(ctx, sdk.Txn{
		If:   []sdk.Cmp{sdk.CmpMod("txn/a", ">", r.Header.Revision)},
		Then: []sdk.Op{sdk.OpPut("txn/a", nil)}, Else: []sdk.Op{sdk.OpGet("txn/a")},
	})
	if err != nil || r.Succeeded || r.Results[0].Get == nil {
		t.Errorf("else: %+v, %v", r, err)
	}
}

func compacted(t *testing.T, c *sdk.Client) {
	ctx := t.Context()
	var rev int64
	for range 3 {
		r, err := c.Put(ctx, "compact", nil)
		if err != nil {
			t.Fatal(err)
		}
		rev = r.Header.Revision
	}
	if err := c.Compact(ctx, rev, sdk.WithPhysical()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(ctx, "compact", sdk.WithRev(rev-1)); !errors.Is(err, sdk.ErrCompacted) {
		t.Errorf("get: %v; want ErrCompacted", err)
	}
	if _, err := c.Get(ctx, "compact", sdk.WithRev(rev+1000)); !errors.Is(err, sdk.ErrFutureRevision) {
		t.Errorf("get: %v; want ErrFutureRevision", err)
	}
	for _, err := range c.Watch(ctx, "compact", sdk.WithRev(rev-1)) {
		var at *sdk.CompactedError
		if !errors.As(err, &at) || at.CompactRevision != rev {
			t.Errorf("watch: %v; want CompactedError at %d", err, rev)
		}
	}
}

func leases(t *testing.T, c *sdk.Client) {
	ctx := t.Context()
	l, err := c.Grant(ctx, 59500*time.Millisecond, sdk.WithLeaseID(777))
	if err != nil || l.ID != 777 || l.TTL != time.Minute {
		t.Fatalf("grant: %+v, %v", l, err)
	}
	if _, err := c.Grant(ctx, time.Minute, sdk.WithLeaseID(777)); !errors.Is(err, sdk.ErrLeaseExists) {
		t.Errorf("second grant: %v; want ErrLeaseExists", err)
	}
	if _, err := c.Put(ctx, "leased", nil, sdk.WithLease(777)); err != nil {
		t.Fatal(err)
	}
	if k, err := c.KeepAliveOnce(ctx, 777); err != nil || k != l {
		t.Errorf("keep-alive: %+v, %v", k, err)
	}
	info, err := c.TimeToLive(ctx, 777, true)
	if err != nil || info.Granted != time.Minute || info.Remaining > time.Minute || !slices.Equal(info.Keys, []string{"leased"}) {
		t.Errorf("time to live: %+v, %v", info, err)
	}
	if ids, err := c.Leases(ctx); err != nil || !slices.Contains(ids, 777) {
		t.Errorf("leases: %v, %v", ids, err)
	}
	if err := c.Revoke(ctx, 777); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Get(ctx, "leased"); err != nil || r.Count != 0 {
		t.Errorf("key after revoke: %+v, %v", r, err)
	}
	_, aliveErr := c.KeepAliveOnce(ctx, 777)
	_, infoErr := c.TimeToLive(ctx, 777, false)
	for call, err := range map[string]error{"keep-alive": aliveErr, "time to live": infoErr, "revoke": c.Revoke(ctx, 777)} {
		if !errors.Is(err, sdk.ErrLeaseNotFound) {
			t.Errorf("%s of a revoked lease: %v; want ErrLeaseNotFound", call, err)
		}
	}
}

func watchTxn(t *testing.T, c *sdk.Client) {
	ctx := t.Context()
	for b, err := range c.Watch(ctx, "w/", sdk.WithPrefix(), sdk.WithPrevKV(), sdk.WithCreatedNotify()) {
		if err != nil {
			t.Fatal(err)
		}
		if b.Created {
			_, err := c.Txn(ctx, sdk.Txn{Then: []sdk.Op{sdk.OpPut("w/a", []byte("1")), sdk.OpPut("w/b", []byte("2"))}})
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		if b.Events[0].Type == sdk.Put {
			if len(b.Events) != 2 || !b.Events[0].IsCreate() || string(b.Events[1].KV.Value) != "2" {
				t.Errorf("got %+v; want both puts", b.Events)
			}
			if _, err := c.Delete(ctx, "w/a"); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if e := b.Events[0]; e.KV.Key != "w/a" || e.Prev == nil || string(e.Prev.Value) != "1" {
			t.Errorf("got %+v; want the delete with what was there", e)
		}
		break
	}
}

func watchBig(t *testing.T, c *sdk.Client) {
	ctx := t.Context()
	const parts, size = 8, 150 << 10
	for b, err := range c.Watch(ctx, "big/", sdk.WithPrefix(), sdk.WithPrevKV(), sdk.WithFragment(), sdk.WithCreatedNotify()) {
		if err != nil {
			t.Fatal(err)
		}
		if !b.Created && b.Events[0].Prev != nil {
			if len(b.Events) != parts {
				t.Errorf("got a batch of %d events; want %d", len(b.Events), parts)
			}
			break
		}
		if !b.Created {
			continue
		}
		var ops []sdk.Op
		for i := range parts {
			ops = append(ops, sdk.OpPut(fmt.Sprintf("big/%d", i), make([]byte, size)))
		}
		for range 2 { // the second time each event carries the old value, too
			if _, err := c.Txn(ctx, sdk.Txn{Then: ops}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func sessionRevoked(t *testing.T, c *sdk.Client) {
	s, err := sdk.NewSession(t.Context(), c, sdk.WithTTL(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.WithoutCancel(t.Context()))
	if _, err := c.Put(t.Context(), "session", nil, sdk.WithLease(s.Lease())); err != nil {
		t.Fatal(err)
	}
	if err := c.Revoke(t.Context(), s.Lease()); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if left := time.Until(s.Deadline()); !errors.Is(s.Err(), sdk.ErrSessionLost) || left < 0 {
		t.Errorf("session ended with %v, %v before its deadline; want ErrSessionLost at the next renewal", s.Err(), left)
	}
}

func members(t *testing.T, c *sdk.Client) {
	ms, err := c.MemberList(t.Context())
	if err != nil || len(ms) != 1 || ms[0].Name != "m0" {
		t.Fatalf("members: %+v, %v", ms, err)
	}
	st, err := c.Status(t.Context(), c.Endpoints()[0])
	if err != nil || st.Leader != ms[0].ID || st.Header.MemberID != ms[0].ID {
		t.Errorf("status: %+v, %v", st, err)
	}
}

// TestWatchAndSessionOutliveMembers kills each member of a cluster in turn, under a writer, a watch and a
// session.
func TestWatchAndSessionOutliveMembers(t *testing.T) {
	cluster := mustertest.Start(t, 3)
	c := cluster.Client()
	ctx := t.Context()
	s, err := sdk.NewSession(ctx, c, sdk.WithTTL(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.WithoutCancel(ctx))
	first, err := c.Get(ctx, "n")
	if err != nil {
		t.Fatal(err)
	}
	write := func() {
		t.Helper()
		for {
			_, err := c.Put(ctx, "n", nil)
			if err == nil {
				return
			}
			if !errors.Is(err, sdk.ErrUnknownOutcome) && !errors.Is(err, sdk.ErrUnavailable) {
				t.Fatal(err)
			}
		}
	}
	faults := []func(){}
	for i := range 3 {
		faults = append(faults, func() { cluster.Kill(i) }, func() { cluster.Restart(i) })
	}
	// Every put is one revision, so a gap or a repetition shows at once. Each event makes the next put.
	next, write0 := first.Header.Revision+1, true
	for b, err := range c.Watch(ctx, "n", sdk.WithRev(next), sdk.WithCreatedNotify()) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range b.Events {
			if e.KV.ModRevision != next {
				t.Fatalf("got revision %d; want %d", e.KV.ModRevision, next)
			}
			next++
		}
		if len(faults) == 0 {
			break
		}
		if b.Created && !write0 {
			continue
		}
		write0 = false
		faults[0]()
		faults = faults[1:]
		write()
	}
	if err := s.Err(); err != nil {
		t.Errorf("session: %v", err)
	}
}

// TestCallsAndSessionsLeaveAMemberThatHangs pauses each member in turn: its connections stay open, nothing is answered.
func TestCallsAndSessionsLeaveAMemberThatHangs(t *testing.T) {
	cluster := mustertest.Start(t, 3)
	c := cluster.Open(sdk.Config{Timeout: 2 * time.Second})
	ctx := t.Context()
	s, err := sdk.NewSession(ctx, c, sdk.WithTTL(6*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.WithoutCancel(ctx))
	for i := range 3 {
		cluster.Pause(i)
		if _, err := c.Get(ctx, "k"); err != nil {
			t.Errorf("get while member %d hangs: %v", i, err)
		}
		// A leader may have been paused or deposed with the put in its hands: then nobody can tell, but the next one works.
		for try := 0; ; try++ {
			_, err := c.Put(ctx, "k", nil)
			if err == nil {
				break
			}
			if !errors.Is(err, sdk.ErrUnknownOutcome) || try == 2 {
				t.Fatalf("put number %d while member %d hangs: %v", try, i, err)
			}
		}
		cluster.Resume(i)
	}
	if err := s.Err(); err != nil {
		t.Errorf("session: %v", err)
	}
}
