package server

import (
	"testing"
	"time"
)

func TestPeriodicCompactionKeepsAtLeastThePeriod(t *testing.T) {
	c := &compactor{keep: Retention{Period: time.Hour}}
	if c.every() != 6*time.Minute {
		t.Errorf("looks every %v", c.every())
	}
	start := time.Unix(0, 0)
	var got []int64
	for i := range 15 {
		target := c.look(start.Add(time.Duration(i)*c.every()), int64(100+i))
		got = append(got, target)
		c.until = max(c.until, target)
	}
	for i, target := range got {
		want := int64(0)
		if i >= 10 {
			want = int64(100 + i - 10)
		}
		if target != want {
			t.Errorf("look %d compacts to %d, want %d", i, target, want)
		}
	}
	c.forget()
	if target := c.look(start.Add(24*time.Hour), 1000); target != 0 {
		t.Errorf("a new leader compacts to %d at once", target)
	}
}

func TestCompactionByRevisionKeepsTheLastOnes(t *testing.T) {
	c := &compactor{keep: Retention{Revisions: 100}}
	for _, step := range []struct{ rev, want int64 }{{1, 0}, {100, 0}, {101, 0}, {102, 2}, {102, 0}, {500, 400}} {
		got := c.look(time.Time{}, step.rev)
		if got != step.want {
			t.Errorf("at revision %d: compact to %d, want %d", step.rev, got, step.want)
		}
		c.until = max(c.until, got)
	}
}
