package histogram

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestQuantilesAreWithinThreePercent(t *testing.T) {
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, 0))
	var whole, left, right Histogram
	var all []time.Duration
	for i := range 20000 {
		d := time.Duration(rng.ExpFloat64() * float64(time.Millisecond))
		all = append(all, d)
		whole.Add(d)
		if i%2 == 0 {
			left.Add(d)
		} else {
			right.Add(d)
		}
	}
	left.Merge(&right)
	if left != whole {
		t.Error("merged halves differ from the whole")
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999} {
		want := all[int(q*float64(len(all)))-1]
		if got := whole.Quantile(q); got < want || float64(got) > 1.032*float64(want) {
			t.Errorf("seed %d: quantile %v is %v, want %v to 3 %%", seed, q, got, want)
		}
	}
	if got, want := whole.Quantile(1), all[len(all)-1]; got != want || whole.Max() != want {
		t.Errorf("quantile 1 is %v, max %v, want %v", got, whole.Max(), want)
	}
}

func TestBucketsTileTheDurations(t *testing.T) {
	for _, d := range []time.Duration{-1, 0, 31, 32, 33, 63, 64, 1e3, 1e6, 1e9, 1<<63 - 1} {
		b := bucket(d)
		if upper(b) < d {
			t.Errorf("%d is above its bucket's end %d", d, upper(b))
		}
		if b > 0 && upper(b-1) >= max(d, 0) {
			t.Errorf("%d belongs into the bucket before, which ends at %d", d, upper(b-1))
		}
	}
}

func TestAnEmptyHistogramSaysZero(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 || h.Mean() != 0 || h.Max() != 0 || h.Count() != 0 {
		t.Error("an empty histogram isn't all zeros")
	}
}
