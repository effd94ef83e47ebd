// Package server assembles a member: the one [Config], the listeners, the
// node, the services on the client port, and what is mounted beside them.
//
// # Main types
//
//   - [Config], filled by flags, environment and file ([Config.AddFlags],
//     [Flags.Resolve]) or by hand from [Default]. Precedence: flag, then
//     MUSTER_*, then ETCD_*, then the file. Validate names the flag and the
//     remedy.
//   - [Server]: [Open] reads as the order of assembly, Close as its reverse.
//   - portMux shares the client port between gRPC and HTTP/1 by the first
//     bytes of each connection.
//   - [InProcess] reaches the services without a network, in the name of a
//     part of the program, for what is mounted by Config.Background.
//
// # A new setting
//
// It is a field of [Config] with its default in [Default] (config.go) and a line
// in [Config.AddFlags] (flags.go), from which the environment variable and the
// file's field follow. What can't work is found in Config.Validate (validate.go).
// nodeConfig (node.go) passes it to the member, Server.rpcConfig (server.go) to
// the services. A flag of etcd's that changes nothing here stands in acceptedOnly.
//
// # Concurrency
//
// All goroutines are started in Open (one accept loop a listener, one short one
// a new connection, one a server, one a background task, one that compacts if
// asked to, two that watch the member) and awaited in Close, which may be called
// from anywhere and again. Nothing is locked across I/O.
//
// # Invariants
//
//   - Listeners are bound before the data directory is touched: a taken port is
//     one clear error and no side effect.
//   - A connection holds one slot from accept to close; a silent or garbled one
//     holds nothing else.
//
// # Refused, by name
//
// https and unixs URLs (TLS), unknown fields of
// the configuration file. Unknown ETCD_* and MUSTER_* variables are warned about.
package server
