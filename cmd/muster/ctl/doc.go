// Package ctl is `muster ctl`: what an operator or a script does with a running cluster, in etcdctl 3.7's grammar,
// flags, output formats and exit codes, so that it may stand in under that name.
//
// # Main types
//
// Command and Etcdctl build the tree of commands. Each command has a file; what it answers is a result, which knows its
// forms, and a Printer writes one of them: simple, fields, json, protobuf or table. An invocation is one run of a
// command: its streams, flags and client.
//
// # Where it differs from etcdctl, on purpose
//
// A flag wins over the environment, where etcdctl stops at the conflict. Arguments that have no meaning are refused,
// and so is an output format a command doesn't have, before anything is sent. Every call ends after --command-timeout.
// The first line of an error is etcdctl's; a second one names the command and what to try. endpoint --cluster takes the members
// from one of them, which works without a quorum, and endpoint health does not wait for one. move-leader passes over members that
// don't answer. lock and elect revoke their lease when they end, and lock's command has our input and doesn't outlive the lock.
// -w protobuf of lease commands is the whole message, of which etcdctl writes only the header. Malformed member URLs are refused
// in the server's words. snapshot save tells how far it is.
//
// # Concurrency
//
// A tree of commands runs once; nothing in the package is global.
package ctl
