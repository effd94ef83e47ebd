package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/vfs"
	"github.com/musterhq/muster/core/watch"
)

func TestJoinIsRefusedWithTheRemedy(t *testing.T) {
	t.Parallel()
	ms := newCluster(t, 1)
	if _, err := Open(t.Context(), newJoiner(t, "j", ms...).cfg); !errors.Is(err, ErrNotAdded) {
		t.Errorf("joining before 'member add': %v, want ErrNotAdded", err)
	}
	other := newCluster(t, 1)
	both := newJoiner(t, "j", ms[0])
	both.cfg.InitialCluster["other"] = []string{other[0].url()}
	if _, err := Open(t.Context(), both.cfg); !errors.Is(err, ErrTwoClusters) {
		t.Errorf("peers of two clusters: %v, want ErrTwoClusters", err)
	}
	alone := newJoiner(t, "j", ms...)
	alone.cfg.RequestTimeout = 50 * time.Millisecond
	alone.cfg.InitialCluster["m0"] = []string{"http://127.0.0.1:1"}
	if _, err := Open(t.Context(), alone.cfg); !errors.Is(err, ErrNoPeer) {
		t.Errorf("no peer answers: %v, want ErrNoPeer", err)
	}
	j := join(t, "j", ms[0], ms...)
	j.stop(t)
	lost := *j
	lost.cfg.Dir = t.TempDir()
	if _, err := Open(t.Context(), lost.cfg); !errors.Is(err, ErrLostData) {
		t.Errorf("joining again without the data: %v, want ErrLostData", err)
	}
	j.restart(t)
	j.ready(t)
}

func TestJoinerThatLosesPowerAnywhereStartsAgainAsTheSameMember(t *testing.T) {
	t.Parallel()
	ms := newCluster(t, 1)
	for i := range 20 {
		if err := ms[0].put(t, fmt.Sprint("k", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	j := newJoiner(t, "j", ms...)
	added, _, err := ms[0].AddMember(soon(t), []string{j.url()}, true)
	if err != nil {
		t.Fatal(err)
	}
	disk, rng := vfs.NewMem(), rand.New(rand.NewPCG(1, 1))
	j.cfg.Dir, j.cfg.SegmentBytes = "data", 64<<10
	cuts := 0
	for after := 1; ; after += 1 + after/6 {
		cut := make(chan struct{})
		left := after
		var mu sync.Mutex
		j.cfg.FS = vfs.NewFault(disk, func(op vfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if left <= 0 || op.Kind.Changes() {
				if left--; left == 0 {
					close(cut)
				}
				if left <= 0 {
					return errors.New("power cut")
				}
			}
			return nil
		})
		l, err := net.Listen("tcp", j.addr)
		if cuts == 0 {
			l, err = j.cfg.PeerListeners[0], nil
		}
		if err != nil {
			t.Fatal(err)
		}
		j.cfg.PeerListeners = []net.Listener{l}
		n, err := Open(t.Context(), j.cfg)
		if err == nil {
			j.Node = n
			if n.ID() != added.ID {
				t.Fatalf("cut %d: came up as %x, want %x", after, n.ID(), added.ID)
			}
			select {
			case <-n.Done():
			case <-n.ready:
			case <-cut:
			}
			done := n.Err() == nil
			_ = n.Close(soon(t)) // what it could not write is what this is about
			j.Node = nil
			select {
			case <-cut:
				done = false
			default:
			}
			if done {
				break
			}
		}
		l.Close()
		cuts++
		disk = disk.Crash(rng, []vfs.CrashMode{vfs.CrashDrop, vfs.CrashRandom, vfs.CrashTorn}[cuts%3])
	}
	t.Logf("came up after %d power cuts", cuts)
	if cuts < 10 {
		t.Errorf("only %d power cuts: the test misses its point", cuts)
	}
}

func TestJoinerCrashingAtEveryIOBeforeItIsBroughtUpKeepsItsIdentity(t *testing.T) {
	t.Parallel()
	self := membership.Member{ID: 77, PeerURLs: []string{"http://j:1"}}
	info, err := json.Marshal(ClusterInfo{Version: clusterInfoVersion, ClusterID: 5, Self: 1, Settled: true, Members: []membership.Member{{ID: 1, Name: "a", PeerURLs: []string{"http://a:1"}}, self}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Name: "j", Dir: "data", SegmentBytes: 64 << 10, Join: true, InitialCluster: map[string][]string{"a": {"http://a:1"}, "j": self.PeerURLs},
		Ask: func(context.Context, string) ([]byte, error) { return info, nil },
	}
	open := func(fs vfs.FS) error {
		c := cfg
		c.FS = fs
		c.InitialCluster = maps.Clone(cfg.InitialCluster)
		m, err := OpenMember(t.Context(), c, func(m *Member) Hub {
			return watch.NewHub(1, func() *mvcc.View { return m.View().KV }, watch.Config{})
		}, func(first uint64) func() uint64 { return func() uint64 { first++; return first } })
		if err != nil {
			return err
		}
		defer m.Release()
		m.applier.Hub.(*watch.Hub).Close()
		if m.ID != self.ID || m.ClusterID != 5 || m.View().Index != 0 {
			t.Fatalf("came up as %x of %x at index %d", m.ID, m.ClusterID, m.View().Index)
		}
		return m.SaveFinal(t.Context())
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for cut := 1; ; cut++ {
		for _, mode := range []vfs.CrashMode{vfs.CrashDrop, vfs.CrashRandom, vfs.CrashTorn} {
			disk, n := vfs.NewMem(), 0
			err := open(vfs.NewFault(disk, func(op vfs.Op) error {
				if n++; n >= cut {
					return errors.New("power cut")
				}
				return nil
			}))
			if n < cut && err != nil {
				t.Fatalf("cut %d (%v): %v", cut, mode, err)
			}
			if err := open(disk.Crash(rng, mode)); err != nil {
				t.Fatalf("starting again after a power cut at I/O %d (%v): %v", cut, mode, err)
			}
			if n < cut {
				t.Logf("%d I/Os", n)
				return
			}
		}
	}
}

func TestAJoinerTakesAnIDOnlyWhenEnoughMembersVouchForIt(t *testing.T) {
	t.Parallel()
	urls := []string{"http://j:1"}
	voter := func(id uint64, name string) membership.Member {
		return membership.Member{ID: id, Name: name, PeerURLs: []string{"http://" + name + ":1"}}
	}
	a, b, c := voter(1, "a"), voter(2, "b"), voter(3, "c")
	old, added := membership.Member{ID: 76, PeerURLs: urls}, membership.Member{ID: 77, PeerURLs: urls}
	ran, learner := membership.Member{ID: 77, Name: "j", PeerURLs: urls}, membership.Member{ID: 77, PeerURLs: urls, IsLearner: true}
	type (
		members = []membership.Member
		infos   = map[string]ClusterInfo
	)
	lags := ClusterInfo{Self: 1, Index: 5, Settled: true, Members: members{a, b, old}}
	tests := map[string]struct {
		flags members
		infos infos
		want  uint64
		err   error
	}{
		"the only one that lags": {members{a, b}, infos{"a": lags}, 0, ErrTooFewPeers},
		"one that lags and one that knows better": {members{a, b}, infos{
			"a": lags, "b": {Self: 2, Index: 9, Settled: true, Members: members{a, b, added}, Removed: []uint64{76}},
		}, 77, nil},
		"one that lags and one that knows of the removal alone": {members{a, b}, infos{
			"a": lags, "b": {Self: 2, Index: 8, Settled: true, Members: members{a, b}, Removed: []uint64{76}},
		}, 0, ErrNotAdded},
		"one that lags and one with a change it has yet to apply": {members{a, b}, infos{
			"a": lags, "b": {Self: 2, Index: 5, Members: members{a, b, old}},
		}, 0, ErrTooFewPeers},
		"the one member there is, in whose log stands a change": {members{a}, infos{"a": {Self: 1, Index: 5, Members: members{a, added}}}, 77, nil},
		"the one member there is":                               {members{a}, infos{"a": {Self: 1, Index: 5, Settled: true, Members: members{a, added}}}, 77, nil},
		"two of three":                                          {members{a, b, c}, infos{"a": {Self: 1, Settled: true, Members: members{a, b, c, added}}, "b": {Self: 2, Settled: true, Members: members{a, b, c, added}}}, 77, nil},
		"one of three":                                          {members{a, b, c}, infos{"a": {Self: 1, Settled: true, Members: members{a, b, c, added}}}, 0, ErrTooFewPeers},
		"the same one twice":                                    {members{a, b}, infos{"a": {Self: 1, Settled: true, Members: members{a, b, added}}, "b": {Self: 1, Settled: true, Members: members{a, b, added}}}, 0, ErrTooFewPeers},
		"one that was removed":                                  {members{a, b}, infos{"a": {Self: 1, Settled: true, Members: members{a, c, added}}, "b": {Self: 2, Settled: true, Members: members{a, c, added}}}, 0, ErrTooFewPeers},
		"one that the flags do not name":                        {members{a}, infos{"a": {Self: 1, Settled: true, Members: members{a, b, added}}, "b": {Self: 2, Settled: true, Members: members{a, b, added}}}, 77, nil},
		"a learner, by one of three voters":                     {members{a, b, c}, infos{"a": {Self: 1, Settled: true, Members: members{a, b, c, learner}}}, 0, ErrTooFewPeers},
		"a learner, by one and a learner": {members{a, b}, infos{
			"a": {Self: 1, Settled: true, Members: members{a, c, voter(4, "d"), learner, {ID: 2, Name: "b", PeerURLs: b.PeerURLs, IsLearner: true}}},
			"b": {Self: 2, Settled: true, Members: members{a, c, voter(4, "d"), learner, {ID: 2, Name: "b", PeerURLs: b.PeerURLs, IsLearner: true}}},
		}, 0, ErrTooFewPeers},
		"those that know it to have run":                                   {members{a, b}, infos{"a": {Self: 1, Settled: true, Members: members{a, b, ran}}, "b": {Self: 2, Settled: true, Members: members{a, b, ran}}}, 0, ErrLostData},
		"one that has its name in its log":                                 {members{a, b}, infos{"a": {Self: 1, Settled: true, Members: members{a, b, added}, Ran: []uint64{77}}, "b": {Self: 2, Settled: true, Members: members{a, b, added}}}, 0, ErrLostData},
		"those that know it by another name":                               {members{a, b}, infos{"a": {Self: 1, Settled: true, Members: members{a, b, {ID: 77, Name: "k", PeerURLs: urls}}}, "b": {Self: 2, Settled: true, Members: members{a, b, ran}}}, 0, ErrOtherName},
		"one alone that knows it to have run, which may have been another": {members{a, b}, infos{"a": {Self: 1, Settled: true, Members: members{a, b, ran}}}, 0, ErrTooFewPeers},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{
				Name: "j", Dir: "data", FS: vfs.NewMem(), SegmentBytes: 64 << 10, Join: true, RequestTimeout: time.Nanosecond, // asks once
				InitialCluster: map[string][]string{"j": urls},
				Ask: func(_ context.Context, url string) ([]byte, error) {
					info, ok := tc.infos[strings.TrimSuffix(strings.TrimPrefix(url, "http://"), ":1")]
					if !ok {
						return nil, errors.New("nobody answers")
					}
					info.Version, info.ClusterID = clusterInfoVersion, 5
					return json.Marshal(info)
				},
			}
			for _, m := range tc.flags {
				cfg.InitialCluster[m.Name] = m.PeerURLs
			}
			m, err := OpenMember(t.Context(), cfg, deaf, counting)
			if !errors.Is(err, tc.err) {
				t.Fatalf("got %v, want %v", err, tc.err)
			}
			if err != nil {
				return
			}
			defer m.Release()
			if m.ID != tc.want {
				t.Fatalf("joined as %x, want %x", m.ID, tc.want)
			}
		})
	}
}

func TestAFoundingMemberThatLostItsDataIsRefused(t *testing.T) {
	t.Parallel()
	cluster := map[string][]string{"a": {"http://a:1"}, "b": {"http://b:1"}, "c": {"http://c:1"}}
	members, self, clusterID, err := initialMembers(&Config{Name: "a", Token: "t", InitialCluster: cluster})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(members, func(m membership.Member) bool { return m.ID == self })
	named := slices.Clone(members)
	named[i].Name = "a"
	for name, tc := range map[string]struct {
		info ClusterInfo
		err  error
	}{
		"the others are new, too":           {ClusterInfo{ClusterID: clusterID, Members: members}, nil},
		"another knows its name":            {ClusterInfo{ClusterID: clusterID, Members: named}, ErrLostData},
		"another has its name in its log":   {ClusterInfo{ClusterID: clusterID, Members: members, Ran: []uint64{self}}, ErrLostData},
		"another knows of its removal":      {ClusterInfo{ClusterID: clusterID, Members: slices.Delete(slices.Clone(members), i, i+1), Removed: []uint64{self}}, ErrLostData},
		"the others are of another cluster": {ClusterInfo{ClusterID: 9, Members: named}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{
				Name: "a", Dir: "data", Token: "t", FS: vfs.NewMem(), SegmentBytes: 64 << 10, InitialCluster: maps.Clone(cluster),
				Ask: func(_ context.Context, url string) ([]byte, error) {
					if url != "http://c:1" {
						return nil, errors.New("not started yet")
					}
					info := tc.info
					info.Version, info.Self = clusterInfoVersion, 1
					return json.Marshal(info)
				},
			}
			m, err := OpenMember(t.Context(), cfg, deaf, counting)
			if !errors.Is(err, tc.err) {
				t.Fatalf("got %v, want %v", err, tc.err)
			}
			if err == nil {
				m.Release()
			}
		})
	}
}

func TestAMemberThatMovedBeforeItToldItsNameStartsWithItsOldFlags(t *testing.T) {
	t.Parallel()
	m, err := machine.New(machine.Config{}, membership.Member{ID: 1, Name: "a", PeerURLs: []string{"http://a:1"}}, membership.Member{ID: 77, PeerURLs: []string{"http://moved:1"}})
	if err != nil {
		t.Fatal(err)
	}
	r := &recovered{id: 77, clusterID: 5, machine: m}
	cfg := &Config{Name: "j", InitialCluster: map[string][]string{"a": {"http://a:1"}, "j": {"http://was:1"}}}
	if err := r.checkIdentity(cfg); err != nil {
		t.Fatal(err)
	}
	cfg.InitialCluster["a"] = []string{"http://elsewhere:1"}
	if err := r.checkIdentity(cfg); !errors.Is(err, ErrForeignDir) {
		t.Fatalf("flags that name nobody of its cluster: %v, want ErrForeignDir", err)
	}
}
