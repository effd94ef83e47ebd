package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const leaseKeys = "lease/"

// leases are granted, renewed for a while and then left alone. Each has two
// keys, which must be there until its time is up, and go together soon after.
type leases struct {
	load *load
	mu   struct {
		sync.Mutex
		all      []*leaseRecord
		byKey    map[string]*leaseRecord
		renewals int
	}
}

type leaseRecord struct {
	keys     [2]string
	attached bool
	revoked  bool
	deadline time.Duration // until then, at least, it lives
	gone     time.Duration // when a watcher was first told of a key's end; 0: not yet
}

func newLeases(l *load) *leases {
	s := &leases{load: l}
	s.mu.byKey = map[string]*leaseRecord{}
	return s
}

// start makes clients for leases that are renewed for good and for a while.
func (s *leases) start() {
	for i, ttl := range []int64{5, 3, 2, 2} {
		s.load.wg.Go(func() { s.keep(fmt.Sprintf("keeper-%d", i), ttl) })
	}
}

// keep grants lease after lease. One of a long TTL is renewed as long as it
// can be; one of a short TTL a few times.
func (s *leases) keep(name string, ttl int64) {
	cl, rng := s.load.etcdClient(s.load.endpoints()...), s.load.random(name)
	for n := 0; s.load.ctx.Err() == nil; n++ {
		renewals := 1 << 30
		if ttl == 2 {
			renewals = rng.IntN(4)
		}
		s.one(cl, rng, fmt.Sprintf("%s%s/%d", leaseKeys, name, n), ttl, renewals)
		if ttl == 2 {
			s.rest(time.Duration(rng.IntN(1000)) * time.Millisecond)
		}
	}
}

func (s *leases) rest(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.load.ctx.Done():
	}
}

// one is a lease from its grant until it is left alone or lost.
func (s *leases) one(cl *clientv3.Client, rng *rand.Rand, key string, ttl int64, renewals int) {
	r := &leaseRecord{keys: [2]string{key + "/a", key + "/b"}}
	live := time.Duration(ttl) * time.Second
	sent := s.load.now()
	ctx, cancel := context.WithTimeout(s.load.ctx, callTime)
	defer cancel()
	g, err := cl.Grant(ctx, ttl)
	if err != nil {
		return // if it was granted, it has no keys
	}
	s.add(r, sent+live)
	if _, err := cl.Txn(ctx).Then(clientv3.OpPut(r.keys[0], key, clientv3.WithLease(g.ID)), clientv3.OpPut(r.keys[1], key, clientv3.WithLease(g.ID))).Commit(); err != nil {
		return // if it happens, the keys go with the lease
	}
	s.mu.Lock()
	r.attached = true
	s.mu.Unlock()
	for range renewals {
		// A third of its time, sooner after a failure.
		s.rest(live/3 - time.Duration(rng.IntN(100))*time.Millisecond)
		for {
			if s.load.ctx.Err() != nil {
				return
			}
			sent := s.load.now()
			ctx, cancel := context.WithTimeout(s.load.ctx, callTime/2)
			answer, err := cl.KeepAliveOnce(ctx, g.ID)
			cancel()
			if errors.Is(err, rpctypes.ErrLeaseNotFound) {
				s.lost(r, sent)
				return
			}
			if err == nil {
				s.renewed(r, sent+time.Duration(answer.TTL)*time.Second)
				break
			}
		}
	}
	if rng.IntN(4) == 0 {
		s.mu.Lock()
		r.revoked = true // from now on it may be gone at any time
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(s.load.ctx, callTime)
		_, _ = cl.Revoke(ctx, g.ID) // or it expires
		cancel()
	}
}

func (s *leases) add(r *leaseRecord, deadline time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.deadline = deadline
	s.mu.all = append(s.mu.all, r)
	for _, key := range r.keys {
		s.mu.byKey[key] = r
	}
}

func (s *leases) renewed(r *leaseRecord, deadline time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.renewals++
	r.deadline = max(r.deadline, deadline)
}

// lost: a lease may be gone once its time is up.
func (s *leases) lost(r *leaseRecord, asked time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.load.now(); now < r.deadline && !r.revoked {
		s.load.fail("the lease of %v is not found at %v (asked at %v), it was to live until %v", r.keys, now, asked, r.deadline)
	}
}

// gone is told by watchers.
func (s *leases) gone(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.mu.byKey[key]; r != nil && r.gone == 0 {
		r.gone = s.load.now()
		if r.gone < r.deadline && !r.revoked {
			s.load.fail("the lease of %v has ended at %v at the latest, it was to live until %v", r.keys, r.gone, r.deadline)
		}
	}
}

// awaitEnd returns once every lease is gone that nobody renews: soon after its
// time, now that nothing is wrong any more; but an election starts it anew.
func (s *leases) awaitEnd(v *verdict) {
	left := func() (n int, latest time.Duration) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range s.mu.all {
			if r.attached && r.gone == 0 {
				n++
				latest = max(latest, r.deadline)
			}
		}
		return n, latest
	}
	_, latest := left()
	limit := max(latest, s.load.now()) + patience()/2
	var n int
	for n, _ = left(); n > 0 && s.load.now() < limit; n, _ = left() {
		s.load.pause(50 * time.Millisecond)
	}
	v.checked("ends of leases that nobody renews", n == 0, "%d leases are still there %v after their time", n, patience()/2)
}

// check looks at when and how the keys went.
func (s *leases) check(v *verdict, h *history) {
	for _, r := range s.mu.all {
		var ends [2]int64
		there := false
		for i, key := range r.keys {
			for _, k := range h.keys[key] {
				if there = true; k.version == 0 {
					ends[i] = k.rev
				}
			}
		}
		if !there {
			v.checked("leased keys put", !r.attached, "%v were acknowledged", r.keys)
			continue
		}
		v.checked("leases that took their keys along at once", ends[0] == ends[1] && ends[0] != 0, "%v went at %v", r.keys, ends)
	}
}

// String is for the report.
func (s *leases) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var late []time.Duration
	for _, r := range s.mu.all {
		if r.gone != 0 && !r.revoked {
			late = append(late, r.gone-r.deadline)
		}
	}
	text := fmt.Sprintf("%d leases, renewed %d times", len(s.mu.all), s.mu.renewals)
	if len(late) > 0 {
		text += fmt.Sprintf(", gone after their time: median %v, longest %v", ms(median(late)), ms(slices.Max(late)))
	}
	return text
}

func median(d []time.Duration) time.Duration { return slices.Sorted(slices.Values(d))[len(d)/2] }

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
