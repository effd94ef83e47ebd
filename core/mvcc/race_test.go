package mvcc

import (
	"fmt"
	"math/rand"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Readers on published views see one consistent state each while the writer writes, compacts and merges chunks. Every
// transaction moves an amount between two accounts, so every state has the same sum. Run it with -race.
func TestReadersOnViewsNeverDisturbTheWriter(t *testing.T) {
	const accounts, total = 40, 40 * 100
	s := New()
	s.h.size = 8 << 10
	balance := make([]int, accounts)
	tx := s.Begin()
	for i := range balance {
		balance[i] = total / accounts
		tx.Put(fmt.Appendf(nil, "account/%02d", i), fmt.Append(nil, balance[i]), 0)
	}
	tx.Commit()
	var current atomic.Pointer[View]
	current.Store(s.Publish())

	var wg sync.WaitGroup
	var stop atomic.Bool
	for r := range 3 {
		wg.Go(func() {
			rng := rand.New(rand.NewSource(int64(r)))
			for !stop.Load() {
				v := current.Load()
				rev := v.Rev()
				if low := max(v.CompactRev(), 2); rev > low {
					rev = low + rng.Int63n(rev-low+1)
				}
				sum := 0
				if err := v.RangeEach(RangeOptions{Key: []byte("account/"), End: []byte("account0"), Rev: rev}, func(r Record) bool {
					var n int
					fmt.Sscan(string(r.Value()), &n)
					sum += n
					return true
				}); err != nil || sum != total {
					t.Errorf("at revision %d of view %d: sum %d, %v", rev, v.Rev(), sum, err)
					return
				}
				switch rng.Intn(4) {
				case 0:
					last := int64(0)
					v.Events(rev, v.Rev(), func(e Event) bool {
						if e.Rev < last || len(e.KV.Key()) == 0 {
							t.Errorf("event of %d after %d", e.Rev, last)
						}
						last = e.Rev
						return true
					})
				case 1:
					a, _, _, err := v.HashKV(rev)
					b, _, _, err2 := v.HashKV(rev)
					if a != b || err != nil || err2 != nil {
						t.Errorf("hashes %x and %x of one view, %v %v", a, b, err, err2)
					}
				case 2:
					n := 0
					v.Dump(func(_, _ int64, _ bool, _ Record) bool { n++; return true })
					if n < accounts {
						t.Errorf("dump of %d records", n)
					}
				}
			}
		})
	}
	rng := rand.New(rand.NewSource(9))
	for i := range 6000 {
		from, to := rng.Intn(accounts), rng.Intn(accounts)
		if from != to {
			balance[from]--
			balance[to]++
			tx := s.Begin()
			for _, a := range []int{from, to} {
				tx.Put(fmt.Appendf(nil, "account/%02d", a), fmt.Append(nil, balance[a]), 0)
			}
			tx.Put(fmt.Appendf(nil, "log/%d", i), make([]byte, rng.Intn(300)), 0)
			tx.DeleteRange(fmt.Appendf(nil, "log/%d", i-50), nil, nil)
			tx.Commit()
		}
		if i%3 == 0 {
			current.Store(s.Publish())
		}
		if i%200 == 0 {
			if err := s.Compact(s.Rev() - 20); err != nil && i > 0 {
				t.Fatal(err)
			}
		}
		s.CompactStep(20)
	}
	stop.Store(true)
	wg.Wait()
}
