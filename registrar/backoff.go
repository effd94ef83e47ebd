package registrar

import "time"

const (
	minBackoff = 200 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// backoff is the wait before attempt number n (from 1 after the first failure): doubled each time up to limit, then
// jittered by random in [0,1) over its upper half, so that registrars don't come back all at once.
func backoff(n int, limit time.Duration, random float64) time.Duration {
	d := limit
	if n < 16 {
		d = min(limit, minBackoff<<max(0, n-1))
	}
	return d/2 + time.Duration(random*float64(d/2))
}

// renewAfter is when a lease is renewed: a third of its TTL, ±10 %.
func renewAfter(ttl time.Duration, random float64) time.Duration {
	return time.Duration(float64(ttl) / 3 * (0.9 + 0.2*random))
}
