// Package mvcc is the key-value state: every key, every version of it since the last compaction, in memory.
//
// # A worked example
//
// One key and what a compaction leaves of it. Columns are entries of the history; ←n is the link to the version
// before; † a tombstone.
//
//	revision  operation      entry (sequence number: key, create, version)   index item of "k"
//	2         put k=a        1: k create 2 version 1                          1
//	3         put k=b        2: k create 2 version 2  ←1                      2
//	3 (same)  put j=x        3: j create 3 version 1                          2
//	4         delete k       4: k †                   ←2                      4†
//	5         put k=c        5: k create 5 version 1  ←4                      5
//
// A read of k at revision 3 starts at item 5 and follows the links: 5 is of revision 5, 4 of revision 4, 2 of revision
// 3: "b". At revision 4 it ends at a tombstone: no such key. Watchers from revision 3 read entries 2, 3, 4, 5.
//
//	Compact(3)   kills 1: version 2 replaced it at or before 3. Entry 2 is what readers at 3 see, so it stays.
//	Compact(4)   kills 2 as well. The tombstone 4 stays, because a watcher may still start at revision 4.
//	Compact(5)   kills 4. Entry 5's link leads nowhere, which reads as "no such key".
//
// Had nothing been put at revision 5, Compact(5) would also have taken k out of the index.
//
// # Types
//
// Store is the writer's side: Begin a Tx, Put and DeleteRange in it, Commit; Compact; Publish a View. View is one
// state for readers: Get, Range, RangeEach, Events, HashKV, Dump. Record is one version as wire bytes. Loader builds a
// Store from what Dump gave, or from an etcd snapshot.
//
// # Concurrency
//
// A Store, its Tx and a Loader belong to one goroutine. A View is immutable and may be used by any number; neither
// side ever waits for the other. Records and Events alias memory that is never written again; the garbage collector
// frees it when nobody can see it.
//
// # Invariants
//
//   - Entries are in order of revision and sub-revision; sequence numbers rise with them and are never reused.
//   - An index item points at its key's newest version, which is always there; a key without one has no item.
//   - Nothing a View can reach is written. Chunks only grow at the end; nodes of an older epoch are copied first.
//   - What can be read, hashed, dumped or charged depends on the calls to Tx and Compact alone, never on CompactStep
//     or on a round trip through Dump and Loader.
//   - After CompactStep reports it has no more to do, chunks take at most twice the bytes of what is alive, plus two
//     chunks.
//
// # Refused
//
// Revisions compacted or not yet written (ErrCompacted, ErrFutureRev), sorts that don't exist (ErrUnsupported), loads
// that no store has written (ErrCorrupt). Empty keys, sizes, leases and quotas are the caller's to check. There is no
// rollback: the caller checks before it writes.
//
// DESIGN.md gives the reasons.
package mvcc
