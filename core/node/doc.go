// Package node turns the raft stepper, the state machine, the log and the
// watch hub into one cluster member.
//
// It has two halves:
//
//   - [Stepper] is pure: no goroutine, no clock, no I/O. It decides when to
//     propose, forward, read, renew, expire and check; core/simtest steps it
//     from a seed exactly as [Node] does.
//   - [Node] is the shell: the goroutines that own the log, the machine, the
//     peer streams and the checkpoints, and the calls that core/rpc makes.
//
// # Goroutines of a Node and what each owns
//
//   - loop: the Stepper (and through it raft and the log window). Its inputs
//     are the inbox: client batches, peer messages, finished disk work.
//   - disk: the wal.Log. Drains its queue: one write per task, one fdatasync
//     for all of them, answers in order.
//   - apply: the machine.Machine. Applies entries, publishes the view, tells
//     the hub, then wakes the waiters, in that order.
//   - checkpoint: started when a checkpoint is due; writes a published view.
//   - transport's own: see core/transport.
//
// # Lock order
//
// Node.mu guards the inbox and the waiter table and is held for a few hundred
// nanoseconds; nothing else is locked while it is held.
//
// # Where things happen
//
// A put becomes durable in disk (Node.runDisk: wal.Append and wal.Sync), is
// decided in loop (raft commits it once a quorum wrote it), takes effect in
// apply ([Applier.Run]). A lease expires in [Stepper.Tick], which proposes a
// command that carries the leader's term and is void in any other. A
// linearizable read waits in [Stepper.Read].
package node
