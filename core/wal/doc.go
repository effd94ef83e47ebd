// Package wal is the raft log on disk: the only place where a write must be
// durable before anybody is answered.
//
// # Main types
//
//   - Log: Create or Open makes one, Append and Sync write it, Reset starts it
//     over after a checkpoint, ReleaseBefore lets old segments go.
//   - Recovered: what Open found; its Metadata says whose log it is, Start and
//     Entries what it holds.
//
// A Log lives alone in a directory, as segment files named
//
//	<sequence>-<index before its first entry>.wal     (both 16 hex digits, so that ls sorts)
//
// # Format (version 1, little endian)
//
// A segment is a 512-byte header and batches, each starting on a multiple of 8,
// in a file preallocated with zeros. The header names format version, salt,
// node, cluster, sequence, the position and hard state at which the segment
// begins, and where its predecessor ends. Its checksum fills the last 4 bytes
// in every version of the format. A batch is
//
//	length u32 | payload CRC u32 | watermark u64 | kind u32 | header CRC u32 | payload
//
// with CRC32C seeded by salt and sequence; the header's also covers the batch's
// offset. The watermark says: when this batch was written, everything before
// that offset was durable. The payload is a list of records: hard states and
// entries. An entry with index i discards all earlier ones with index >= i.
//
// # What Open makes of a crash
//
// A segment becomes part of the log by a rename after it was filled and synced,
// and only once its predecessor was synced. So damage anywhere but in the last
// segment is never the work of a crash: ErrCorrupt. In the last one, let X be
// the first offset that holds no valid batch. If any batch behind X carries a
// watermark above X, the batch at X had been durable: ErrCorrupt, naming file,
// offset and remedy (judgeTail in open.go). Otherwise everything from X on was never acknowledged and
// is cut (a torn tail; pages of an unsynced batch may reach a disk in any order,
// so valid batches behind a hole are cut too).
//
// What Open read above the newest watermark may sit in the page cache only (a
// failed fdatasync marks pages clean). Open therefore never appends to an old
// file: it copies that part into a fresh segment, with a new salt, syncs it and
// lets it begin where the proven part ends. A last segment that is still small
// is copied whole and replaced by the rename, so that restarts don't pile up files.
//
// One loss can't be told from a torn tail: rot in the last batch before a crash,
// as nothing was written after it. A clean Close leaves a mark with a watermark
// behind it; Recovered.Repaired tells the owner about any cut.
//
// # Contract
//
// One goroutine owns a Log. Append buffers, Sync makes one write and one
// fdatasync of all that was appended. The first failed write or sync is final:
// every later call returns ErrFailed, and the process should end.
//
// Invariant: entries are contiguous; the hard state is the last one appended.
// Invariant: all segments but the last are durable as far as their successor's
// header says.
//
// Refused: entries that would leave a gap or reach below the log's start
// (ErrOutOfOrder), logs of another format version (ErrVersion), Create where
// there is a log (ErrExist), Open where there is none (ErrNotExist).
package wal
