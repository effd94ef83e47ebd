//go:build !simbugs

package simbug

// Enabled says whether this build can have bugs switched on.
const Enabled = false

// On reports whether a bug is switched on: never.
func On(Bug) bool { return false }
