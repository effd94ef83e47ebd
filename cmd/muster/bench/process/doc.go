// Package process looks at other processes of this machine, and starts them on chosen
// cores: how much processor time and memory one took, and which one listens on a port.
//
// Processor time is the kernel's own count in nanoseconds (a process's POSIX clock), that
// of threads that have ended included; clock ticks of 10 ms would be too coarse for short
// runs. Everything here is a function of the moment: there is no state, and each function
// may be called from any goroutine. It needs Linux; elsewhere each call says so.
package process
