//go:build simbugs

package simbug

import "sync/atomic"

// Enabled says whether this build can have bugs switched on.
const Enabled = true

// active is a global because the bugs are spread over the whole program, and
// only one simulation runs at a time.
var active atomic.Pointer[Bug]

// On reports whether a bug is switched on.
func On(b Bug) bool {
	a := active.Load()
	return a != nil && *a == b
}

// Switch makes b the one bug that is on; the empty name switches it off.
func Switch(b Bug) {
	if b == "" {
		active.Store(nil)
		return
	}
	active.Store(&b)
}
