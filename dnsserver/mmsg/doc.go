// Package mmsg moves UDP datagrams in batches: on Linux one recvmmsg and one
// sendmmsg carry up to a batch of datagrams each, elsewhere the same interface
// is served one datagram at a time.
//
// A DNS answer costs less to compute than to receive and send: 85–90 % of a bare
// UDP echo's CPU is the kernel's, so fewer system calls are the one thing that
// helps. golang.org/x/net has batches too, but allocates an address per datagram;
// here the raw socket address stays in the batch and the reply goes back to it, so
// a steady state allocates nothing.
//
// The main types are Conn, a socket, and Batch, the buffers of one loop over it.
//
// Concurrency: a Conn may be used by many goroutines, a Batch by one at a time.
// Close unblocks Recv and Flush, which then report net.ErrClosed.
//
// Invariant: a queued reply leaves from the address its query arrived at, also on
// a socket bound to the wildcard address of a host with many addresses.
package mmsg
