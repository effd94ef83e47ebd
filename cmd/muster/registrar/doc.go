// Package registrar is the command group "muster registrar": the sidecar that keeps a host's services registered, from
// a file or wrapped around one command.
//
// Command returns the commands; flags and wiring are here, and what belongs to processes and signals. What is registered
// and how is package registrar's (the library's).
//
// # The wrapped command
//
// It runs in a process group of its own, which gets the signals that this process gets. SIGTERM and SIGINT come to it
// only after the instances have been drained; a second one at once, a third kills. Every child that ends is reaped, as
// PID 1 must. The exit code is the command's, or 128 + the signal that ended it. An ExitError carries it: the caller's
// main must exit with its ExitCode.
//
// # Refusals
//
// An API address that isn't on loopback, a configuration with anything unknown in it, a command that can't be found
// (exit code 127, before anything is registered).
package registrar
