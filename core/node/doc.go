// Package node turns the raft stepper, the state machine, the log and the
// watch hub into one cluster member.
//
// # Main types
//
//   - [Stepper] is pure: no goroutine, no clock, no I/O. It decides when to
//     propose, forward, read, renew, expire, check and change the members.
//   - [Applier] carries committed entries out on the machine.
//   - [Member] is one member without a goroutine: what its directory gave
//     back, a Stepper and an Applier. core/simtest steps it from a seed exactly
//     as [Node] does.
//   - [Node] is the shell around a Member: the goroutines that own the log, the
//     machine, the peer streams and the checkpoints, and the calls that
//     core/rpc makes.
//
// # Goroutines of a Node and what each owns
//
//   - loop: the Stepper (and through it raft and the log window). Its inputs
//     are the inbox: client batches, peer messages, finished disk work.
//   - disk: the wal.Log. Drains its queue: one write per task, one fdatasync
//     for all of them, answers in order.
//   - apply: the machine.Machine. Applies entries, publishes the view, tells
//     the hub and the loop, then wakes the waiters, in that order.
//   - checkpoint: started when a checkpoint is due; writes a published view. One
//     more for each checkpoint that is being sent to a follower.
//   - publishSelf: tells the cluster this member's name and URLs, and ends.
//   - transport's own: see core/transport.
//
// # Lock order
//
// inbox.mu guards the inbox and the waiter table. It is held for a few hundred
// nanoseconds (longer only by the sweep for overdue waiters, once a tick); nothing
// else is locked while it is held.
//
// # Where things happen
//
// A put enters at [Node.Propose], which adds it to the inbox's open batch and
// waits. It becomes durable in disk ([Member.Write]: Append for each task, one
// Sync for all), is decided in loop (raft commits it once a quorum wrote it),
// takes effect in apply ([Applier.Run]) and is acknowledged there too: runApply
// hands the results to the waiters. On a follower the loop sends the batch to
// the leader (Stepper.forward) and recognises it in its own log; its waiters are
// woken by its own apply. The leader only ever answers that it refuses. Without a
// leader, or a connection to it, the batch waits (Stepper.hold).
//
// A lease expires in [Stepper.Tick] (leases.go), which proposes a command that
// carries the leader's term and is void in any other. A linearizable read waits
// in [Node.ReadBarrier], its question is [Stepper.Read]'s (reads.go). Members
// change in members.go and confchange.go, and join in join.go. What a crash left
// is put right in open.go.
//
// # Invariants
//
//   - A command is acknowledged only when a quorum has it on disk and this
//     member has applied it. Waiters and hub hear of it after the view is published.
//     A removal, promotion or move also when a quorum has on disk that it is committed.
//   - What was sent to a leader is never sent again.
//   - After a failed log write the node ends: nobody knows what the disk holds.
//   - On open the log starts at or before the newest checkpoint and reaches at
//     least as far, whatever moment a crash chose.
//   - A lease is renewed only by a leader that has applied its term's first entry
//     and that a quorum confirmed after the renewal arrived.
//
// # Refused
//
// ErrNoLeader, ErrTooManyRequests and the refusals of membership changes mean
// that nothing was proposed. After ErrLeaderChanged, ErrTimeout, ErrStopped or the
// end of the caller's context nobody knows.
//
// A directory is refused that is in use, etcd's own, another cluster's or a
// removed member's, and one whose log and checkpoints don't fit together (the
// errors of open.go, each with its remedy). So is joining a cluster that has not
// added this member or of which too few members vouch for it, and founding one
// that knows this member already (those of join.go).
package node
