// Package histogram counts durations in buckets a thirty-second of a power of two wide,
// so that a quantile is at most 3 % off whatever the magnitude, and adding costs a few
// nanoseconds and no memory.
//
// A Histogram belongs to one goroutine; those of several are merged once they have ended.
package histogram
