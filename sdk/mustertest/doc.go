// Package mustertest runs real servers for tests: builds ./cmd/muster, starts one or more members on free ports with
// their data in temporary folders, and stops them when the test ends.
//
// The main type is [Cluster].
//
// The environment variable MUSTER_TEST_SERVER replaces the server by a command line that takes the same flags, such
// as "/usr/bin/etcd". There is no way to skip: if no server can be built or started, the test fails.
//
// A Cluster's methods may be called from any goroutine of the test, though not two of them for one member at once.
package mustertest
