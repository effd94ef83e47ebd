// Package replica is the raft stepper: the sole owner of raft's RawNode and of
// the in-memory window over the log that raft reads.
//
// A Replica is pure. It has no goroutine, no clock, and does no I/O: ticks,
// peer messages and finished disk work are arguments, and [Replica.Ready]
// returns what has to happen next as plain values. The goroutines that write
// the log, apply entries and move bytes belong to core/node, and the simulator
// steps the very same structure from a seed.
//
// # Types
//
//   - [Replica] wraps raft.RawNode in AsyncStorageWrites mode.
//   - [Window] is the raft.Storage: every entry that is not yet applied and a
//     bounded tail of applied ones, in memory. Anything older answers
//     raft.ErrCompacted, which makes raft send that follower a checkpoint.
//   - [AppendTask] is one write to the log; [ApplyTask] one run of committed
//     entries, or a checkpoint to restore; [Output] is everything one Ready asks.
//
// # Contract
//
// One goroutine calls a Replica's methods. AppendTasks are carried out in
// order: written, made durable if NeedsSync says so, then handed back through
// [Replica.Appended]; ApplyTasks likewise through [Replica.Applied]. A task is
// handed back exactly once, or the process ends: a failed log write is never
// retried, since after a failed fsync nobody knows what the disk holds.
//
// Invariant: the window takes entries over only when their write is durable
// (in Appended, before raft hears of it), so it never claims more than the
// disk would give back after a crash.
//
// # Refused
//
// New refuses a log that begins after the state it is given or ends before it,
// and a hard state whose commit index does.
// Step drops messages for another member and raft's local ones. Propose fails
// when this member doesn't lead, hands leadership over or holds too many
// uncommitted bytes; then nothing was appended.
package replica
