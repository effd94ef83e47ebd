// Package catalog holds the registry in memory: one immutable Snapshot of all services, their instances and their
// effective health, swapped atomically as the store changes, so that a DNS answer or a resolver's pick is pure memory
// work.
//
// # Types
//
//   - Snapshot, ServiceView, InstanceView: immutable; any number of goroutines may read them for as long as they like.
//   - Catalog: Open starts the feed, Snapshot returns the newest (nil until the first sync), Updates and
//     Config.OnChange tell of changes, Staleness tells how long ago the store was last heard.
//
// # Feed
//
// The feed lists /muster/v1/ at one revision R and watches from R+1. A watch that breaks is resumed by the client; while
// it is down the last snapshot stays, and Staleness grows. When the history it needs has been compacted, it lists again
// and swaps in the result. A value that can't be decoded is left out, counted, and logged once per key.
//
// # Cost
//
// Services lie in a persistent trie of depth two and 64 children a node: publishing a change copies two such nodes, a
// bucket and the changed service's list of instances, whatever the number of services. Events that arrive together are
// published together.
//
// # Invariants
//
// A Snapshot never changes. Instances of a service are sorted by id; iteration is sorted by name. Snapshots fall on
// revision boundaries: an instance and the health written in the same transaction appear together. Rev never falls,
// except after the store itself was restored to an earlier state, which arrives as a full resync.
//
// # Concurrency
//
// One goroutine owns the feed and all mutable state, a second one receives the watch, a third asks the store for a sign
// of life; all are started in Open and awaited in Close. OnChange is called from the owner and must not block.
package catalog
