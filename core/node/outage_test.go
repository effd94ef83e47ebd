package node

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
)

// Asked of a leader that has just died, or between two, renewals and reads wait
// for the next one. etcd's client takes a refused keep-alive for a reason to
// pause for half a second; found when a lease was lost while ten leaders were
// killed in a row (cmd/muster/e2e).
func TestRenewalsAndReadsUnderWayWhenTheLeaderDiesAreAnsweredByTheNext(t *testing.T) {
	ms := newCluster(t, 3)
	body, err := proto.Marshal(&pb.LeaseGrantRequest{ID: 7, TTL: 60})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ms[0].Propose(t.Context(), machine.LeaseGrant, body, "", 0); err != nil {
		t.Fatal(err)
	}
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		leader := ms[0]
		for _, m := range ms {
			m.get(t, "") // has applied the grant
			if m.Leader() == m.ID() {
				leader = m
			}
		}
		var wg sync.WaitGroup
		var over atomic.Bool
		for _, m := range ms {
			if m == leader {
				continue
			}
			node := m.Node
			wg.Go(func() {
				for ; !over.Load(); <-time.After(time.Millisecond) {
					if ttl, err := node.RenewLease(t.Context(), 7); ttl != 60 || err != nil {
						t.Errorf("renewal by %s: %d, %v", m.cfg.Name, ttl, err)
						return
					}
				}
			})
			wg.Go(func() {
				for ; !over.Load(); <-time.After(time.Millisecond) {
					if err := node.ReadBarrier(t.Context()); err != nil {
						t.Errorf("read by %s: %v", m.cfg.Name, err)
						return
					}
				}
			})
		}
		was := leader.ID()
		hurried, cancel := context.WithCancel(t.Context())
		cancel()
		if err := leader.Close(hurried); err != nil { // no time to hand over
			t.Error(err)
		}
		leader.Node = nil
		for _, m := range ms {
			for m != leader && (m.Leader() == 0 || m.Leader() == was) {
				<-time.After(time.Millisecond)
			}
		}
		over.Store(true)
		wg.Wait()
		leader.restart(t)
		leader.ready(t)
	}
}
