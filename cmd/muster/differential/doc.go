// Package differential gives a real etcd v3.7 and the real muster program the
// same requests and wants the same answers: responses field by field, errors by
// code and text, and what every watcher is told, event by event.
//
// There is nothing here but tests. make differential builds both programs
// (etcd's server is a module of its own, cmd/muster/bench/etcdserver) and runs
//
//	make differential TIME=5m SEED=7
//
// With ARGS=-members=3 Muster is a cluster of which each request goes to the next
// member, once that has caught up: forwarded or not, the answer is to be the same.
//
// A failing tree is shrunk and printed with the command that shows it again,
// make differential SEED=7 ARGS=-tree=123. make test has no etcd: there the
// program is held against what etcd 3.7.3 answered when make differential-record
// was run (testdata/etcd-3.7.3.txt).
//
// # How it works
//
//   - A Program is a list of requests in which revisions and leases may be symbols
//     (now-3, compacted+1, lease#0), so that it means the same on any store and
//     still means something when the shrinker leaves steps out.
//   - generate makes one from a seed: trees of txns, ranges with every field, leases,
//     watches on two streams, compactions; some requests are mangled on the wire.
//     scripts are written by hand, for what would spoil a store for those after it.
//   - run takes a program through one server over plain gRPC (no client library that
//     could hide anything) and gives a transcript as text. Ids of clusters, members
//     and chosen leases, terms, ports, sizes of databases and the seconds that have
//     passed are taken out; the order of LeaseLeases and of a lease's keys, which
//     etcd leaves to chance, too. How events are spread over responses is the
//     server's business, but no revision may be in two of them.
//   - A model, core/spec, answers what etcd is asked as well and has to agree: it
//     is what the simulator and the machine's tests judge by.
//   - compare wants two transcripts to be equal but for the differences below. A run
//     fails if one of those never shows.
//
// What is read from history, and prev_kv, depend in etcd on who is faster: before
// a watcher is canceled and before a compaction the run waits until all have heard
// everything. A tree with leases that could run out is not counted if it took long.
//
// # Where Muster answers otherwise, and why
//
//	text of malformed messages               what can't be decoded is Internal in both; the rest of the text is the decoder's
//	keys_only never shows leases             etcd shows them if sorted by value, and only then
//	sorted before it is cut                  with a sort target but no order etcd takes the first keys up to the limit
//	                                         (and one more), sorts those and drops one: neither a page nor the smallest
//	the size limit is the request's own      etcd adds what it wraps the request in, some 20 bytes
//	hash of a negative revision              HashKV means now by it, as Range does; etcd hashes nothing
//	hashes from before a compaction          etcd keeps the last ten and gives those for revisions that are compacted, with
//	                                         another hash than it has for the same revision after a restart
//	declared codes                           "re-configuration failed due to not enough started members" (and "too many
//	                                         requests") reach clients as Unknown from etcd, by a slip in its table
//	no RangeStream yet                       Unimplemented, on which clients fall back to Range
//	no Downgrade yet                         refused by name
//	no authentication yet                    refused by name; AuthStatus says that it is off
//	no lock service yet                      the recipes are in the client
//	no election service yet                  the recipes are in the client
//
// Not compared, because etcd doesn't stand it or time decides:
//
//   - a put with ignore_value after a delete "from key on" of that key in one txn: etcd crashes;
//   - HashKV after a delete "from key on" and a put in one txn: if the txn deleted
//     the key first, etcd's index forgets the new version in a compaction at that
//     very revision, hashes as if it had, and crashes at the next look at the key
//     (a tree that does this ends etcd; the run goes on with new servers);
//   - the removal of the last voter: etcd crashes;
//   - a txn that only compares, which etcd may answer stale;
//   - a put for which there is no space, which etcd carries out although it
//     answers that it hasn't;
//   - reads under a CORRUPT alarm, which etcd answers; here they are refused until
//     a majority of the members agrees, which in a cluster of one it soon does;
//   - progress notifications of a stream on which compaction has canceled a
//     watcher: etcd falls silent until the client confirms.
package differential
