// Package dnsload asks a DNS server questions as fast as it answers, over UDP, and
// reports rate, latencies, response codes and losses.
//
// It is meant to cost much less than what it measures, on the same machine: queries are
// packed once and only given an id, sockets send and receive in batches, replies are
// looked at no further than their header. Each connection keeps a window of queries in
// flight (closed loop), so the server is never flooded and loss means loss.
//
// Run is safe for concurrent use; its goroutines, one a connection, end before it returns.
package dnsload
