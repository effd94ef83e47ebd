// Package bench is `muster bench`: loads on a server, what they cost it, and the same
// loads on etcd and Muster in turn.
//
// Each load prints throughput, latencies, errors, and, if the server runs on this machine,
// the processor time that an operation cost it beside what it cost the generator: figures
// of a generator that isn't clearly cheaper than the server are the generator's own, and
// the report says so. Loads over gRPC go through h2load, over DNS through dnsload.
//
// `bench compare` starts each server in turn in a fresh folder, on one core, and runs
// this very program's loads on another; so what it prints can be repeated by hand, load by
// load. `bench soak-memory` holds a server to its promise about memory and log syncs.
//
// Main types: options are the flags that loads share, meter takes the costs, result is
// what is printed, serverProcess is a server under measurement. Nothing here outlives its
// command: goroutines, processes and folders end with it, Ctrl-C included.
//
// It refuses TLS and authentication: it measures servers, not their clients' credentials.
package bench
