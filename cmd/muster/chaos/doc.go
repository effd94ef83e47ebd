// Package chaos runs three members of the real program, maltreats them, and
// holds everything that clients were told meanwhile against what a coordination
// store promises.
//
// There is nothing here but tests. Two are long when asked to be:
//
//   - TestKills (make kills KILLS=200 SEED=n) kills any or all members with
//     SIGKILL, as often while they are only starting as when they serve. A
//     supervisor starts them again at once and does nothing else.
//   - TestStorm (make chaos TIME=10m SEED=n) deals every kind of fault in turn:
//     kills, SIGSTOP, partitions of all shapes, loss, delay, reordering,
//     duplication, slow links, other clocks, a full disk, rolling restarts, a new
//     leader, a new member. The first two fifths of its time end no process, to
//     see that memory, goroutines and descriptors stay flat.
//
// make test runs a short version of each. Flags: -faults=REGEXP chooses kinds
// of fault (a soak is -faults='cut|hear|slow|loss|stopped|hand over', which end no
// process), -keep keeps logs and data after a success, too.
//
// # The clients
//
// A load is a dozen clients of etcd's official library and of our SDK that fight
// over a few keys at a time, watchers of every member and of all, from the first
// revision on, leases that are renewed and that aren't, and a lock that several
// want (recipes/lock). A writer of larger values makes the log grow into
// checkpoints, and a compactor follows the watchers. Afterwards:
//
//   - every watcher was told of each revision once, in order, none missing, the same as the others;
//   - every answer fits the state at its revision, acknowledged writes are there, refused ones are not, and none happened twice;
//   - what began after another was answered has the later revision, over all keys;
//   - porcupine, which is told of answers alone, finds each key linearizable, with writes of unknown outcome open for ever;
//   - no lease ended before its last renewal allowed, all ended that were left alone, and their keys went in one revision;
//   - holders of the lock never overlapped, its tokens grew, guarded writes are in their order;
//   - all members are healthy, with the same HashKV, and the keys that the history says;
//   - no process ended that was not told to, or printed a stack trace.
//
// Longest times without an acknowledged write are by the clock of the clients,
// whoever asked whichever member. After a storm's faults all members must be
// ready within a few seconds, however long the fault was. What happened while
// this process's own timers fired late by an election time-out doesn't count:
// then the machine let nobody run. Promises hold all the same.
//
// A soak is flat if in the last third of the time without lethal faults no
// member used more than a quarter above the most of the third before (plus 64
// MiB, 50 goroutines, 25 descriptors), and if in the end, without clients, each
// has as many goroutines and descriptors as before the first (plus 15).
//
// # The sandbox
//
// A storm runs in a copy of the test that is process 1 of namespaces of its
// own: whatever way it ends, the kernel ends what it has started and takes away
// its devices, mounts and namespaces. Each member has a network namespace with a
// TUN device, and the test carries the packets between them (wire): that can do
// what tc's netem does, in each direction by itself, on kernels that don't have
// it. Root is needed, or user namespaces and a /dev/net/tun that is open to
// all; without, make chaos says what is missing, and make test leaves it out.
//
// Clocks: a time namespace gives each process a monotonic and a boot-time clock
// of its own. The wall clock can't be moved for one process: there is no
// namespace for it, and a static program has no library call to intercept. The
// simulator (core/simtest) moves all clocks.
//
// SIGKILL loses nothing that was handed to the kernel. Losing what wasn't
// synced is the simulator's part too.
//
// # Seeds
//
// A seed decides which faults come, whom they hit and when. What the members
// are doing at that moment it can't decide, so the same seed is the same
// storm, not the same run. After a failure the members' logs and data are kept
// in a directory that is named.
package chaos
