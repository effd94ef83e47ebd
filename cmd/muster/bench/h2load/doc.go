// Package h2load makes gRPC calls at a small fraction of what answering them costs, so
// that a server can be measured from the same machine.
//
// Why not grpc-go's client: it takes about as much processor time a call as a good server
// takes to answer one, and so it would be the generator that is measured. Here
//
//   - a connection's state (session) is plain: bytes in, bytes out, time an argument, no
//     goroutine, no lock, no allocation a call;
//   - every call's HEADERS frame is the same few bytes, because the first call put its
//     fields into the server's table and nothing is ever added after that;
//   - one goroutine a connection reads what has come, works all of it off, and answers
//     with one write, so that calls that end together begin together;
//   - replies are looked at no further than asked: a receive function sees messages,
//     without one they are only counted. Header blocks seen before aren't decoded again.
//
// Main types: Config says what to call, Run does it and returns a Report; Client makes
// single calls over the same sessions, for what surrounds a load.
//
// Loads are closed-loop: each of Config.Clients has one call outstanding. With a rate, a
// call's latency counts from when it was due, so that a server that stalls can't hide the
// calls that would have come meanwhile.
//
// Run may be called from any number of goroutines; all that it started has ended when it
// returns. A Client is for one goroutine at a time.
//
// It refuses what it was not made for: TLS, compressed messages, servers with a header
// table smaller than HTTP/2's default.
package h2load
