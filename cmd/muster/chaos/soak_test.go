package chaos

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sample is what one process used at a moment, by its own account.
type sample struct {
	at     time.Duration
	member int
	life   int
	usage
}

type usage struct{ resident, goroutines, descriptors int64 }

func (u usage) String() string {
	return fmt.Sprintf("%d MiB, %d goroutines, %d descriptors", u.resident>>20, u.goroutines, u.descriptors)
}

func (u usage) max(v usage) usage {
	return usage{max(u.resident, v.resident), max(u.goroutines, v.goroutines), max(u.descriptors, v.descriptors)}
}

// within tells whether u is no more than v allows: in a steady load it may
// waver, by a share and by a constant, but not grow.
func (u usage) within(v usage, share float64, constant usage) bool {
	fits := func(u, v, constant int64) bool { return float64(u) <= float64(v)*(1+share)+float64(constant) }
	return fits(u.resident, v.resident, constant.resident) && fits(u.goroutines, v.goroutines, constant.goroutines) &&
		fits(u.descriptors, v.descriptors, constant.descriptors)
}

// soak looks at all members once a second.
type soak struct {
	load    *load
	mu      sync.Mutex
	samples []sample
}

func (s *soak) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for i, m := range s.load.members {
			life := m.life()
			u, err := m.usage(ctx)
			if err != nil || life != m.life() {
				continue // out of reach at the moment
			}
			s.mu.Lock()
			s.samples = append(s.samples, sample{s.load.now(), i, life, u})
			s.mu.Unlock()
		}
	}
}

// usage reads a member's metrics.
func (m *member) usage(ctx context.Context) (usage, error) {
	text, err := m.ask(ctx, "/metrics")
	if err != nil {
		return usage{}, err
	}
	var u usage
	found := 0
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		into := map[string]*int64{
			"process_resident_memory_bytes": &u.resident, "go_goroutines": &u.goroutines, "process_open_fds": &u.descriptors,
		}[name]
		if into == nil {
			continue
		}
		f, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return u, fmt.Errorf("%s: %w", line, err)
		}
		*into = int64(f)
		found++
	}
	if found != 3 {
		return u, fmt.Errorf("%s tells %d of its memory, goroutines and descriptors", m.name, found)
	}
	return u, nil
}

// flat compares the last third of a time in which no process was ended with
// its middle third, the most that any member used in each: the leader's part
// passes from one to the other.
func (s *soak) flat(v *verdict, from, to time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var thirds [3]usage
	var count [3]int
	for _, x := range s.samples {
		if x.at < from || x.at >= to {
			continue
		}
		i := int(3 * (x.at - from) / (to - from))
		thirds[i] = thirds[i].max(x.usage)
		count[i]++
	}
	if slices.Min(count[:]) < 30 {
		return fmt.Sprintf("%v is too short to see whether memory, goroutines and descriptors are flat", ms(to-from))
	}
	const share = 0.25
	slack := usage{resident: 64 << 20, goroutines: 50, descriptors: 25}
	v.checked("members flat in a soak", thirds[2].within(thirds[1], share, slack), "first %v, then %v, last %v", thirds[0], thirds[1], thirds[2])
	return fmt.Sprintf("the most of any member in the thirds of %v: %v; %v; %v", (to - from).Round(time.Second), thirds[0], thirds[1], thirds[2])
}

// atRest checks that a member gives back what clients and faults made it use:
// goroutines and descriptors are what they were before the load.
func (s *soak) atRest(v *verdict, before []usage) string {
	var parts []string
	for i, m := range s.load.members {
		var u usage
		ok := false
		for began := time.Now(); time.Since(began) < patience(); s.load.pause(100 * time.Millisecond) {
			var err error
			if u, err = m.usage(s.load.cluster.ctx); err == nil {
				if ok = u.goroutines <= before[i].goroutines+15 && u.descriptors <= before[i].descriptors+15; ok {
					break
				}
			}
		}
		v.checked("members that gave back what they used", ok, "%s had %v before the load, has %v after it", m.name, before[i], u)
		parts = append(parts, fmt.Sprintf("%s: %v, before the load %v", m.name, u, before[i]))
	}
	return strings.Join(parts, "; ")
}
