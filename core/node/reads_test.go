package node

import (
	"testing"
	"time"
)

// Members that were started equally often draw equal ids. raft before 3.7 dropped one
// of two questions alike.
func TestQuestionsOfTwoFollowersUnderTheSameIDAreBothAnswered(t *testing.T) {
	c := newTrio(t)
	for _, follower := range []uint64{2, 3} {
		c.ids = 500
		c.steps[follower].Read(1000+follower, c.now+time.Minute)
	}
	c.settle()
	for _, ticket := range []uint64{1002, 1003} {
		if d, ok := c.done[ticket]; !ok || d.Err != nil {
			t.Errorf("read %d ended: %v, with %v; want an answer at once", ticket, ok, d.Err)
		}
	}
}
