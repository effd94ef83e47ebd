package lease_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/musterhq/muster/core/lease"
)

// The scripts in testdata drive one lessor. Commands take key=value arguments;
// times are durations since the origin.
func TestLessorScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		var l *lease.Lessor
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var at, extend time.Duration
			var id, ttl, remaining, max int64 = 0, 0, 0, 100
			for _, a := range d.CmdArgs {
				var err error
				switch a.Key {
				case "at", "received":
					at, err = time.ParseDuration(a.Vals[0])
				case "extend":
					extend, err = time.ParseDuration(a.Vals[0])
				case "id":
					id, err = strconv.ParseInt(a.Vals[0], 10, 64)
				case "ttl":
					ttl, err = strconv.ParseInt(a.Vals[0], 10, 64)
				case "remaining":
					remaining, err = strconv.ParseInt(a.Vals[0], 10, 64)
				case "max":
					max, err = strconv.ParseInt(a.Vals[0], 10, 64)
				case "rate", "interval", "term":
				default:
					t.Fatalf("%s: unknown argument %s", d.Pos, a.Key)
				}
				if err != nil {
					t.Fatalf("%s: %v", d.Pos, err)
				}
			}
			switch d.Cmd {
			case "new":
				var cfg lease.Config
				if d.HasArg("rate") {
					d.ScanArgs(t, "rate", &cfg.ExpiryRate)
				}
				l = lease.NewLessor(cfg)
				return ""
			case "promote": // one lease a line: id ttl [remaining]
				var leases []lease.Lease
				for line := range strings.Lines(d.Input) {
					var le lease.Lease
					if n, _ := fmt.Sscan(line, &le.ID, &le.TTL, &le.Remaining); n < 2 {
						t.Fatalf("%s: bad lease %q", d.Pos, line)
					}
					leases = append(leases, le)
				}
				l.Promote(at, 5, slices.Values(leases), extend)
				return ""
			case "demote":
				l.Demote()
				return ""
			case "grant":
				l.Granted(id, ttl, at)
				return ""
			case "revoked":
				l.Revoked(id)
				return ""
			case "renew":
				ttl, err := l.Renew(id, at)
				if err != nil {
					return err.Error()
				}
				return fmt.Sprintf("ttl %d", ttl)
			case "expired":
				return fmt.Sprint(l.Expired(at, int(max)))
			case "expiry-done":
				l.ExpiryDone(id)
				return ""
			case "checkpoints":
				return fmt.Sprint(l.Checkpoints(at, int(max)))
			case "checkpointed":
				l.Checkpointed(id, remaining)
				return ""
			case "checkpoint-done":
				l.CheckpointDone(id)
				return ""
			case "remaining":
				left, ok := l.Remaining(id, at)
				return fmt.Sprintln(left, ok)
			case "next":
				at, ok := l.NextDeadline()
				return fmt.Sprintln(at, ok)
			}
			t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
			return ""
		})
	})
}

func TestNoLeaseExpiresBeforeItsLastAnsweredRenewalRunsOut(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		l := lease.NewLessor(lease.Config{ExpiryRate: 1 + rng.IntN(5)})
		owed := map[int64]time.Duration{} // not to expire before
		ttls := map[int64]int64{}
		expiring := map[int64]bool{}
		var now time.Duration
		l.Promote(now, 1, func(func(lease.Lease) bool) {}, 0)
		for step := range 3000 {
			now += time.Duration(rng.IntN(300)) * time.Millisecond
			id := int64(1 + rng.IntN(40))
			switch rng.IntN(12) {
			case 0, 1:
				if _, ok := ttls[id]; !ok {
					ttls[id] = int64(1 + rng.IntN(20))
					owed[id] = now + time.Duration(ttls[id])*time.Second
					l.Granted(id, ttls[id], now)
				}
			case 2:
				if _, ok := ttls[id]; ok {
					delete(ttls, id)
					delete(owed, id)
					delete(expiring, id)
					l.Revoked(id)
				}
			case 3:
				if rng.IntN(40) == 0 { // another leader for a while: all start afresh
					var leases []lease.Lease
					for id, ttl := range ttls {
						leases = append(leases, lease.Lease{ID: id, TTL: ttl})
						owed[id] = now + time.Duration(ttl)*time.Second + time.Second
					}
					clear(expiring)
					l.Promote(now, uint64(step+2), slices.Values(leases), time.Second)
				}
			case 4:
				if expiring[id] {
					l.ExpiryDone(id)
					delete(expiring, id)
				}
			case 5, 6:
				for _, id := range l.Expired(now, 1+rng.IntN(5)) {
					if now < owed[id] {
						t.Fatalf("seed %d step %d: lease %d expires at %v, owed until %v", seed, step, id, now, owed[id])
					}
					if expiring[id] {
						t.Fatalf("seed %d step %d: lease %d handed out twice", seed, step, id)
					}
					expiring[id] = true
				}
			default:
				received := now - time.Duration(rng.IntN(1000))*time.Millisecond
				_, err := l.Renew(id, received)
				switch _, exists := ttls[id]; {
				case !exists && !errors.Is(err, lease.ErrNotFound),
					exists && expiring[id] && !errors.Is(err, lease.ErrExpiring),
					exists && !expiring[id] && err != nil:
					t.Fatalf("seed %d step %d: renew %d: %v", seed, step, id, err)
				case err == nil:
					owed[id] = max(owed[id], received+time.Duration(ttls[id])*time.Second)
				}
			}
		}
		// In the end everything that nobody renews does expire.
		now += time.Hour
		got := l.Expired(now, 1000)
		if len(got)+len(expiring) != len(ttls) {
			t.Fatalf("seed %d: %d expired and %d expiring of %d leases", seed, len(got), len(expiring), len(ttls))
		}
	}
}

func BenchmarkLessorWithAMillionLeases(b *testing.B) {
	const n = 1_000_000
	leases := func(yield func(lease.Lease) bool) {
		for id := int64(1); id <= n; id++ {
			if !yield(lease.Lease{ID: id, TTL: 60 + id%600}) {
				return
			}
		}
	}
	b.Run("promote", func(b *testing.B) {
		b.ReportAllocs()
		l := lease.NewLessor(lease.Config{})
		for b.Loop() {
			l.Promote(0, 1, leases, time.Second)
		}
	})
	b.Run("renew", func(b *testing.B) {
		b.ReportAllocs()
		l := lease.NewLessor(lease.Config{})
		l.Promote(0, 1, leases, time.Second)
		id := int64(0)
		for b.Loop() {
			id = (id + 7919) % n
			if _, err := l.Renew(id+1, time.Duration(id)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A leader that stood still had proposed expiries before, and they will be carried
// out: no renewal may be answered as if they were not (simtest seed
// 1795384623690715372).
func TestAStandstillDoesNotForgetWhatIsOnItsWayThroughTheLog(t *testing.T) {
	l := lease.NewLessor(lease.Config{CheckpointInterval: time.Second})
	all := []lease.Lease{{ID: 1, TTL: 3}, {ID: 2, TTL: 30}, {ID: 3, TTL: 30}}
	l.Promote(0, 1, slices.Values(all), 0)
	if got := l.Expired(5*time.Second, 9); !slices.Equal(got, []int64{1}) {
		t.Fatalf("expired %v, want lease 1", got)
	}
	if got := l.Checkpoints(6*time.Second, 1); len(got) != 1 || got[0].ID != 2 {
		t.Fatalf("checkpoints of %v, want one of lease 2", got)
	}
	l.Resume(8*time.Second, slices.Values(all), time.Second)
	if l.Term() != 1 {
		t.Fatalf("leads in term %d, want 1", l.Term())
	}
	for id, want := range map[int64]error{1: lease.ErrExpiring, 2: lease.ErrCheckpointed, 3: nil} {
		if _, err := l.Renew(id, 8*time.Second); !errors.Is(err, want) {
			t.Errorf("renewing lease %d: %v, want %v", id, err, want)
		}
	}
	if got := l.Expired(11*time.Second, 9); len(got) != 0 {
		t.Errorf("lease %v was handed out twice, or has lost the time it has again", got)
	}
	l.ExpiryDone(1)
	if got := l.Expired(12*time.Second+time.Millisecond, 9); !slices.Equal(got, []int64{1}) {
		t.Errorf("expired %v when the first proposal had come to nothing, want lease 1 when its time is over again", got)
	}
}
