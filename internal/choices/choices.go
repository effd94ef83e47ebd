// Package choices lets a fuzzer choose what a test does: [Source] is a rand.Source
// over the fuzzer's bytes, for tests that have a generator, and [Script] gives the
// bytes themselves, for those that go through them. Tests alone import it.
//
// A Source or Script belongs to one goroutine.
package choices

import (
	"encoding/binary"
	"math/rand/v2"
)

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

// Script is a script that a fuzzer writes.
type Script struct{ left []byte }

// ScriptOf is a script of these bytes, or the first most of them.
func ScriptOf(b []byte, most int) *Script { return &Script{b[:min(len(b), most)]} }

// Left reports whether there are bytes that were not taken yet.
func (s *Script) Left() bool { return len(s.left) > 0 }

// Next takes a byte. After the end it is 0.
func (s *Script) Next() byte {
	if len(s.left) == 0 {
		return 0
	}
	b := s.left[0]
	s.left = s.left[1:]
	return b
}

// Bytes takes the next n bytes, or those that are left.
func (s *Script) Bytes(n int) []byte {
	n = min(n, len(s.left))
	b := s.left[:n]
	s.left = s.left[n:]
	return b
}

// Varint takes a number as binary.AppendVarint writes it. After the end it is 0; a
// byte that begins none is taken for 0.
func (s *Script) Varint() int64 {
	v, n := binary.Varint(s.left)
	if n <= 0 {
		n, v = min(1, len(s.left)), 0
	}
	s.left = s.left[n:]
	return v
}
