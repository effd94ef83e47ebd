// Package checkpoint keeps the state at one log index as a file in bbolt's
// format, in etcd's bucket layout: the file is an etcd snapshot.
//
//   - Write streams buckets of ordered pairs to any io.Writer, without seeking.
//   - Reader reads any bbolt file an etcd made, fresh or worn, and hands out the
//     pairs of a bucket in key order with bounded memory.
//   - Dir keeps the last checkpoints of a member: Save and Install make one
//     durable before its name appears, Newest finds the newest that is whole.
//   - schema.go has etcd's keys and values of the buckets we share with it.
//
// # The file
//
// Pages of 4096 bytes, little endian as bbolt has it on the machines we run on:
//
//	0, 1   meta pages: both name the same tree; transactions 0 and 1
//	2      free list, empty: nothing is ever free in a file written in one go
//	3 ...  the buckets' leaf and branch pages in the order they fill up
//	last   the root bucket, which names the others
//	       then 32 bytes, the SHA-256 of all before, as etcd's snapshots carry
//
// A tree grows from its leaves: a full leaf is written and named to the open
// branch page above it, a full branch page to the one above that. One open page
// a level is all the memory needed. The meta pages come first but name the last
// page, so the writer runs twice over its source: once only counting, once writing.
// Small buckets (up to a quarter page) lie inline in the root, as bbolt does it.
//
// # Contract
//
// The pairs of a bucket must come in strictly rising key order, equal in both
// passes, with keys of 1 to 32768 bytes. Slices handed out or taken in are valid
// only during the call. Write may run beside anything that leaves its source
// alone. A Reader belongs to one goroutine. A Dir may be used from many; it holds
// no lock while it reads or writes files.
//
// Invariant: a file under a checkpoint's name was complete and synced before it
// got the name. Refused: nested buckets, files cut short, pages that lie outside
// the file or refer to each other, keys out of order (all ErrCorrupt).
package checkpoint
