// Package vfs is the one door between Muster and a disk.
//
// Everything whose durability matters (the log, the checkpoints, the lock on a
// data directory) goes through FS and File, so that the same code runs on
//
//   - OS, the operating system's files;
//   - Mem, a file system in memory whose Crash returns what a power cut would
//     have left: file contents only as far as File.Sync reached (with whole or
//     half 512-byte sectors of the rest, by mode), names only as far as
//     FS.SyncDir reached;
//   - Fault, a wrapper that fails, shortens, stalls or falsifies single
//     operations and counts them.
//
// # Durability contract
//
// A write is durable once a later Sync of the same file returned nil. Creating,
// renaming or removing a name is durable once a later SyncDir of its directory
// returned nil; syncing the file does not do it. A rename inside one directory
// is atomic: after a crash either the old or the new name holds, never neither.
// A failed Sync means that nothing is known about the data: never retry it.
//
// # Concurrency
//
// An FS may be used from any number of goroutines. A File belongs to one
// goroutine, except for ReadAt, which may be called concurrently.
//
// # Refused
//
// A second Lock of the same name: ErrLocked, at once. EnsureDir refuses a file
// that stands where the directory should.
package vfs
