// Package server is `muster server`: flags and wiring around core/server. What is
// mounted beside the core is chosen here: DNS (dns.go), through
// server.Config.Background.
//
// [Command] is the command; [AsEtcd] tells whether the program stands in for etcd.
// What belongs to the process is here too: signals, exit codes, the garbage
// collector's settings. A second signal ends the process at once; a member that does not
// close within five seconds ends as after a crash.
//
// It refuses what core/server's Config.Validate refuses, with exit code 2 and
// before the data directory or a port is touched.
package server
