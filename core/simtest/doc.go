// Package simtest steps whole clusters from a seed: real steppers, logs,
// checkpoints, machines and watch hubs over a simulated network, disk and
// clock, in one goroutine and virtual time.
//
// # Main types
//
//   - [World] holds the virtual time, the event queue, the members, the network
//     and the clients. [Run] plays one seed and returns what it found.
//   - member is one node.Member on a vfs.Mem that forgets what was not synced
//     when it crashes; a crash may come between any two I/Os.
//   - client runs one operation at a time and notes call, return and result.
//   - operator adds, promotes, moves, removes and replaces members, as one more
//     kind of thing that happens; joining.go has what core/node's goroutines and a
//     supervisor do around that, addresses.go core/transport's rules about who is
//     reached where, and who is told that it was removed.
//   - truth is the committed history; its roster says who belongs to the cluster.
//
// # What is checked
//
//   - Every committed entry is carried out by core/spec as well: revisions,
//     answers to clients, refusals by name, and, now and then, the whole state, leases
//     included, must agree.
//   - Every member applies the same entries and events and has the same running
//     hash at each index; every value is written once.
//   - Linearizability of every key's history (porcupine; Horn and Kroening's
//     per-key partition), operations with unknown outcome included. Reads of one
//     and of many keys show a committed state, not older than anything that was
//     acknowledged, or shown by such a read, before they began.
//   - Watchers, of all keys and of ranges: every revision's events once, in order,
//     whole, none missing, with the right previous value, across crashes, checkpoint
//     installs and moves to other members; where a progress report says that nothing is
//     missing, the next stream begins. Cancelled only for a compaction that there was,
//     and nothing comes after that, or after a cancellation of their own.
//   - Leases: never gone before the last answered renewal plus TTL on the fastest
//     clock there may be; gone soon after the faults when nobody renews, with all keys
//     in one revision.
//   - Members: each change is carried out or refused alike on all members and by
//     etcd's rules, and its caller is told so; lists and raft's voters are those of
//     the history at every index, checkpoints included; raft makes nothing of no
//     change; no id comes back; learners don't stand for election and are promoted
//     only when they have something; who was removed stops, and finds out on its
//     next start.
//   - A damaged file is refused or another one stands in for it; a failed
//     checkpoint stops nobody.
//   - Once faults stop: every member catches up, every client is served.
//
// # Determinism
//
// The same seed gives the same run: all randomness comes from one generator and one
// for each fault, raft's own (crypto/rand) is seeded through testing/cryptotest, and
// nothing depends on map order or real time; a hash over every step and message says
// so. A failing seed prints the command that replays it, and the one that shrinks it:
// fewer members, clients and watchers, less time, and only those faults that it takes,
// which are printed as a script. One simulation per process at a time.
//
// # Left out
//
// The goroutines of node.Node, the transport's connections, gRPC: they have
// tests of their own, and cmd/muster/e2e. Nobody loses a disk and comes back under
// the same id: who lost its disk is replaced. No write to a log goes to the wrong
// place, only those to checkpoints: if nothing comes after it, what was to be there
// looks like a tail that was never synced, and raft has no answer to that. Monotonic
// clocks run at wrong rates and stand still, but do not jump: no kernel lets them.
package simtest
