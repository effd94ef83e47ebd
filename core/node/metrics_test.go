package node

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/core/transport"
)

// meter adds up what Metrics are told.
type meter struct {
	mu     sync.Mutex
	counts map[string]int
}

func (m *meter) add(what string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts[what] += n
}

func (m *meter) metrics() Metrics {
	peer := func(what string) func(uint64, int) {
		return func(id uint64, n int) { m.add(what+" "+formatID(id), n) }
	}
	return Metrics{
		LogSync:         func(time.Duration) { m.add("log syncs", 1) },
		LogWrite:        func(_ time.Duration, n int) { m.add("log bytes", n) },
		CheckpointSync:  func(time.Duration) { m.add("checkpoint syncs", 1) },
		CheckpointTaken: func(time.Duration, int64) { m.add("checkpoints", 1) },
		Peers:           transport.Metrics{Sent: peer("sent to"), Received: peer("received from"), Lost: func(id uint64) { m.add("lost to "+formatID(id), 1) }},
		PeerRoundTrip: func(id uint64, d time.Duration) {
			if d > 0 {
				m.add("round trips to "+formatID(id), 1)
			}
		},
	}
}

func TestWhatAnOperatorMeasuresIsMeasured(t *testing.T) {
	t.Parallel()
	var meters []*meter
	ms := newClusterOn(t, 3, func(c *Config) {
		m := &meter{counts: map[string]int{}}
		meters = append(meters, m)
		c.Metrics, c.CheckpointBytes = m.metrics(), 64<<10
	})
	leader := leaderOf(t, ms...)
	for i := range 40 {
		if err := leader.put(t, fmt.Sprint("k", i), string(make([]byte, 4<<10))); err != nil {
			t.Fatal(err)
		}
	}
	if c := leader.Status().Counters; c.Puts < 40 || c.Deletes != 0 || c.LeasesGranted != 0 {
		t.Errorf("counted %+v, want 40 puts and no more", c)
	}
	at := slices.Index(ms, leader)
	down := others(ms, leader)[0]
	id := formatID(down.ID())
	connected := leader.Status().ConnectedPeers
	if !slices.Contains(connected, down.ID()) {
		t.Errorf("connected to %x, not to %s", connected, id)
	}
	down.stop(t)
	missing := func() error {
		_ = leader.put(t, "more", "x") // something to send; it may well find no leader for a moment
		m := meters[at]
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, what := range []string{"log syncs", "log bytes", "checkpoint syncs", "checkpoints", "sent to " + id, "received from " + id, "lost to " + id, "round trips to " + id} {
			if m.counts[what] == 0 {
				return fmt.Errorf("%w: %s, of %v", errUnmeasured, what, m.counts)
			}
		}
		if n := m.counts["log bytes"]; n < 40*4<<10 {
			return fmt.Errorf("%w: %d bytes of log", errUnmeasured, n)
		}
		return nil
	}
	eventually(t, missing, errUnmeasured)
}

var errUnmeasured = errors.New("not measured")
