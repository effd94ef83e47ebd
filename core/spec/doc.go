// Package spec is the executable specification: what a cluster promises to do
// with keys, transactions, leases and watches, written so plainly that one can
// see it is right. It has no cleverness and no speed: maps, slices, and a replay
// of the whole history for a read of the past.
//
// It serves two ways: core/simtest plays the committed log on it and holds every
// reply to its answer, and core/machine's randomised tests run it as the twin of
// the real machine. Apply, Clone, Equal and Hash also make it a sequential model
// for porcupine; this package's tests show how.
//
// The main type is State; New gives the empty one.
//
// Requests, responses and errors are etcd's own (etcdserverpb, rpctypes).
// Response headers carry the revision only, as nested ones do on the wire.
// Requests are checked as a server checks them; messages given to a State or
// returned by one must not be modified.
//
// # Concurrency
//
// A State is a plain value for one goroutine. Clone makes an independent one.
//
// # Left out
//
// Time (Expire names the leases whose time is up), quota, auth, members, and
// etcd's freedom in the order of equal sort keys: here they stay in key order.
package spec
