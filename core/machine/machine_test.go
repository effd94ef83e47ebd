package machine_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
)

// rig drives one machine, one command an entry.
type rig struct {
	t     testing.TB
	m     *machine.Machine
	index uint64
	term  uint64
}

func newRig(t testing.TB, cfg machine.Config) *rig {
	t.Helper()
	m, err := machine.New(cfg, membership.Member{ID: 1, PeerURLs: []string{"http://a"}})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, m: m, term: 1}
}

// apply runs one command in an entry of its own.
func (r *rig) apply(kind machine.Kind, body []byte) machine.Result {
	c := machine.Command{Kind: kind, ID: r.index + 100, Member: 1, Body: body}
	r.index++
	res := r.m.Apply(r.index, r.term, c.AppendTo(nil), true)
	r.m.EndEntry(r.index, r.term)
	return res
}

// do runs a request and decodes its reply into resp.
func (r *rig) do(kind machine.Kind, req, resp proto.Message) error {
	r.t.Helper()
	body, err := proto.Marshal(req)
	if err != nil {
		r.t.Fatal(err)
	}
	res := r.apply(kind, body)
	if res.Err != nil {
		return res.Err
	}
	if err := proto.Unmarshal(res.Body, resp); err != nil {
		r.t.Fatalf("%v: unreadable reply %x: %v", kind, res.Body, err)
	}
	return nil
}

func (r *rig) put(key, value string, leaseID int64) error {
	return r.do(machine.Put, &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: leaseID}, &pb.PutResponse{})
}

func TestPutIsReadFromTheNextView(t *testing.T) {
	r := newRig(t, machine.Config{})
	if err := r.put("k", "v", 0); err != nil {
		t.Fatal(err)
	}
	v := r.m.Publish()
	rec, ok := v.KV.Get([]byte("k"))
	if !ok || string(rec.Value()) != "v" || v.KV.Rev() != 2 || v.Index != 1 {
		t.Fatalf("record %q, revision %d, index %d", rec, v.KV.Rev(), v.Index)
	}
}

func TestUnknownCommandsStopTheMember(t *testing.T) {
	r := newRig(t, machine.Config{})
	good := (&machine.Command{Kind: machine.Put}).AppendTo(nil)
	newer := append([]byte{2}, good[1:]...)
	for name, tt := range map[string]struct {
		cmd  []byte
		want error
	}{
		"kind":            {(&machine.Command{Kind: 200}).AppendTo(nil), machine.ErrUnknownCommand},
		"conf change":     {(&machine.Command{Kind: machine.ConfChange}).AppendTo(nil), machine.ErrUnknownCommand},
		"format":          {newer, machine.ErrUnknownCommand},
		"cut short":       {good[:20], machine.ErrBadEntry},
		"empty":           {nil, machine.ErrBadEntry},
		"setting":         {(&machine.Command{Kind: machine.SetSettings, Body: []byte{0x78, 1}}).AppendTo(nil), machine.ErrUnknownCommand},
		"cluster version": {(&machine.Command{Kind: machine.ClusterVersion, Body: machine.EncodeClusterVersion("3.8.0")}).AppendTo(nil), machine.ErrUnknownCommand},
	} {
		res := r.m.Apply(1, 1, tt.cmd, true)
		if !errors.Is(res.Err, tt.want) || !machine.Fatal(res.Err) {
			t.Errorf("%s: %v", name, res.Err)
		}
	}
	for _, err := range machine.Commands([]byte{9}) {
		if !errors.Is(err, machine.ErrUnknownCommand) {
			t.Errorf("entry format: %v", err)
		}
	}
	for _, err := range machine.Commands([]byte{1, 200, 1}) {
		if !errors.Is(err, machine.ErrBadEntry) {
			t.Errorf("bad length: %v", err)
		}
	}
}

func TestEntryHoldsItsCommandsInOrder(t *testing.T) {
	entry := machine.AppendEntryHeader(nil)
	var offsets []int
	for i := range uint64(5) {
		c := machine.Command{
			Kind: machine.Txn, ID: i + 1, Member: 9, User: strings.Repeat("u", int(i)*100),
			AuthRevision: i, Body: bytes.Repeat([]byte{byte(i)}, int(i)*50),
		}
		var off int
		entry, off = machine.AppendCommand(entry, &c)
		offsets = append(offsets, off)
	}
	for i, off := range offsets {
		machine.StampTime(entry[off:], int64(1000+i))
	}
	n := uint64(0)
	for e, err := range machine.Commands(entry) {
		if err != nil {
			t.Fatal(err)
		}
		c := e.Decode()
		if e.Offset != offsets[n] || c.ID != n+1 || c.Member != 9 || c.Time != int64(1000+n) || len(c.User) != int(n)*100 ||
			c.AuthRevision != n || !bytes.Equal(c.Body, bytes.Repeat([]byte{byte(n)}, int(n)*50)) || c.Kind != machine.Txn {
			t.Fatalf("command %d: %+v at %d", n, c, e.Offset)
		}
		n++
	}
	if member, id, ok := machine.FirstID(entry); n != 5 || !ok || member != 9 || id != 1 {
		t.Fatalf("%d commands, first %d of member %d, %v", n, id, member, ok)
	}
	if _, _, ok := machine.FirstID(nil); ok {
		t.Fatal("an empty entry has a first command")
	}
}

// The layout is fixed from the first release on: logs hold it.
func TestCommandLayoutNeverChanges(t *testing.T) {
	c := machine.Command{
		Kind: machine.Put, ID: 0x0102030405060708, Member: 0x1112131415161718, User: "root",
		AuthRevision: 0x2122232425262728, Time: 0x3132333435363738, Body: []byte("body"),
	}
	entry, _ := machine.AppendCommand(machine.AppendEntryHeader(nil), &c)
	want := "01" + "2c" + // entry format, length
		"01" + "01" + "0807060504030201" + "1817161514131211" + "3837363534333231" + "2827262524232221" + "0400" +
		"726f6f74" + "626f6479"
	if got := hex.EncodeToString(entry); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}

func TestWhoHasDivergedIsReportedOnceAndNotAfterARestart(t *testing.T) {
	var logged bytes.Buffer
	r := newRig(t, machine.Config{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	verdict := func(undecided bool) {
		t.Helper()
		v := machine.Verdict{Index: 1 << 40, Diverged: []uint64{7}, Undecided: undecided}
		if res := r.apply(machine.HashVerdict, v.Encode()); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	r.m.Replays(r.m.Index() + 2)
	verdict(true)
	if !strings.Contains(logged.String(), "no majority") {
		t.Errorf("a dispute that stands is not in the log: %q", &logged)
	}
	logged.Reset()
	verdict(false)
	if v := r.m.Publish(); logged.Len() > 0 || v.Diverged != 0 || v.HasAlarm(pb.AlarmType_CORRUPT) {
		t.Errorf("replayed: %d diverged, alarms %v, and the log says %q", v.Diverged, v.Alarms, &logged)
	}
	verdict(false)
	if v := r.m.Publish(); v.Diverged != 1 || !strings.Contains(logged.String(), "diverged") {
		t.Errorf("after the replay: %d diverged, and the log says %q", v.Diverged, &logged)
	}
}

func TestDivergedMemberIsToldApart(t *testing.T) {
	var logged bytes.Buffer
	a, b := newRig(t, machine.Config{}), newRig(t, machine.Config{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	for i := range 10 {
		for _, r := range []*rig{a, b} {
			if err := r.put("k", fmt.Sprint(i), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	// what b finds when it compares itself at an index, nothing if it can't
	check := func(index, hash uint64) []machine.Checked {
		t.Helper()
		if res := b.apply(machine.HashCheck, machine.EncodeHashCheck(index, hash)); res.Err != nil {
			t.Fatalf("a check is no verdict: %v", res.Err)
		}
		return b.m.Checks()
	}
	at := a.m.Publish()
	if got := check(at.Index, at.Hash); len(got) != 1 || got[0] != (machine.Checked{Index: at.Index, Hash: at.Hash}) {
		t.Fatalf("equal members: %+v", got)
	}
	if err := a.put("k", "other", 0); err != nil {
		t.Fatal(err)
	}
	if err := b.put("k", "not the same", 0); err != nil {
		t.Fatal(err)
	}
	// The check names an earlier entry, where they were still equal.
	if got := check(at.Index, at.Hash); len(got) != 1 || got[0].Differs {
		t.Fatalf("equal at that index: %+v", got)
	}
	b2 := b.m.Publish()
	theirs := b2.Hash + 1
	if got := check(b2.Index, theirs); len(got) != 1 || got[0] != (machine.Checked{Index: b2.Index, Hash: b2.Hash, Differs: true}) {
		t.Fatalf("diverged members: %+v", got)
	}
	// Nothing is known of an entry long ago, nor of one to come.
	for _, index := range []uint64{0, 1 << 40} {
		if got := check(index, 1); len(got) != 0 {
			t.Fatalf("index %d: %+v", index, got)
		}
	}
	verdict := func(index, hash uint64) error {
		return b.apply(machine.HashVerdict, machine.Verdict{Index: index, Hash: hash, Diverged: []uint64{7}}.Encode()).Err
	}
	// Nobody could tell who was right; then the majority turned out to agree with this member.
	b.apply(machine.HashVerdict, machine.Verdict{Index: b2.Index, Diverged: []uint64{7}, Undecided: true}.Encode())
	for _, want := range []string{"level=ERROR", "no majority", "members=[7]", fmt.Sprintf("own=%016x", b2.Hash)} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("the log says %q, want %q in it", &logged, want)
		}
	}
	if err := b.put("k", "v", 0); !errors.Is(err, machine.ErrCorrupt) {
		t.Fatalf("a put under the alarm: %v", err)
	}
	if err := verdict(b2.Index, b2.Hash); err != nil {
		t.Fatalf("a verdict about another member: %v", err)
	}
	if v := b.m.Publish(); v.HasAlarm(pb.AlarmType_CORRUPT) || v.Diverged != 1 {
		t.Fatalf("after it: alarms %v, %d diverged", v.Alarms, v.Diverged)
	}
	if err := verdict(1<<40, theirs); err != nil {
		t.Fatalf("a verdict about what this member doesn't know: %v", err)
	}
	if err := verdict(b2.Index, theirs); !errors.Is(err, machine.ErrDiverged) || !machine.Fatal(err) {
		t.Fatalf("a verdict about this member: %v", err)
	}
}

func TestOnlyAnAlarmThatADisputeRaisedEndsWithIt(t *testing.T) {
	const operators, disputes = 1, 2
	alarm := func(action pb.AlarmRequest_AlarmAction) []byte {
		return marshal(t, &pb.AlarmRequest{Action: action, MemberID: operators, Alarm: pb.AlarmType_CORRUPT})
	}
	undecided := machine.Verdict{Diverged: []uint64{disputes}, Undecided: true}.Encode()
	decided := machine.Verdict{Index: 1 << 40}.Encode()
	for name, c := range map[string]struct {
		do   func(*rig)
		want []machine.RaisedAlarm
	}{
		"by hand":    {func(r *rig) { r.apply(machine.Alarm, alarm(pb.AlarmRequest_ACTIVATE)) }, []machine.RaisedAlarm{{Member: operators, Type: pb.AlarmType_CORRUPT}}},
		"by dispute": {func(r *rig) { r.apply(machine.HashVerdict, undecided) }, nil},
		"by dispute, disarmed, then by hand": {func(r *rig) {
			r.apply(machine.HashVerdict, undecided)
			r.apply(machine.Alarm, marshal(t, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: disputes, Alarm: pb.AlarmType_CORRUPT}))
			r.apply(machine.Alarm, alarm(pb.AlarmRequest_ACTIVATE))
		}, []machine.RaisedAlarm{{Member: operators, Type: pb.AlarmType_CORRUPT}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, machine.Config{})
			c.do(r)
			before := r.m.Publish()
			if !before.HasAlarm(pb.AlarmType_CORRUPT) {
				t.Fatal("no alarm")
			}
			again, err := machine.Restore(machine.Config{}, dump(t, before))
			if err != nil {
				t.Fatal(err)
			}
			r.m = again // who raised it outlives a restart
			r.apply(machine.HashVerdict, decided)
			if got := r.m.Publish().Alarms; !slices.Equal(got, c.want) {
				t.Errorf("after a verdict: %v, want %v", got, c.want)
			}
		})
	}
}

func TestRunningHashSeesWhatMembersDisagreeOn(t *testing.T) {
	hashAfter := func(kind machine.Kind, body []byte) uint64 {
		r := newRig(t, machine.Config{})
		r.apply(machine.LeaseGrant, marshal(t, &pb.LeaseGrantRequest{ID: 1, TTL: 60}))
		if err := r.put("a", "b", 0); err != nil {
			t.Fatal(err)
		}
		r.apply(kind, body)
		return r.m.Publish().Hash
	}
	seen := map[uint64]string{}
	for name, h := range map[string]uint64{
		"nothing":       hashAfter(machine.HashCheck, machine.EncodeHashCheck(0, 0)),
		"put":           hashAfter(machine.Put, marshal(t, &pb.PutRequest{Key: []byte("a"), Value: []byte("c")})),
		"other value":   hashAfter(machine.Put, marshal(t, &pb.PutRequest{Key: []byte("a"), Value: []byte("d")})),
		"lease":         hashAfter(machine.Put, marshal(t, &pb.PutRequest{Key: []byte("a"), Value: []byte("c"), Lease: 1})),
		"refused put":   hashAfter(machine.Put, marshal(t, &pb.PutRequest{Key: []byte("a"), Lease: 2})),
		"empty put":     hashAfter(machine.Put, nil),
		"malformed put": hashAfter(machine.Put, []byte{0xff}),
		"delete":        hashAfter(machine.DeleteRange, marshal(t, &pb.DeleteRangeRequest{Key: []byte("a")})),
		"compact":       hashAfter(machine.Compact, marshal(t, &pb.CompactionRequest{Revision: 1})),
		"grant":         hashAfter(machine.LeaseGrant, marshal(t, &pb.LeaseGrantRequest{ID: 2, TTL: 60})),
		"revoke":        hashAfter(machine.LeaseRevoke, marshal(t, &pb.LeaseRevokeRequest{ID: 1})),
		"checkpoint":    hashAfter(machine.LeaseCheckpoint, machine.EncodeLeaseCheckpoint(1, 5)),
		"attributes":    hashAfter(machine.MemberAttributes, machine.EncodeMemberAttributes(1, "n", nil)),
		"settings":      hashAfter(machine.SetSettings, machine.Settings{Quota: 1 << 20}.Encode()),
		"version":       hashAfter(machine.ClusterVersion, machine.EncodeClusterVersion("3.7.0")),
		"alarm":         hashAfter(machine.Alarm, marshal(t, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_CORRUPT})),
	} {
		if other, ok := seen[h]; ok {
			t.Errorf("%s and %s have one hash", name, other)
		}
		seen[h] = name
	}
}

func TestRefusedConfigurationChangeChangesNothing(t *testing.T) {
	r := newRig(t, machine.Config{})
	propose := func(op membership.Op, m membership.Member) (machine.Result, error) {
		t.Helper()
		cc, err := machine.ConfChangeContext(machine.Command{ID: 42, Member: 1}, membership.Change{Op: op, Member: m})
		if err != nil {
			t.Fatal(err)
		}
		checked := r.m.CheckConfChange(cc)
		r.index++
		res := r.m.ApplyConfChange(r.index, 1, cc, &raftpb.ConfState{Voters: []uint64{1, r.index}})
		r.m.EndEntry(r.index, 1)
		return res, checked
	}
	res, checked := propose(membership.AddVoter, membership.Member{ID: 2, PeerURLs: []string{"http://b"}})
	if res.Err != nil || checked != nil || res.ID != 42 {
		t.Fatalf("%+v, %v", res, checked)
	}
	v := r.m.Publish()
	if len(v.Members) != 2 || v.ConfState.GetVoters()[1] != 1 || v.Index != 1 {
		t.Fatalf("%+v", v)
	}
	res, checked = propose(membership.AddVoter, membership.Member{ID: 3, PeerURLs: []string{"http://b"}})
	if !errors.Is(res.Err, membership.ErrPeerURLExists) || !errors.Is(checked, membership.ErrPeerURLExists) || machine.Fatal(res.Err) {
		t.Fatalf("%v, %v", res.Err, checked)
	}
	if v := r.m.Publish(); len(v.Members) != 2 {
		t.Fatalf("%+v", v.Members)
	}
	// A change that tells raft and the members different things is not applied by halves.
	cc, err := machine.ConfChangeContext(machine.Command{}, membership.Change{Op: membership.Remove, Member: membership.Member{ID: 2}})
	if err != nil {
		t.Fatal(err)
	}
	other := uint64(1)
	cc.Changes[0].NodeId = &other
	if err := r.m.CheckConfChange(cc); !errors.Is(err, membership.ErrBadChange) {
		t.Fatal(err)
	}
	// One without members' business concerns raft alone.
	if err := r.m.CheckConfChange(&raftpb.ConfChangeV2{}); err != nil {
		t.Fatal(err)
	}
}

func TestClusterVersionOnlyRises(t *testing.T) {
	r := newRig(t, machine.Config{})
	for _, tt := range []struct {
		version string
		want    error
	}{
		{"3.6.0", nil},
		{"3.7.0", nil},
		{"3.7.0", nil},
		{"3.6.0", machine.ErrBadVersion},
		{"3.7", machine.ErrBadVersion},
		{"x.y.z", machine.ErrBadVersion},
	} {
		if res := r.apply(machine.ClusterVersion, machine.EncodeClusterVersion(tt.version)); !errors.Is(res.Err, tt.want) {
			t.Errorf("%s: %v", tt.version, res.Err)
		}
	}
	if got := r.m.Publish().ClusterVersion; got != "3.7.0" {
		t.Errorf("version %q", got)
	}
}

func TestSettingsLimitTxnsAndLeases(t *testing.T) {
	r := newRig(t, machine.Config{})
	if res := r.apply(machine.SetSettings, machine.Settings{MaxTxnOps: 1, MinLeaseTTL: 30}.Encode()); res.Err != nil {
		t.Fatal(res.Err)
	}
	get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}}
	err := r.do(machine.Txn, &pb.TxnRequest{Success: []*pb.RequestOp{get, get}}, &pb.TxnResponse{})
	if !errors.Is(err, machine.ErrTooManyOps) {
		t.Errorf("txn: %v", err)
	}
	var granted pb.LeaseGrantResponse
	if err := r.do(machine.LeaseGrant, &pb.LeaseGrantRequest{ID: 1, TTL: 1}, &granted); err != nil || granted.TTL != 30 {
		t.Errorf("lease: %v, %v", &granted, err)
	}
	want := machine.DefaultSettings()
	want.MaxTxnOps, want.MinLeaseTTL = 1, 30
	if got := r.m.Publish().Settings; got != want {
		t.Errorf("settings %+v", got)
	}
	if res := r.apply(machine.SetSettings, machine.Settings{MaxTxnOps: -1}.Encode()); !errors.Is(res.Err, machine.ErrBadSettings) {
		t.Errorf("bad settings: %v", res.Err)
	}
}

func TestSettingsThatCouldNotBeReadBackFoundNoCluster(t *testing.T) {
	for _, s := range []machine.Settings{{MaxTxnOps: 1 << 31}, {MaxTxnOps: -1}, {MaxLearners: 1 << 40}, {MinLeaseTTL: -5}, {MaxRequestBytes: -1}} {
		if _, err := machine.New(machine.Config{Settings: s}, founders()...); !errors.Is(err, machine.ErrBadSettings) {
			t.Errorf("%+v: got %v, want ErrBadSettings", s, err)
		}
	}
}

func TestPublishedViewStaysAsItWas(t *testing.T) {
	r := newRig(t, machine.Config{})
	r.apply(machine.LeaseGrant, marshal(t, &pb.LeaseGrantRequest{ID: 1, TTL: 60}))
	for i := range 100 {
		if err := r.put(fmt.Sprint("k", i), "v", 1); err != nil {
			t.Fatal(err)
		}
	}
	v := r.m.Publish()
	before := fmt.Sprint(dump(t, v))
	r.apply(machine.LeaseRevoke, marshal(t, &pb.LeaseRevokeRequest{ID: 1}))
	r.apply(machine.Compact, marshal(t, &pb.CompactionRequest{Revision: 102}))
	r.apply(machine.MemberAttributes, machine.EncodeMemberAttributes(1, "renamed", nil))
	for r.m.Background(10) {
	}
	for i := range 100 {
		if err := r.put(fmt.Sprint("k", i), "w", 0); err != nil {
			t.Fatal(err)
		}
	}
	if after := fmt.Sprint(dump(t, v)); after != before {
		t.Error("a published view changed")
	}
}

func TestViewsEndWithAnEntry(t *testing.T) {
	r := newRig(t, machine.Config{})
	r.m.Apply(1, 1, (&machine.Command{Kind: machine.Put}).AppendTo(nil), false)
	for _, c := range []struct { // in this order: the second ends the entry
		name string
		f    func()
	}{
		{"publishing inside an entry", func() { r.m.Publish() }},
		{"going back", func() { r.m.EndEntry(1, 1); r.m.EndEntry(1, 1) }},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s went unnoticed", c.name)
				}
			}()
			c.f()
		}()
	}
}
