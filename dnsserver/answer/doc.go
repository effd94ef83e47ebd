// Package answer decides what a DNS question about services is answered: a pure
// function from (snapshot of the catalog, question) to sections of records, and
// their packing into a message of a bounded size.
//
// # Names
//
// In the zone Z (muster.internal. unless told otherwise), with namespace "default"
// where none is written:
//
//	S[.ns].svc.Z                A AAAA SRV    the service's healthy instances
//	_port._proto.S[.ns].svc.Z   SRV           their port of that name
//	I.S.ns.svc.Z                A AAAA TXT    one instance; TXT holds its metadata
//	Z                           SOA NS        SOA serial = the catalog's revision
//	ns.dns.Z                    A AAAA        this server
//	dns-version.Z               TXT           version of the Kubernetes schema
//
// svc.Z, ns.svc.Z, _proto.S.ns.svc.Z and dns.Z hold names but no records: they are
// answered without data, never NXDOMAIN, which would deny the names below them
// (RFC 8020). So is a service nobody healthy serves, unless its policy says
// otherwise, and a type a name doesn't have (a musl libc gives up on a name whose
// AAAA is NXDOMAIN).
//
// Where S in the default namespace and a namespace S both exist, S.svc.Z is the service.
//
// An endpoint's address may be a host name: then an A or AAAA question gets a CNAME,
// followed inside the zone (at most 8, without loops), and an SRV record points at the
// host itself. A CNAME can't share its name with addresses, so where a service has
// instances of both kinds the addresses alone are answered.
//
// # From snapshot to message
//
//   - Zone.Build gives an Answer: everything the snapshot holds for the question, in a
//     fixed order, with weights, the largest sample, and the services it depends on.
//   - Sampler draws from it: all records shuffled, or a weighted sample of Max of them.
//   - Answer.Pack writes the drawn records as a message no larger than a limit: what is
//     merely additional is dropped first and silently, then records of the answer are,
//     which truncates it.
//
// # Concurrency and invariants
//
// A Zone is immutable. An Answer and a Sampler belong to one goroutine; packing writes
// into the records' headers, so Build makes fresh ones each time.
//
// Invariant: equal snapshots and questions give equal answers, on every node.
// Invariant: a message is truncated if and only if a drawn record was left out.
//
// # Refusals
//
// A name outside the zone is an error of the caller's (see Zone.Contains). Labels that
// aren't LDH match nothing. PTR, tags, zones of locality, stored queries and other data
// centres aren't answered by this release: they are NXDOMAIN like any unknown name.
package answer
