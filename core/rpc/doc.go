// Package rpc is etcd's v3 gRPC interface over a Muster member: the services
// KV, Lease, Watch, Cluster, Maintenance, Auth and grpc.health.v1, byte for
// byte as etcd's clients know them.
//
// # Main types
//
//   - [Server] is the gRPC server with all services on it; [NewServer] takes a
//     [Config].
//   - [Node] is what the services need of the member; *node.Node is one.
//   - [WatchServer] is the Watch service over a watch.Hub.
//   - The access table (methods.go) lists every method with who may call it.
//     A method outside it is refused, and a service that brings one fails
//     NewServer, so that nothing is ever served that nobody decided about.
//   - The error table (errors.go) is the one place where our errors become
//     etcd's strings and codes.
//
// # What a hot call costs
//
// Put, Range and keep-alives are read in place (request.go) and answered from
// stored bytes (reply.go): a put's message becomes the command's body
// unchanged, a range's records are spliced into the reply as they are stored. Watch
// responses are put together from events that were encoded once (watch.go). The
// KV methods go around grpc's interceptors, not around the guard: guard.hot is
// the only way to make such a handler. All other messages are ordinary protobuf.
// Counters are resolved once per method; nothing here makes a timer per call.
//
// # Concurrency
//
// A Server is safe for any number of goroutines. It owns one goroutine of its
// own (which ends the streams of clients that insist on a leader once there is
// none), stopped by Shutdown, and one for each watch or keep-alive stream, which
// receives and ends with it; the rest are grpc's. Handlers share nothing but the
// Node and the hub, which must be safe for concurrent use.
//
// # Invariants
//
//   - What was checked is what is executed: a request that isn't canonically
//     encoded is re-encoded before it is proposed.
//   - A reply aliases immutable stored bytes or its own memory, never a
//     request's buffer.
//   - A request's content is never logged.
//   - A write is acknowledged (member.go) with what Node.Propose returned, never before.
//
// # Refused, by name
//
// RangeStream and Downgrade; every Auth method but AuthStatus; peer URLs with TLS. Compact with "physical" answers
// once the compaction holds, without waiting for memory to be freed; Defragment
// answers at once, for there is nothing to defragment.
package rpc
