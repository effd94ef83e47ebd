// Package sdk is Muster's client library: keys, transactions, watches, leases and sessions over etcd's v3 wire, on plain
// gRPC. It speaks to Muster and to etcd alike.
//
// # Main types
//
// [Client] holds one lazily made connection an endpoint and moves calls off members that don't serve. [Txn], [Op] and
// [Cmp] describe atomic changes. [Client.Watch] is an iterator of [WatchBatch], one batch for whole revisions.
// [Session] keeps a lease alive and owns a context that ends before the lease can; recipes are built on it.
//
// # Which member serves, and what is repeated
//
// A client starts at a random endpoint and stays with it until it is unreachable, answers "no leader", or is silent for
// half of a read's deadline; then the next endpoint takes over. Linearizable reads and all writes ask the member to refuse at once when
// it sees no leader (etcd's "hasleader" metadata). Calls wait for a member until their deadline, which is Config.Timeout
// from now when the context has none.
//
// Reads are repeated freely. A write is repeated only if it certainly wasn't executed: it never left this process, or a
// member refused it before proposing it. In every other case the error is [ErrUnknownOutcome]: the write may have
// happened, may happen later, or not at all; read to find out, and make writes conditional so that repeating is safe.
//
// # Errors
//
// Every error of a call is an [*Error]: errors.Is finds the sentinels of this package and context errors,
// status.FromError the gRPC status as the member sent it.
//
// # Concurrency
//
// A Client and a Session may be used by any number of goroutines. A Client owns one goroutine an endpoint, a
// Session one; Close stops and awaits them. A watch runs in the goroutine that ranges over it and leaves nothing behind.
//
// # Refused
//
// Options that don't apply to a call are refused by name, never ignored. A lost session is never replaced silently.
package sdk
