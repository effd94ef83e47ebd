package choices_test

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/musterhq/muster/internal/choices"
)

func TestEachByteDecidesADrawAndChanceTheRest(t *testing.T) {
	src := choices.Of([]byte{0, 0x7f, 0xff, 1}, 3)
	for _, want := range []uint64{0, 0x7f7f7f7f7f7f7f7f, math.MaxUint64} {
		if !src.Left() {
			t.Fatalf("nothing left before %x", want)
		}
		if got := src.Uint64(); got != want {
			t.Errorf("drew %x, want %x", got, want)
		}
	}
	if src.Left() {
		t.Error("more was taken than asked for")
	}
	again := choices.Of(nil, 3)
	for range 10 {
		if got, want := src.Uint64(), again.Uint64(); got != want {
			t.Fatalf("after its end it gives %d, then %d", got, want)
		}
	}
}

func TestAScriptIsTakenFromTheFrontAndEndsInZeros(t *testing.T) {
	b := binary.AppendVarint([]byte{9, 'a', 'b', 'c'}, -70000)
	b = append(b, 0x80, 7, 'd') // 0x80 and 7 are one number, in more bytes than it takes
	s := choices.ScriptOf(b, 100)
	if got := s.Next(); got != 9 {
		t.Errorf("the first byte is %d", got)
	}
	if got := string(s.Bytes(2)) + string(s.Bytes(1)); got != "abc" {
		t.Errorf("the next are %q", got)
	}
	for _, want := range []int64{-70000, 7 << 6} {
		if got := s.Varint(); got != want {
			t.Errorf("a number is %d, want %d", got, want)
		}
	}
	if got := string(s.Bytes(5)); got != "d" || s.Left() {
		t.Errorf("the last is %q, and there is more: %v", got, s.Left())
	}
	if s.Next() != 0 || s.Varint() != 0 || len(s.Bytes(1)) != 0 {
		t.Error("there is something after the end")
	}
	s = choices.ScriptOf([]byte{0x80, 1, 2}, 2)
	s.Bytes(1)
	if s.Next() != 1 || s.Left() {
		t.Error("more was taken than asked for")
	}
	s = choices.ScriptOf([]byte{0xff}, 100)
	if s.Varint() != 0 || s.Left() {
		t.Error("half a number is not taken for 0")
	}
}
