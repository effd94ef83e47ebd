package choices_test

import (
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
