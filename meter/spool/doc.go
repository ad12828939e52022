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
// A record that [Spool.Hold] handed over while the disk could not be written is
// in memory, and its callback is told so; see below.
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
// it is drained; when rejected records are what is left in it, it is written anew
// with these alone, as <name>.compacting, which then takes its name. [Spool.Adopt]
// takes over the files of processes that are gone; it never waits for a lock. Files
// are read in the order of their names.
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
// are big-endian. A file with rejected records is never removed.
//
// A file of another format is left where it is ([ErrFormat]), and counted in
// [Stats.Unreadable]: the version that wrote it reads it. Whoever changes the
// format gives it another number, and either reads both or says so in the
// upgrade's notes.
//
// # A disk that cannot be written
//
// When a transaction fails because the disk is full, read-only or broken, or when
// no file can be created, [Stats.Trouble] says why. What came by Enqueue and
// Append fails: whoever calls them keeps the records and comes again, or counts
// them as lost. What came by Hold, because nobody keeps it, goes to a file in
// memory (Linux: /dev/shm, without a name) with at most [Options.MemoryBytes] of
// records, in which it is pending, is read and acknowledged as all other records
// are. It is lost with the process. Every second the disk is tried again; the
// file in memory is then written there as it is, and is the active file from then
// on.
//
// # Damage
//
// A record whose checksum does not match is returned by Peek with an error in
// its [Entry], so that the reader rejects it and goes on. A file whose
// structure is damaged is set aside: renamed to *.damaged, never deleted, with
// the number of pending records that are lost in it counted in [Stats.SetAside] and its
// path in the error. What is intact in it, before and after the damage, moves to
// the end of the queue, and is not counted so; a record that was on its way at
// that moment may be delivered twice.
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
// processes, not records of one file. Rejected records take room from
// [Options.MaxBytes] until somebody takes them out; watch [Stats.RejectedBytes].
package spool
