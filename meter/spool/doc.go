// Package spool is a durable first-in first-out queue of opaque records on
// disk, for one writing process and one reader inside it.
//
// # Guarantees
//
// A record whose Append returned nil (whose Enqueue callback got nil) is on
// disk: its bytes, and the page that makes them reachable, were fsynced. It
// survives kill -9 and loss of power, in order, until Ack names it. All
// records of one Append are stored, or none is.
//
// Every stored record ends in exactly one place, and [Stats] counts it there:
// acknowledged, rejected (kept in the file, see [Spool.Ack]), evicted
// ([DropOldest]), set aside with a damaged file, or pending. Nothing is
// dropped without a count:
//
//	Adopted + Appended = Acked + Rejected + Evicted + SetAside + Pending
//
// Records are returned at least once. Peek returns the same records again
// until Ack or Settle; what was published but not acknowledged when the process died is
// returned to the process that adopts the file. A reader that cannot place some
// records of a batch leaves them where they are ([Spool.Settle]) and comes back
// to them ([Spool.PeekFrom], [Spool.Rewind]); what it has passed over is in
// memory only, so that the next process begins with the oldest record again.
//
// # Files
//
// A directory holds any number of files named
//
//	<start, unix ms, 13 digits>-<pid>-<number, 6 digits>.spool
//
// Each is a bbolt database, locked with flock by the process that uses it. A
// process appends to one file of its own, its active file, and begins another
// when that has grown to [Options.SegmentBytes] (bbolt files never shrink) or
// is large and almost empty. A file that is no longer active is removed when
// it is drained. [Spool.Adopt] takes over the files of processes that are
// gone; it never waits for a lock. Files are read in the order of their names.
//
// A file holds three buckets:
//
//	meta      "format" = "kafka-metering spool 1"; "counters" = 7 big-endian
//	          int64 and their CRC-32C, written in the transaction they describe
//	records   8-byte big-endian sequence -> CRC-32C | unix ms (8 bytes) | record
//	rejected  8-byte big-endian sequence -> CRC-32C | unix ms | uvarint length
//	          of the reason | reason | record
//
// The checksum covers the key and everything after the checksum. All integers
// are big-endian. A file of another format is left alone and reported
// ([ErrFormat]). A file with rejected records is never removed.
//
// # Damage
//
// A record whose checksum does not match is returned by Peek with an error in
// its [Entry], so that the reader rejects it and goes on. A file whose
// structure is damaged is set aside: renamed to *.damaged, never deleted, with
// the number of pending records in it counted in [Stats.SetAside] and its
// path in the error. The records before the damage were delivered if Peek
// returned them before it met the damage.
//
// bbolt keeps two meta pages. If the newer one is torn or damaged, bbolt falls
// back to the transaction before it, without a word: a bit flip in those 64
// bytes undoes the last transaction of a dead process. A torn write cannot do
// that to an acknowledged record, because the page is written after the data
// was synced and the append is acknowledged after the page was.
//
// bbolt reads through mmap. When the disk fails to deliver a page, or the file
// was truncated by somebody else, the kernel raises SIGBUS; the package turns
// that into [ErrCorrupt] ([debug.SetPanicOnFault]), and so it does with bbolt's
// panics. A database that panicked is not touched again: its file descriptor is
// closed, its mapping leaks until the process ends.
//
// # Limits
//
// flock and mmap want a local file system. The clock orders files of different
// processes, not records of one file. Rejected records are not bounded by
// [Options.MaxBytes]; watch [Stats.RejectedBytes].
package spool
