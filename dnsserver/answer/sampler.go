package answer

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
)

// Sampler draws records from a set: all of them in random order, or, from a set larger
// than the most that may be answered, a sample without replacement in which each next
// record is drawn with a probability proportional to its weight among those left.
//
// A draw costs what it gives, not what it draws from, and allocates nothing save in
// the rare draw from weights so unequal that its guesses keep hitting the same record.
type Sampler struct {
	n, max int
	tiers  []int // ends of the groups that are exhausted in turn; the last is n
	order  []int32
	// For unequal weights:
	weights []uint32
	sums    []uint64 // sums[i] = weights[0] + … + weights[i]
	drawn   []uint32 // == round where the record has been drawn in this round
	round   uint32
}

// NewSampler prepares draws of at most max (0: all) out of n records. weights may be
// nil; tiers may be nil, else it gives the ends of groups of records, such as those of
// one SRV priority, of which earlier ones are preferred.
func NewSampler(n, maxDraw int, weights []uint32, tiers []int) *Sampler {
	if maxDraw == 0 || maxDraw > n {
		maxDraw = n
	}
	s := &Sampler{n: n, max: maxDraw, tiers: tiers, order: make([]int32, n)}
	if len(tiers) == 0 {
		s.tiers = []int{n}
	}
	for i := range s.order {
		s.order[i] = int32(i)
	}
	if maxDraw < n && unequal(weights) {
		s.weights, s.sums, s.drawn = weights, make([]uint64, n), make([]uint32, n)
		var sum uint64
		for i, w := range weights {
			sum += uint64(w)
			s.sums[i] = sum
		}
	}
	return s
}

func unequal(weights []uint32) bool {
	for _, w := range weights {
		if w != weights[0] {
			return true
		}
	}
	return false
}

// Max is how many records a full draw gives.
func (s *Sampler) Max() int { return s.max }

// Draw appends to dst the indices of at most limit records, fewer only where the
// sampler has fewer.
func (s *Sampler) Draw(dst []int32, limit int, rnd *rand.Rand) []int32 {
	left := min(limit, s.max)
	start := 0
	for _, end := range s.tiers {
		if left <= 0 {
			break
		}
		k := min(left, end-start)
		// A whole tier needs no weights: only its order is random.
		if s.sums == nil || k == end-start {
			dst = s.shuffle(dst, start, end, k, rnd)
		} else {
			dst = s.weighted(dst, start, end, k, rnd)
		}
		left -= k
		start = end
	}
	return dst
}

// shuffle takes k of [start, end) evenly. The order kept between draws stays a
// permutation, and a uniform choice from any permutation is uniform.
func (s *Sampler) shuffle(dst []int32, start, end, k int, rnd *rand.Rand) []int32 {
	for i := start; i < start+k; i++ {
		j := i + int(rnd.Uint32N(uint32(end-i)))
		s.order[i], s.order[j] = s.order[j], s.order[i]
		dst = append(dst, s.order[i])
	}
	return dst
}

// weighted takes k of [start, end), k < end-start, by drawing and rejecting what has
// been drawn before, which gives the same chances as drawing from what is left.
func (s *Sampler) weighted(dst []int32, start, end, k int, rnd *rand.Rand) []int32 {
	s.round++
	if s.round == 0 { // wrapped: forget all marks
		clear(s.drawn)
		s.round = 1
	}
	var base uint64
	if start > 0 {
		base = s.sums[start-1]
	}
	total := s.sums[end-1] - base
	for tries := 4*k + 16; k > 0 && tries > 0 && total > 0; tries-- {
		x := base + rnd.Uint64N(total)
		i := start + sort.Search(end-start, func(i int) bool { return s.sums[start+i] > x })
		if s.drawn[i] == s.round {
			continue
		}
		s.drawn[i] = s.round
		dst = append(dst, int32(i))
		k--
	}
	if k > 0 {
		dst = s.remaining(dst, start, end, k, rnd)
	}
	return dst
}

// remaining finishes a weighted draw over everything not yet drawn, by the exponential
// keys of Efraimidis and Spirakis (2006): the k smallest -ln(u)/w. Records of weight 0
// come last.
func (s *Sampler) remaining(dst []int32, start, end, k int, rnd *rand.Rand) []int32 {
	type keyed struct {
		key float64
		i   int32
	}
	var keys []keyed
	for i := start; i < end; i++ {
		if s.drawn[i] == s.round {
			continue
		}
		key := math.Inf(1)
		if w := s.weights[i]; w > 0 {
			key = rnd.ExpFloat64() / float64(w)
		}
		keys = append(keys, keyed{key, int32(i)})
	}
	slices.SortFunc(keys, func(a, b keyed) int {
		switch {
		case a.key < b.key:
			return -1
		case a.key > b.key:
			return 1
		}
		return 0
	})
	for _, e := range keys[:k] {
		dst = append(dst, e.i)
	}
	return dst
}
