package machine_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/mvcc"
)

// readSnapshot reads the buckets of a database that etcd 3.7.3 wrote, dumped as
// hexadecimal text. Both were made with etcdctl: keys k1 to k3 put, k1 and k2 put
// again with a lease, k3 deleted and put again, k2 put without lease, compacted
// at 6, an empty value put, a key put with a second lease and deleted, a learner
// added and removed. The one called bumped went through etcdutl snapshot restore
// --bump-revision 1000 --mark-compacted.
func readSnapshot(t *testing.T, name string) buckets {
	t.Helper()
	text, err := os.ReadFile("testdata/snapshots/" + name)
	if err != nil {
		t.Fatal(err)
	}
	out := make(buckets)
	var bucket string
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if key == "bucket" {
			bucket = value
			continue
		}
		k, err1 := hex.DecodeString(key)
		v, err2 := hex.DecodeString(value)
		if err1 != nil || err2 != nil {
			t.Fatal(line, err1, err2)
		}
		out[bucket] = append(out[bucket], [2][]byte{k, v})
	}
	return out
}

func allKeys(t *testing.T, v *machine.View) string {
	t.Helper()
	var b strings.Builder
	err := v.KV.RangeEach(mvcc.RangeOptions{Key: []byte{0}, End: []byte{0}}, func(r mvcc.Record) bool {
		fmt.Fprintf(&b, "%s=%s %d %d %d %x\n", r.Key(), r.Value(), r.CreateRevision(), r.ModRevision(), r.Version(), r.Lease())
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const snapshotKeys = `empty= 10 10 1 0
k1=v1b 2 5 2 390da203e0ceed03
k2=free 3 9 3 0
k3=again 8 8 1 0
`

func TestSnapshotOfEtcdIsRestored(t *testing.T) {
	m, err := machine.Restore(machine.Config{}, readSnapshot(t, "etcd-3.7.3-snapshot.txt"))
	if err != nil {
		t.Fatal(err)
	}
	v := m.Publish()
	if v.KV.Rev() != 12 || v.KV.CompactRev() != 6 || v.Index != 21 || v.Term != 2 {
		t.Errorf("revision %d compacted %d index %d term %d", v.KV.Rev(), v.KV.CompactRev(), v.Index, v.Term)
	}
	if got := allKeys(t, v); got != snapshotKeys {
		t.Errorf("got\n%swant\n%s", got, snapshotKeys)
	}
	const id = 0x390da203e0ceed03
	if l, ok := v.Leases.Lookup(id); !ok || l.TTL != 10000 || fmt.Sprintf("%s", v.Leases.Keys(id)) != "[k1]" || v.Leases.Len() != 2 {
		t.Errorf("lease %+v keys %s, %d leases", l, v.Leases.Keys(id), v.Leases.Len())
	}
	if len(v.Members) != 1 || v.Members[0].Name != "n1" || v.Members[0].ID != 0xbdae9bbc11dd390d || fmt.Sprintf("%x", v.RemovedMembers) != "[b852836000639b1b]" {
		t.Errorf("members %+v, removed %x", v.Members, v.RemovedMembers)
	}
	if len(v.ConfState.GetVoters()) != 1 || v.ConfState.GetVoters()[0] != v.Members[0].ID || v.ClusterVersion != "3.7.0" {
		t.Errorf("conf state %v, version %q", v.ConfState, v.ClusterVersion)
	}
}

func TestSnapshotThatEtcdutlBumpedKeepsItsRevision(t *testing.T) {
	m, err := machine.Restore(machine.Config{}, readSnapshot(t, "etcd-3.7.3-bumped.txt"))
	if err != nil {
		t.Fatal(err)
	}
	v := m.Publish()
	if v.KV.Rev() != 1012 || v.KV.CompactRev() != 1012 || allKeys(t, v) != snapshotKeys {
		t.Errorf("revision %d compacted %d\n%s", v.KV.Rev(), v.KV.CompactRev(), allKeys(t, v))
	}
}

func TestRefoundTakesOverDataAndNothingElse(t *testing.T) {
	founder := membership.Member{ID: 99, PeerURLs: []string{"http://new"}}
	m, err := machine.Refound(machine.Config{}, readSnapshot(t, "etcd-3.7.3-snapshot.txt"), 1_000_000, true, founder)
	if err != nil {
		t.Fatal(err)
	}
	v := m.Publish()
	if v.KV.Rev() != 1_000_012 || v.KV.CompactRev() != 1_000_012 || allKeys(t, v) != snapshotKeys {
		t.Errorf("revision %d compacted %d\n%s", v.KV.Rev(), v.KV.CompactRev(), allKeys(t, v))
	}
	if v.Index != 0 || v.Term != 0 || len(v.Members) != 1 || v.Members[0].ID != 99 || v.RemovedMembers != nil || v.ClusterVersion != "" {
		t.Errorf("%+v", v)
	}
	if len(v.ConfState.GetVoters()) != 1 || v.ConfState.GetVoters()[0] != 99 || v.Leases.Len() != 2 {
		t.Errorf("conf state %v, %d leases", v.ConfState, v.Leases.Len())
	}
	// The new cluster goes on from there.
	r := &rig{t: t, m: m, term: 1}
	if err := r.put("k", "v", 0); err != nil || m.Publish().KV.Rev() != 1_000_013 {
		t.Fatal(err)
	}
}

func TestRefoundTakesTheSnapshotsSettingsAndThoseItIsGivenBeforeThem(t *testing.T) {
	r := newRig(t, machine.Config{})
	r.apply(machine.SetSettings, machine.Settings{Quota: 8 << 30, MaxTxnOps: 500}.Encode())
	m, err := machine.Refound(machine.Config{Settings: machine.Settings{Quota: 4 << 30, MaxLearners: 3}}, dump(t, r.m.Publish()), 0, false, founders()...)
	if err != nil {
		t.Fatal(err)
	}
	want := machine.DefaultSettings()
	want.Quota, want.MaxTxnOps, want.MaxLearners = 4<<30, 500, 3
	if got := m.Publish().Settings; got != want {
		t.Errorf("settings %+v, want %+v", got, want)
	}
}

func TestCheckpointKeepsEverything(t *testing.T) {
	r := newRig(t, machine.Config{})
	change := membership.Change{Op: membership.AddLearner, Member: membership.Member{ID: 5, PeerURLs: []string{"http://e"}}}
	cc, err := machine.ConfChangeContext(machine.Command{ID: 1, Time: 77}, change)
	if err != nil {
		t.Fatal(err)
	}
	r.index++
	r.m.ApplyConfChange(r.index, 1, cc, nil)
	r.m.EndEntry(r.index, 1)
	r.apply(machine.MemberAttributes, machine.EncodeMemberAttributes(1, "one", []string{"http://c"}))
	r.apply(machine.SetSettings, machine.Settings{Quota: -1, MinLeaseTTL: 9}.Encode())
	r.apply(machine.ClusterVersion, machine.EncodeClusterVersion("3.7.0"))
	r.apply(machine.LeaseGrant, marshal(t, &pb.LeaseGrantRequest{ID: -3, TTL: 600}))
	r.apply(machine.LeaseCheckpoint, machine.EncodeLeaseCheckpoint(-3, 40))
	r.apply(machine.Alarm, marshal(t, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1 << 63, Alarm: pb.AlarmType_NOSPACE}))
	before := r.m.Publish()
	m, err := machine.Restore(machine.Config{}, dump(t, before))
	if err != nil {
		t.Fatal(err)
	}
	after := m.Publish()
	if l, ok := after.Leases.Lookup(-3); !ok || l != (lease.Lease{ID: -3, TTL: 600, Remaining: 40}) {
		t.Errorf("lease %+v", l)
	}
	show := func(v *machine.View) string {
		return fmt.Sprintf("%d %d %v %+v %x %+v %+v %q %d %d %x", v.Index, v.Term, v.ConfState.GetVoters(), v.Members,
			v.RemovedMembers, v.Alarms, v.Settings, v.ClusterVersion, v.MaxTime, v.Used, v.Hash)
	}
	if show(after) != show(before) {
		t.Errorf("got  %s\nwant %s", show(after), show(before))
	}
	if before.MaxTime != 77 || len(before.Members) != 2 || before.Members[0].Name != "one" || len(before.Alarms) != 1 {
		t.Errorf("the test's own state is poor: %s", show(before))
	}
}

func TestRestoreRefusesWhatItCannotKeepUpWith(t *testing.T) {
	base := func() buckets { return dump(t, newRig(t, machine.Config{}).m.Publish()) }
	set := func(b buckets, bucket, key string, value []byte) buckets {
		for i, p := range b[bucket] {
			if string(p[0]) == key {
				b[bucket][i][1] = value
				return b
			}
		}
		b[bucket] = append(b[bucket], [2][]byte{[]byte(key), value})
		return b
	}
	tests := map[string]struct {
		in   buckets
		want error
	}{
		"as it was":             {base(), nil},
		"nothing at all":        {buckets{}, nil},
		"newer format":          {set(base(), "muster", "format", []byte{0, 0, 0, 0, 0, 0, 0, 2}), machine.ErrNewerCheckpoint},
		"unknown state":         {set(base(), "muster", "zebra", nil), machine.ErrNewerCheckpoint},
		"newer cluster version": {set(base(), "cluster", "clusterVersion", []byte("3.8.0")), machine.ErrNewerCheckpoint},
		"auth enabled":          {set(base(), "auth", "authEnabled", []byte{1}), machine.ErrAuthEnabled},
		"bad revision key":      {set(base(), "key", "short", nil), machine.ErrBadCheckpoint},
		"bad record":            {set(base(), "key", "\x00\x00\x00\x00\x00\x00\x00\x02_\x00\x00\x00\x00\x00\x00\x00\x00", []byte{9}), mvcc.ErrCorrupt},
		"bad member":            {set(base(), "members", "xyz", []byte("{}")), machine.ErrBadCheckpoint},
		"bad index":             {set(base(), "meta", "consistent_index", []byte{1}), machine.ErrBadCheckpoint},
		"bad conf state":        {set(base(), "meta", "confState", []byte("[")), machine.ErrBadCheckpoint},
	}
	for name, tt := range tests {
		if _, err := machine.Restore(machine.Config{}, tt.in); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}
