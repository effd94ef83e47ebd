// Package program builds the real muster program and runs it and others as
// processes, for tests that look at it from outside (e2e, chaos).
//
//   - [Build] compiles ./cmd/muster as a release is; [Run] is a TestMain around it.
//   - [Process] is a program that was started: its [Output] line by line, how
//     it ended. It dies with whoever started it.
//   - [Children] are the processes that are left behind; [Trace] finds what
//     only a program's authors want to see.
//
// A Process has one goroutine, which ends with it. Its methods, and an
// Output's, may be called from any goroutine.
package program
