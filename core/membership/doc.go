// Package membership holds who belongs to the cluster and the rules by which
// that may change.
//
// Member is one node: a 64-bit id, a name and client URLs it publishes itself
// once it runs, peer URLs, and whether it is a learner. Set is the replicated
// list of members together with the ids of all members ever removed. Change is
// one requested change in the form in which it travels through the log.
//
// Ids are derived as etcd derives them (SHA-1 over sorted peer URLs, cluster
// token and, for a member added later, the time), so that a cluster started
// from the same flags gets the same ids as etcd would.
//
// # Concurrency
//
// A Set has one owner and is not synchronised. What it hands out (Members,
// Removed, a Member's URL lists) is never changed afterwards and may be shared
// freely: every change replaces the slice it touches.
//
// # Invariants
//
//   - Members are sorted by id, ids are unique and never 0.
//   - An id that was removed never comes back.
//   - No two members share a peer URL.
//   - No change leaves more learners than SetMaxLearners allows
//     (DefaultMaxLearners unless told otherwise), nor takes the last voter.
//
// # Refused
//
// Check states the same refusals as etcd, in the same order. Health ("enough
// members are started") is not known to the replicated state; ReadyToAdd,
// ReadyToRemove and ReadyToPromote answer the part of it that is.
package membership
