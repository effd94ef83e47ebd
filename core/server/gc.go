package server

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// gcHeadroom is how much garbage may pile up before a collection, whatever the
// size of the live data. A put leaves about 1.5 KB behind and a collection has
// little to trace (the store is free of pointers), so 64 MiB is a cycle of some
// milliseconds every 40,000 puts; 96 MiB cost 32 MiB of memory and gained nothing.
const gcHeadroom = 64 << 20

// HoldGCHeadroom gives the collector a fixed head-room instead of a multiple of
// the live heap, and returns what undoes it.
//
// The collector's default lets the heap double. With little live data that
// means a collection every few milliseconds under load, a quarter of all CPU;
// with gigabytes of it, gigabytes of garbage. A plainly higher GOGC mends the
// first and worsens the second. So after each collection the multiple is set
// anew, to what gives the next one the same head-room again.
//
// The setting belongs to the process: it is main's to call, not Open's. It must
// not be called when the user has set GOGC.
func HoldGCHeadroom() (undo func()) {
	var stopped atomic.Bool
	before := debug.SetGCPercent(gcPercent(0))
	current := gcPercent(0)

	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var arm func()
	// Nothing refers to the sentinel, so that each collection finds it dead and
	// runs its cleanup: that is what being told of a finished cycle takes.
	arm = func() {
		sentinel := new([16]byte)
		runtime.AddCleanup(sentinel, func(struct{}) {
			if stopped.Load() {
				return
			}
			metrics.Read(live)
			// Setting it stops the world for some microseconds: not for a trifle.
			if want := gcPercent(live[0].Value.Uint64()); want < current*9/10 || want > current*11/10 {
				current = want
				debug.SetGCPercent(want)
			}
			arm()
		}, struct{}{})
	}
	arm()
	return func() {
		stopped.Store(true)
		debug.SetGCPercent(before)
	}
}

// gcPercent is the GOGC value that lets the heap grow by gcHeadroom beyond live.
func gcPercent(live uint64) int {
	// The runtime's smallest heap is 4 MiB times GOGC/100: below that much live
	// data this is what makes the head-room.
	const smallest = 4 << 20
	return int(max(1, gcHeadroom*100/max(live, smallest)))
}
