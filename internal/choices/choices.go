// Package choices lets a fuzzer choose what a test's generator draws: [Source] is a
// rand.Source over the fuzzer's bytes. Tests alone import it.
//
// A Source belongs to one goroutine.
package choices

import "math/rand/v2"

// Source is a source of randomness that a fuzzer writes: a byte a draw, spread
// over the whole number. What comes after its end is ordinary chance, the same each time.
type Source struct {
	left []byte
	rest *rand.PCG
}

// Of begins with these bytes, or the first most of them.
func Of(b []byte, most int) *Source {
	return &Source{b[:min(len(b), most)], rand.NewPCG(1, 1)}
}

// Uint64 implements rand.Source.
func (s *Source) Uint64() uint64 {
	if len(s.left) == 0 {
		return s.rest.Uint64()
	}
	b := uint64(s.left[0])
	s.left = s.left[1:]
	return b * 0x0101010101010101
}

// Left reports whether there are bytes that were not drawn yet.
func (s *Source) Left() bool { return len(s.left) > 0 }
