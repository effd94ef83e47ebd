// Package e2e starts the real muster program and looks at it from outside, as
// a user's supervisor, client or resolver would: etcd's official Go client and
// Debian's etcdctl, dig, signals, full disks, damaged files, garbage on ports.
//
// There is nothing here but tests. TestMain builds ./cmd/muster once, without
// cgo, as a release is; MUSTER_E2E_BINARY names a program to test instead.
//
//   - process is a program that was started (e2e/program): its log line by
//     line, how it ended.
//   - Member is a muster server on ports and a directory of its own, which keep
//     from one Start to the next; Cluster is one or three of them.
//   - A run is a program that is expected to end by itself.
//
// What every test checks without asking: no process may print a stack trace,
// and none may outlive the test that started it (nor the package: TestMain
// looks). Members' logs and data are kept, and named, when a test fails.
//
// A file with compat in its name holds what makes the server pass for etcd,
// badday what a user or a machine does wrong, discovery the way from a
// registration to a DNS answer. What happens under kills is cmd/muster/chaos.
//
// go test -short runs none of it: these are minutes of real time, and the race
// detector doesn't reach into other processes.
package e2e
