package spool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Errors of Enqueue and Append: nothing of the call was stored.
var (
	// ErrFull means that Options.MaxBytes of records are pending or rejected.
	ErrFull = errors.New("spool is full")
	// ErrBusy means that Options.QueueBytes of records wait for the disk.
	ErrBusy = errors.New("spool is busy: the disk does not keep up")
	// ErrTooLarge means that one record is larger than 64 MiB or than
	// Options.MaxBytes.
	ErrTooLarge = errors.New("record is too large for the spool")
	// ErrClosed means that Close was called.
	ErrClosed = errors.New("spool is closed")
)

// ErrMemory is what becomes of records that were handed over with Hold while the
// disk could not be written: they are in the queue, and end with the process unless
// they are published, or on disk again, before.
var ErrMemory = errors.New("in memory: the spool's disk cannot be written")

// Errors of Open and Adopt, and of reading.
var (
	// ErrLocked means that another process uses the file.
	ErrLocked = errors.New("spool file is locked by another process")
	// ErrFormat means that the file was written by another version.
	ErrFormat = errors.New("unknown format of spool file")
	// ErrCorrupt means that a file or a record is damaged.
	ErrCorrupt = errors.New("spool file is damaged")
)

// WhenFull says what an append does when MaxBytes of records are pending or
// rejected. It never waits for room.
type WhenFull int

const (
	// DropNewest refuses the append with ErrFull.
	DropNewest WhenFull = iota
	// DropOldest evicts the oldest pending records that Peek has not returned
	// yet, and counts them. ErrFull remains when there are not enough of them.
	DropOldest
)

// Options of a spool. The zero value is usable.
type Options struct {
	// MaxBytes bounds the bytes of all pending and rejected records, those of
	// adopted files included; 0 means no bound. Files are somewhat larger than
	// their records.
	MaxBytes int64
	// WhenFull says what happens at MaxBytes.
	WhenFull WhenFull
	// QueueBytes bounds the records that wait in memory for the next
	// transaction; default 64 MiB.
	QueueBytes int64
	// SegmentBytes is the size at which the next file is begun; default
	// 64 MiB. It also bounds what a relay that reads a long backlog keeps
	// mapped.
	SegmentBytes int64
	// MemoryBytes bounds the records that Hold keeps in memory while the disk
	// cannot be written; default 0, none. With it, Open does not fail.
	MemoryBytes int64
	// OnAdopt, if set, is called by Adopt for each record that a process which
	// is gone appended in its last two minutes, newest first, before Peek
	// returns them: whoever is offered the same again can know. It reads the
	// record only until it returns.
	OnAdopt func(record []byte)
	// Journal, if set, keeps account of what is stored.
	Journal Journal

	pageSize int // for measurements
}

const (
	defaultQueueBytes   = 64 << 20
	defaultSegmentBytes = 64 << 20
	defaultPageSize     = 8192
	// groupBytes bounds one transaction, so that the first appender of a burst
	// does not wait for the last.
	groupBytes = 8 << 20
	// queueOverhead is what an append costs in the queue beside its records.
	queueOverhead = 128
)

func (o *Options) setDefaults() {
	if o.QueueBytes <= 0 {
		o.QueueBytes = defaultQueueBytes
	}
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = defaultSegmentBytes
	}
	if o.pageSize == 0 {
		o.pageSize = defaultPageSize
	}
}

// Spool is the queue in one directory, as one process sees it. All methods are
// safe for concurrent use; there should be one reader (Peek, Ack).
type Spool struct {
	dir   string
	opts  Options
	start time.Time

	ready   chan struct{} // cap 1: there is something new to Peek
	wake    chan struct{} // cap 1: there is work for the committer
	stopped chan struct{} // the committer has ended
	adopt   sync.Mutex    // one Adopt at a time
	tried   time.Time     // the committer's: when the disk was last tried; see mend
	sealing bool          // the journal is to end what was stored so far; the committer's
	state   []byte        // memory for the journal's; the committer's
	kept    []byte        // the journal's state that is on disk; the committer's

	mu      sync.Mutex
	files   []*file // in the order of their names; the active one among them
	active  *file   // nil after it was set aside and no other could be created
	number  int     // of the active file
	trouble error   // why the disk takes no records; nil while it does
	foreign int     // files that the last Adopt could not read
	appends []appendOp
	tasks   []task
	queued  int64 // bytes in appends, overhead included
	growing int64 // record bytes queued or in the transaction under way
	closing bool
	closed  error // result of Close
	stats   Stats // the counts since Open; see Stats()
}

type appendOp struct {
	records [][]byte
	bytes   int64
	hold    bool // in memory, if need be
	done    func(error)
}

// Stats is a snapshot of the counts. Records are counted since Open, except
// Pending, PendingBytes, RejectedHeld, RejectedBytes and Files, which say what
// there is now.
type Stats struct {
	Appended     int64 // records stored
	Adopted      int64 // pending records found in files of other processes
	Acked        int64 // records acknowledged and deleted
	Rejected     int64 // records moved to the rejected bucket
	Evicted      int64 // records deleted to make room (DropOldest)
	SetAside     int64 // pending records in files that were set aside as damaged
	Pending      int64 // records neither acknowledged, rejected, evicted nor set aside
	PendingBytes int64

	Refused       int64 // records refused with ErrFull, ErrBusy or ErrTooLarge
	Failed        int64 // records whose transaction failed
	RejectedHeld  int64 // records in the rejected buckets of all open files
	RejectedBytes int64
	Transactions  int64 // committed
	Files         int   // open, the active one included
	Settled       int64 // of Pending: records that left the queue with Settle and are in a file still, which the disk does not let go
	InMemory      int64 // of Pending: records that are not on disk; see Hold
	Unreadable    int   // files that the last Adopt could neither take over nor set aside

	Trouble error // why the disk takes no records now; nil while it does

	LastError     error // of a transaction, a rotation or a set-aside; nil if there was none
	LastErrorTime time.Time
}

// Open creates dir if necessary and begins a file of this process in it. It
// does not look at other files; see Adopt. With Options.MemoryBytes a directory
// that cannot be written is no error: it is tried again every second, and
// [Stats.Trouble] says what is wrong.
func Open(dir string, opts Options) (*Spool, error) {
	opts.setDefaults()
	s := &Spool{
		dir: dir, opts: opts, start: time.Now(),
		ready: make(chan struct{}, 1), wake: make(chan struct{}, 1), stopped: make(chan struct{}),
	}
	if err := s.begin(); err != nil {
		if opts.MemoryBytes <= 0 {
			return nil, fmt.Errorf("open spool: %w", err)
		}
		s.inTrouble(fmt.Errorf("open spool: %w", err))
	}
	go s.run()
	return s, nil
}

// Limit replaces Options.MaxBytes and Options.WhenFull, for what is handed over
// from now on.
func (s *Spool) Limit(maxBytes int64, whenFull WhenFull) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.MaxBytes, s.opts.WhenFull = maxBytes, whenFull
}

// Enqueue hands records over for the next transaction. When it returns an error
// nothing is stored and done is not called. Otherwise done is called exactly
// once, from the goroutine that commits, which it must not hold up: with nil
// when all records are durable, with an error when none of them is.
//
// The spool reads the records until done is called: do not change them. A nil
// done is allowed.
func (s *Spool) Enqueue(records [][]byte, done func(error)) error {
	return s.enqueue(appendOp{records: records, done: done})
}

// Hold is Enqueue for records that nobody keeps whom the spool could tell to come
// again: while the disk cannot be written they are kept in memory, up to
// Options.MemoryBytes of them. done then gets an error that is [ErrMemory]. The
// records are in the queue as all others are, and go to the disk when it can be
// written again.
func (s *Spool) Hold(records [][]byte, done func(error)) error {
	return s.enqueue(appendOp{records: records, done: done, hold: true})
}

func (s *Spool) enqueue(op appendOp) error {
	if op.done == nil {
		op.done = func(error) {}
	}
	records := op.records
	for _, r := range records {
		op.bytes += int64(len(r))
		if len(r) > maxRecordBytes {
			return s.refuse(len(records), ErrTooLarge)
		}
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrClosed
	}
	queued := s.queued + op.bytes + queueOverhead
	switch limit := s.opts.MaxBytes; {
	case limit > 0 && op.bytes > limit:
		s.mu.Unlock()
		return s.refuse(len(records), ErrTooLarge)
	case limit > 0 && s.opts.WhenFull == DropNewest && s.heldBytes()+s.growing+op.bytes > limit:
		s.mu.Unlock()
		return s.refuse(len(records), ErrFull)
	case queued > s.opts.QueueBytes && len(s.appends) > 0:
		s.mu.Unlock()
		return s.refuse(len(records), ErrBusy)
	}
	s.queued = queued
	s.growing += op.bytes
	s.appends = append(s.appends, op)
	s.mu.Unlock()
	signal(s.wake)
	return nil
}

// Append stores records in one transaction and waits until it is durable. The
// error wraps ctx.Err() when ctx ended first: then it is not known whether the
// records will be stored, and the spool still reads them. Who must count the
// outcome uses Enqueue.
func (s *Spool) Append(ctx context.Context, records ...[]byte) error {
	done := make(chan error, 1)
	if err := s.Enqueue(records, func(err error) { done <- err }); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the spool's disk, outcome unknown: %w", ctx.Err())
	}
}

func (s *Spool) refuse(records int, err error) error {
	s.mu.Lock()
	s.stats.Refused += int64(records)
	s.mu.Unlock()
	return err
}

// Stats returns a snapshot of the counts.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	for _, f := range s.files {
		st.Pending += f.counters.pending
		st.PendingBytes += f.counters.pendingBytes
		st.RejectedHeld += f.counters.rejected
		st.RejectedBytes += f.counters.rejectedSize
		for _, o := range f.owed {
			st.Settled += int64(len(o.seqs))
		}
		if f.volatile {
			st.InMemory += f.counters.pending
		}
	}
	st.Files, st.Unreadable, st.Trouble = len(s.files), s.foreign, s.trouble
	return st
}

// Close waits until what was handed over is durable, closes the files, and
// removes those that are empty. A second Close returns what the first did.
func (s *Spool) Close() error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	signal(s.wake)
	<-s.stopped
	return s.closed
}

// heldBytes returns the bytes of what counts for Options.MaxBytes. It needs s.mu.
func (s *Spool) heldBytes() int64 {
	var n int64
	for _, f := range s.files {
		n += f.counters.pendingBytes + f.counters.rejectedSize
	}
	return n
}

// report remembers err as the last one.
func (s *Spool) report(err error) {
	s.mu.Lock()
	s.stats.LastError, s.stats.LastErrorTime = err, time.Now()
	s.mu.Unlock()
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
