// Package machine is the deterministic state machine: the whole replicated state
// (keys, leases, members, alarms, settings) and the one function that changes it.
//
// Apply(index, term, command) executes one command. It reads no clock, no
// randomness and no I/O, so every member that applies the same log has the same
// state, and a member that starts from a checkpoint has it too. Commands come in
// batches, one log entry each (Commands); EndEntry closes an entry. Publish
// freezes the state into a View, which readers use without any lock.
//
// # Main types
//
//   - Command, Kind: what travels through the log; its layout is fixed for ever.
//   - Machine: the state and its owner's interface.
//   - View: the state at the end of one entry. Buckets gives it as a checkpoint in
//     etcd's own layout, Restore and Refound read one, etcd's included.
//   - Settings: the limits that affect results, the quota among them (quota.go
//     enforces it). They are replicated: a flag on one member can't make it refuse
//     what the others accept. The leader's flags become the cluster's, once a term.
//   - CheckPut, CheckRange, CheckDelete, CheckTxn: the checks that need no state,
//     for core/rpc to make before it proposes.
//
// # Concurrency
//
// A Machine belongs to one goroutine, the applier. Views, and the events and
// results handed out, may be shared by any number of goroutines.
//
// # Invariants
//
//   - Apply never panics, whatever the bytes: it refuses, and equally on all members.
//   - A command that is refused changes nothing but, for ErrNoSpace, the alarm list.
//   - Each command takes at most one revision. A published view ends with an entry.
//   - Batching, publishing, physical compaction, checkpoints and whether replies were
//     wanted leave results, state and running hash as they are (the metamorphic test).
//   - A lease that is expired or revoked takes its keys along in the same revision,
//     in key order; a key is attached to the lease its record names and to no other.
//   - An expiry takes effect only in the term whose leader proposed it.
//
// # Refused by name
//
// Kinds, formats, settings and cluster versions that this release doesn't know
// (ErrUnknownCommand: the member must stop, see Fatal), checkpoints of newer
// releases, snapshots with auth enabled.
//
// # Where it differs from etcd
//
// A write refused for want of space is not applied (etcd applies it and reports
// an error). A put with ignore_value whose key an overlapping delete of the same
// txn has just removed starts from an empty value (etcd crashes). keys_only
// leaves out the lease with every sort target (etcd keeps it when sorting by
// value). A range with a sort target but no order is sorted before it is cut to
// its limit (etcd cuts first). NOSPACE clears itself.
//
// cmd/muster/differential finds such differences, and lists them with the wire's own.
package machine
