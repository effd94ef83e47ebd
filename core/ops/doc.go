// Package ops is what operators and their tools ask a member over plain HTTP:
// /version, /health, /livez, /readyz and /metrics, with the paths, answers and
// metric names of etcd, so that probes, dashboards and alerts work unchanged.
//
// # Main types
//
//   - [Member] is what it needs to know of the member: declared here, six methods.
//   - [Ops] holds the handlers; [New] takes a [Config]. [Ops.Register] puts
//     them on a mux.
//   - [Instruments] are the histograms and counters that the parts of a member
//     feed as things happen. What can be read off the member when a scrape
//     asks is read then, all in one go ([Stats]). A peer's round trip is that
//     of the leader's heartbeats, its own loop and the follower's included.
//
// # Concurrency
//
// Everything may be called from any goroutine. The package starts none.
//
// # Invariants
//
//   - /livez tells whether the process should be restarted, so it never fails
//     for want of a quorum; /readyz and /health do.
//   - Every metric name of etcd's is present from the first scrape on. Those
//     with nothing behind them here (bbolt's innards, the v2 store, the
//     gRPC proxy) stay at zero: see inert.go.
//
// # Refused
//
// Every method but GET, but for profiles. Those are only there when asked for
// ([Ops.RegisterProfiles]).
package ops
