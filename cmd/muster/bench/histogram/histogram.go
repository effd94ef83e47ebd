package histogram

import (
	"math/bits"
	"time"
)

// Histogram counts durations. The zero Histogram is empty.
type Histogram struct {
	buckets [64 * perDoubling]uint64
	n       uint64
	sum     time.Duration
	max     time.Duration
}

const (
	perDoubling = 32
	mantissa    = 5 // log2 of perDoubling
)

// bucket of d nanoseconds: below 32 exact, above by the five bits after the leading one.
func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < perDoubling {
		return int(v)
	}
	exp := bits.Len64(v) - mantissa - 1
	return (exp+1)*perDoubling + int(v>>exp) - perDoubling
}

// upper is the largest duration of a bucket.
func upper(b int) time.Duration {
	if b < perDoubling {
		return time.Duration(b)
	}
	exp := b/perDoubling - 1
	return time.Duration(uint64(b%perDoubling+perDoubling+1)<<exp - 1)
}

// Add counts one duration.
func (h *Histogram) Add(d time.Duration) {
	h.buckets[bucket(d)]++
	h.n++
	h.sum += d
	h.max = max(h.max, d)
}

// Merge adds all that o counted.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.n += o.n
	h.sum += o.sum
	h.max = max(h.max, o.max)
}

// Count is how many durations were added, Max the largest.
func (h *Histogram) Count() uint64      { return h.n }
func (h *Histogram) Max() time.Duration { return h.max }

// Mean is their average, 0 without any.
func (h *Histogram) Mean() time.Duration {
	if h.n == 0 {
		return 0
	}
	return h.sum / time.Duration(h.n)
}

// Quantile is a duration that the share q (0 to 1) of all didn't exceed, 0 without any.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	want := uint64(q*float64(h.n) + 0.5)
	var seen uint64
	for i, n := range h.buckets {
		seen += n
		if seen >= want && n > 0 {
			return min(upper(i), h.max)
		}
	}
	return h.max
}
