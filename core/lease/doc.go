// Package lease holds leases: the replicated table of who was granted what, and
// the leader's soft clock that decides when one has run out.
//
// The two are kept apart on purpose. Table is part of the replicated state: it
// changes only when a command is applied, knows no time and is equal on all
// members. Lessor belongs to the leader alone, knows deadlines, and can do no
// harm: all it does is name leases whose expiry should be proposed. The proposal
// carries the leader's term and is applied only in that term, so a leader that
// was replaced without noticing cannot expire what its successor renewed.
//
// # Main types
//
//   - Table: Grant, Revoke, Checkpoint (of a remaining time), Attach and Detach
//     of keys; TableView is a frozen one.
//   - Lessor: Promote and Demote as leadership comes and goes, Renew, Expired,
//     Checkpoints; what was applied comes back as Granted, Revoked, Checkpointed.
//
// # Promises
//
//   - A lease never expires before its TTL has passed since the last renewal
//     that was answered, by the leader's monotonic clock, counted from when that
//     renewal was received.
//   - It may expire late: a new leader starts every lease afresh.
//   - Once its expiry (or a checkpoint of its remaining time) is on the way
//     through the log, renewals of that lease wait for the outcome.
//
// # Concurrency
//
// Table and Lessor have one owner each and are not synchronised. TableView is
// immutable and safe for any number of goroutines; publishing one is O(1), and
// writes after it copy only the path they touch (see tree).
//
// # Cost
//
// Attach and Detach are O(log n) in the number of all attachments, however many
// keys one lease has. Renew is O(1): deadlines are moved lazily in the heap.
//
// # Refused
//
// Grant: id 0 (it stands for no lease), an id in use, a TTL above MaxTTL. Renew:
// an unknown lease (ErrNotFound), a lessor that doesn't lead (ErrNotLeading), and
// the two that wait: ErrExpiring, ErrCheckpointed.
package lease
