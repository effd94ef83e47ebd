// Package watch fans committed events out to watchers.
//
// # Main types
//
// A Hub is told of every published batch of events by the applier (Notify). A
// Stream is one client connection's set of watchers and the queue of what they
// are owed; its owner pulls Responses out of it with Next. A watcher is either
//
//   - synced: it stands in the hub's index, Notify appends to its stream's
//     queue, and everything up to the hub's revision has been queued for it; or
//   - behind: it stands in its stream only, and the goroutine that calls Next
//     reads history for it (mvcc.View.Events) in bounded batches until it has
//     seen the hub's revision, at which point it joins the index.
//
// A watcher begins behind when it asks for a past revision, and falls behind
// when its stream has used up its byte budget (Config.StreamBudget, hub.go) or
// the hub was Reset. How it catches up is in catchup.go.
//
// An event is encoded once, as the very bytes a WatchResponse carries, and that
// Encoded is shared by every queue it is put in (a second form carries prev_kv,
// made only if some watcher asked for it).
//
// # Concurrency
//
// The package starts no goroutine and reads no clock; Poll steps a stream
// without waiting, so a simulator can drive all of it. Hub and Stream methods
// may be called from any goroutine, except that Next and Poll of one stream
// belong to one goroutine at a time and Notify and Reset to one applier.
//
// Lock order: Hub.mu before Stream.mu. Hub.mu guards the index, the hub's
// revision and membership of it; Stream.mu guards the stream's queue and
// watcher table. History is read under neither. Neither is held across I/O or
// a wait, so Notify waits for no client.
//
// # The hand-over
//
// Invariant: for a watcher behind, everything below watcher.next was queued and
// nothing at or above it was. For a synced watcher the boundary is the hub's
// revision (or its start revision, while that lies in the future).
//
// Falling behind: Notify, holding Hub.mu, finds that revision R does not fit.
// It queues nothing of R, sets next = R and takes the watcher out of the index.
// It raises the hub's revision to R or more before releasing Hub.mu, so later
// Notifies, which can't see the watcher any more, are what history covers.
//
// Catching up: the stream's goroutine loads the hub's revision T and then a
// view. The applier publishes a view before it notifies, so the view has
// every revision up to T and its events from next to T are final. They are
// queued, next becomes T+1, and then, holding Hub.mu, the hub's revision is
// compared with T. If they are equal, no Notify has happened since: the watcher
// enters the index, and every later event finds it there (no gap), while none of
// those up to T can be notified again (no duplicate). If they differ it stays
// behind, and the next round begins at T+1.
//
// # Invariants
//
//   - All events of one revision for one watcher are in one Response.
//   - A watcher's events rise in revision, without gap or repetition, and none
//     comes before its start revision, before Created or after Canceled.
//   - A progress Response with revision R stands in the queue behind every event
//     up to R and before every later one, for every watcher it speaks for. It is
//     made only if those are all synced and past their start revisions.
//   - Registration and progress use the hub's revision, never the view's, which
//     runs ahead of what was notified.
//   - A stream holds at most its budget of undelivered events, however slow its
//     reader, plus one revision where a single revision is larger than the
//     budget's history share. Control responses are bounded by Admit.
//
// # What it refuses
//
// Each as a Created+Canceled Response with id -1: negative start revisions, ids
// already in use, empty ranges, and watchers past Config.MaxWatchers. A start
// revision below the compacted one gets Created and then Canceled with the
// revision to resume from.
package watch
