package sdk

import "time"

// term is the arithmetic of one session's lease. It reads no clock: times are readings of one that never stops, such as
// CLOCK_BOOTTIME, since an arbitrary origin.
//
// A member counts the TTL from when it got a renewal, which is after the client sent it. So the lease lives at least
// until sent + ttl, and deadline, a margin before that, is a time at which it can't have ended yet.
type term struct {
	ttl      time.Duration
	deadline time.Duration
	next     time.Duration // when to send the next renewal
	failures int           // renewals without an answer since the last one with
}

// margin covers clocks that run at different speeds and the time it takes to stop what the lease protects.
func margin(ttl time.Duration) time.Duration {
	return min(max(ttl/10, 100*time.Millisecond), 3*time.Second)
}

// renewed notes that the renewal sent at that time was answered with ttl. An answer that promises less than an earlier
// one is believed; one that is older than what is known changes nothing.
func (t *term) renewed(sent, ttl time.Duration) {
	if d := sent + ttl - margin(ttl); d > t.deadline || ttl < t.ttl {
		t.ttl, t.deadline = ttl, d
	}
	t.next = sent + t.ttl/3
	t.failures = 0
}

// failed notes that a renewal got no answer by now; the next comes soon, and later each time up to a sixth of the TTL.
func (t *term) failed(now time.Duration) {
	step := t.ttl / 6
	if t.failures < 5 {
		step = min(step, 50*time.Millisecond<<t.failures)
	}
	t.next = now + step
	t.failures++
}

// over tells whether the lease can no longer be relied on.
func (t *term) over(now time.Duration) bool { return now >= t.deadline }

// attempt is how long a renewal sent now may take: half of the TTL, so that another member gets its chance, and never
// beyond the deadline. Another is due beside it when a sixth of the TTL has passed without an answer.
func (t *term) attempt(now time.Duration) time.Duration {
	t.next = now + t.ttl/6
	return max(0, min(t.ttl/2, t.deadline-now))
}

// check is how long to sleep before looking at the clock again. Timers stand still while the machine is suspended, so a
// long sleep is cut into pieces: after a resume a lost lease is noticed within the margin.
func (t *term) check(now time.Duration) time.Duration {
	return max(0, min(t.deadline-now, margin(t.ttl)/2))
}
