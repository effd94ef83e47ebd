package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/vfs"
)

func TestARaisedQuotaTakesEffectWithTheNextLeaderThatHasIt(t *testing.T) {
	m := newCluster(t, 1)[0]
	before := m.View().Settings
	m.stop(t)
	m.cfg.Machine.Settings = machine.Settings{Quota: 5 << 30}
	m.restart(t)
	m.ready(t)
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for m.View().Settings.Quota != 5<<30 {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("quota stays at %d", m.View().Settings.Quota)
		}
	}
	before.Quota = 5 << 30
	if got := m.View().Settings; got != before {
		t.Fatalf("settings are %+v, want %+v: only the quota was given", got, before)
	}
}

func TestFoundersWithDifferentFlagsBeginAlike(t *testing.T) {
	for _, s := range []machine.Settings{{}, {Quota: 5 << 30}, {Quota: 5, MaxTxnOps: 7, MaxRequestBytes: 9, MinLeaseTTL: 11, MaxLearners: 13}} {
		cfg := Config{
			Name: "a", Dir: "data", FS: vfs.NewMem(), SegmentBytes: 64 << 10, InitialCluster: map[string][]string{"a": {"http://a:1"}, "b": {"http://b:1"}},
			Ask:     func(context.Context, string) ([]byte, error) { return nil, errors.New("not started yet") },
			Machine: machine.Config{Settings: s},
		}
		m, err := OpenMember(t.Context(), cfg, deaf, counting)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.View().Settings; got != machine.DefaultSettings() {
			t.Errorf("given %+v: founded with %+v; the other members cannot know of it", s, got)
		}
		m.Release()
	}
}
