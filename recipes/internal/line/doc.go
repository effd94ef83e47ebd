// Package line is the queue that locks and elections stand in: keys under one prefix, bound to leases, served in the
// order of their create revisions, as etcd's own lock and election clients do, which may stand in the same line.
//
// # Types
//
// A [Place] is one key in the line; [Enter] waits for the front, [EnterIfEmpty] doesn't. Config names session, prefix and
// value. Place.Rev, the key's create revision, is what fencing tokens are made of.
//
// # Invariants
//
// A Place's key is new for every acquisition (unless Config.Shared), so two goroutines on one session have two places,
// and its creation can be repeated after an error that leaves the outcome open. Nobody is at the front until a quorum
// has confirmed that the own key still stands: with the answer to its creation, or by Verify after waiting.
//
// # Concurrency
//
// A Place is used by one goroutine at a time; Guard and Verify by any number. A goroutine is left behind only by
// who can't give up a place in time: it goes on trying until the session ends.
//
// # Refused, and what can't be undone
//
// A lost session is an error, never a place. After a creation whose outcome was unknown, leaving puts a key PREFIX\x00LEASE-NONCE
// beside the line, bound to the lease, which keeps a late copy of it from being executed; a Shared place, whose name is used
// again, has no such fence: there the key may appear after it was deleted, and then stands until the session ends.
package line
