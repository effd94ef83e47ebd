package node

import (
	"testing"
	"time"

	"github.com/musterhq/muster/core/machine"
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
