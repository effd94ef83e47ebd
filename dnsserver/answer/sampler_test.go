package answer

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestDrawNeverRepeatsAndGivesWhatIsAskedFor(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		n := 1 + rnd.IntN(60)
		weights := make([]uint32, n)
		for i := range weights {
			weights[i] = uint32(rnd.IntN(4) * rnd.IntN(30000)) // zeros and giants
		}
		if rnd.IntN(3) == 0 {
			weights = nil
		}
		var tiers []int
		if rnd.IntN(2) == 0 {
			tiers = []int{n}
			if cut := rnd.IntN(n); cut > 0 {
				tiers = []int{cut, n}
			}
		}
		limit := rnd.IntN(n + 3)
		s := NewSampler(n, limit, weights, tiers)
		want := limit
		if limit == 0 || limit > n {
			want = n
		}
		for range 5 {
			room := rnd.IntN(n + 3)
			got := s.Draw(nil, room, rnd)
			if len(got) != min(want, room) {
				t.Fatalf("n=%d max=%d room=%d: drew %d", n, limit, room, len(got))
			}
			slices.Sort(got)
			if len(slices.Compact(got)) != min(want, room) || len(got) > 0 && (got[0] < 0 || int(got[len(got)-1]) >= n) {
				t.Fatalf("n=%d max=%d room=%d: drew %v", n, limit, room, got)
			}
		}
	}
}

func TestEarlierTiersAreExhaustedFirst(t *testing.T) {
	s := NewSampler(10, 4, []uint32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, []int{3, 10})
	rnd := rand.New(rand.NewPCG(2, 2))
	for range 100 {
		got := s.Draw(nil, 4, rnd)
		first := slices.Clone(got[:3])
		slices.Sort(first)
		if !slices.Equal(first, []int32{0, 1, 2}) || got[3] < 3 {
			t.Fatalf("drew %v, want 0, 1, 2 in some order and then one of the rest", got)
		}
	}
}

// TestFirstDrawFollowsWeights checks frequencies against expectation within six standard
// deviations; the seed is fixed, so it can't fail now and then.
func TestFirstDrawFollowsWeights(t *testing.T) {
	const draws = 60000
	for _, weights := range [][]uint32{nil, {10, 10, 10, 10, 10}, {1, 2, 3, 4, 90}} {
		s := NewSampler(5, 3, weights, nil)
		rnd := rand.New(rand.NewPCG(3, 3))
		var first [5]float64
		for range draws {
			first[s.Draw(nil, 3, rnd)[0]]++
		}
		for i, got := range first {
			p := 0.2
			if weights != nil {
				var sum uint32
				for _, w := range weights {
					sum += w
				}
				p = float64(weights[i]) / float64(sum)
			}
			if dev := math.Sqrt(draws * p * (1 - p)); math.Abs(got-draws*p) > 6*dev {
				t.Errorf("weights %v: record %d came first %v times of %d, want about %.0f", weights, i, got, draws, draws*p)
			}
		}
	}
}

// TestSecondDrawIsProportionalAmongWhatIsLeft holds guessing with rejection, and the
// fallback, to the exact chance of the pair (giant, small).
func TestSecondDrawIsProportionalAmongWhatIsLeft(t *testing.T) {
	const draws = 40000
	weights := []uint32{60000, 1, 3, 4}
	s := NewSampler(4, 2, weights, nil)
	rnd := rand.New(rand.NewPCG(4, 4))
	var second [4]float64
	for range draws {
		if got := s.Draw(nil, 2, rnd); got[0] == 0 {
			second[got[1]]++
		}
	}
	for i := 1; i < 4; i++ {
		p := float64(weights[i]) / 8
		if dev := math.Sqrt(draws * p * (1 - p)); math.Abs(second[i]-draws*p) > 6*dev {
			t.Errorf("record %d came second %v times, want about %.0f", i, second[i], draws*p)
		}
	}
}

func BenchmarkDraw16(b *testing.B) {
	weights := make([]uint32, 5000)
	for i := range weights {
		weights[i] = uint32(i%7 + 1)
	}
	for name, w := range map[string][]uint32{"equal": nil, "weighted": weights} {
		b.Run(name, func(b *testing.B) {
			s := NewSampler(5000, 16, w, nil)
			rnd := rand.New(rand.NewPCG(5, 5))
			dst := make([]int32, 0, 16)
			b.ReportAllocs()
			for b.Loop() {
				dst = s.Draw(dst[:0], 16, rnd)
			}
		})
	}
}
