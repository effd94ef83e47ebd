// Package dnsserver answers DNS questions about services over UDP and TCP from a
// watched catalog; no query ever reaches the store.
//
// Open starts a Server; Config.Source is the catalog it reads. What is answered is
// package answer's decision; this package moves bytes, remembers packed answers, and
// refuses what isn't a plain question.
//
// # Two ways through
//
// A plain query (one question of class IN, at most an OPT without surprises) is parsed
// in place. Its lower-cased name and type are the key of a map from which a packed answer
// is copied, id, flags, the asker's own spelling of the name and OPT patched in. Sets of
// addresses are kept whole and shuffled or sampled at each query. Nothing is allocated.
// Everything else (other sections, options, garbage) is unpacked by miekg/dns first and
// then takes the same way, or is refused.
//
// The map belongs to one loop, so it has no lock. An entry remembers which services it was
// made from and outlives a new snapshot in which those didn't change; negative answers
// are kept in a map of their own, so that a flood of made-up names can't push out the
// names in use. Both are bounded and simply emptied when full.
//
// # Concurrency
//
// One goroutine for each UDP socket (one a GOMAXPROCS, sharing the port through
// SO_REUSEPORT), none for a packet; one accepting TCP, one for each TCP connection, their
// number bounded. Open starts them, Close stops and awaits them. A TCP connection takes
// one of a few responders under its lock, never across I/O.
//
// # Invariants
//
//   - A message from outside can't make the server panic, nor make it answer more than the
//     limit: 512 bytes without EDNS, else the client's size but at most 1232, below 64 KiB
//     over TCP. The bit TC is set if and only if a record of the answer is missing.
//   - The question is echoed byte for byte.
//   - Before the first sync there are no answers and no denials: SERVFAIL (EDE 14).
//   - With the store lost, answers go on, marked stale (EDE 3, or 19 for NXDOMAIN), for
//     MaxStale; then SERVFAIL.
//
// # Refusals
//
// Responses (QR) are dropped. Other opcodes are NOTIMP, classes other than IN, names of
// others (EDE 20), zone transfers and signed messages REFUSED, EDNS versions above 0
// BADVERS, several questions or OPTs FORMERR.
package dnsserver
