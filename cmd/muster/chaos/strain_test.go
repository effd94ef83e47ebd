package chaos

import (
	"context"
	"sync"
	"time"
)

// strain notes when this process's timers fire late: then the machine has too
// much else to do, and how long things took says nothing about the members.
type strain struct {
	mu    sync.Mutex
	begun time.Time
	late  []lateness
}

type lateness struct{ at, by time.Duration }

const (
	strainBeat = 20 * time.Millisecond
	// strained is what makes times worthless: members that are as late hold
	// elections.
	strained = 500 * time.Millisecond
)

func (s *strain) watch(ctx context.Context) {
	timer := time.NewTimer(strainBeat)
	defer timer.Stop()
	for due := time.Now().Add(strainBeat); ; due = time.Now().Add(strainBeat) {
		timer.Reset(strainBeat)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if by := time.Since(due); by > strained/10 {
			s.mu.Lock()
			s.late = append(s.late, lateness{time.Since(s.begun), by})
			s.mu.Unlock()
		}
	}
}

// since is the most that a timer was late from a time on.
func (s *strain) since(from time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var most time.Duration
	for i := len(s.late) - 1; i >= 0 && s.late[i].at >= from; i-- {
		most = max(most, s.late[i].by)
	}
	return most
}
