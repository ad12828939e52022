package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Pos names a record of one Spool. It is meaningless in another one.
type Pos struct {
	file *file
	seq  uint64
}

// Entry is one pending record.
type Entry struct {
	Pos    Pos
	Time   time.Time // of the append, to the millisecond
	Record []byte    // owned by the caller
	// Err wraps ErrCorrupt when the stored record is damaged. Record is then
	// what is left of it, and must not be used; reject it.
	Err error
}

// Reject names a record that Ack moves to the rejected bucket.
type Reject struct {
	Pos    Pos
	Reason string
}

// Rejected is a record in the rejected bucket.
type Rejected struct {
	File   string // path of the spool file
	Time   time.Time
	Reason string
	Record []byte
}

// Ready returns a channel that receives when records may have become pending.
// One receive may stand for many appends.
func (s *Spool) Ready() <-chan struct{} { return s.ready }

// Peek appends the oldest pending records that were not acknowledged to dst and
// returns it: at most maxRecords, and no more than maxBytes of them unless the
// first alone is larger. They come from one file, so that one Ack can name them
// all. Peek returns dst unchanged when nothing is pending.
//
// An error means that a damaged file was set aside; the next Peek goes on with
// the next file.
func (s *Spool) Peek(dst []Entry, maxRecords, maxBytes int) ([]Entry, error) {
	return s.peek(dst, maxRecords, maxBytes, func(f *file) (after uint64, ok bool) { return max(f.acked, f.passed), true })
}

// peek reads from the first file that has something after the sequence that
// start returns for it; start is called under s.mu.
func (s *Spool) peek(dst []Entry, maxRecords, maxBytes int, start func(*file) (after uint64, ok bool)) ([]Entry, error) {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return dst, ErrClosed
	}
	files := slices.Clone(s.files)
	s.mu.Unlock()
	for _, f := range files {
		out, err := s.peekFile(f, dst, maxRecords, maxBytes, start)
		switch {
		case errors.Is(err, ErrCorrupt):
			return dst, s.do(task{after: func() error { return s.setAside(f, err) }})
		case err != nil:
			if s.isGone(f) {
				continue
			}
			return dst, fmt.Errorf("read spool file %q: %w", f.path, err)
		case len(out) == len(dst):
			continue
		}
		return out, nil
	}
	return dst, nil
}

// peekFile reads from f, and remembers what it returns as on its way before f can
// be written again.
func (s *Spool) peekFile(f *file, dst []Entry, maxRecords, maxBytes int, start func(*file) (after uint64, ok bool)) ([]Entry, error) {
	f.reading.Lock()
	defer f.reading.Unlock()
	s.mu.Lock()
	after, ok := start(f)
	skip := !ok || f.counters.pending == 0
	owed := f.owedAfter(after)
	s.mu.Unlock()
	if skip {
		return dst, nil
	}
	out, err := f.peek(dst, after, owed, maxRecords, maxBytes)
	if err == nil && len(out) > len(dst) {
		s.mu.Lock()
		f.peeked = max(f.peeked, out[len(out)-1].Pos.seq)
		s.mu.Unlock()
		for _, e := range out[len(dst):] {
			f.read += len(e.Record)
		}
		f.giveBackRead()
	}
	return out, err
}

func (s *Spool) isGone(f *file) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.gone || s.closing
}

// peek reads records after a sequence, but for those that are owed.
//
// The checksum of an intact record covers its sequence. That of a damaged one may
// be too high, and whoever acknowledges everything up to there would take records
// along that nobody has seen: it is returned only when an intact record after it,
// or the end, shows that it is in order.
func (f *file) peek(dst []Entry, after uint64, owed map[uint64]bool, maxRecords, maxBytes int) ([]Entry, error) {
	out := dst
	sure := len(dst) // of out
	err := f.view(func(tx *bolt.Tx, records *bolt.Bucket) error {
		now, err := parseCounters(tx.Bucket(metaBucket).Get(countersKey))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		var slab []byte
		total, last, full := 0, after, false
		c := records.Cursor()
		key, v := c.Seek(appendKey(nil, after+1))
		if err := inOrderBefore(records, key == nil, after); err != nil {
			return err
		}
		if key == nil {
			// Nothing after the cursor. If there is nothing at all although the
			// counters of this same transaction promise something, pages are gone.
			if first, _ := c.First(); first == nil && now.pending != 0 {
				return fmt.Errorf("%w: %d pending records are missing", ErrCorrupt, now.pending)
			}
			return nil
		}
		for ; key != nil; key, v = c.Next() {
			full = full || len(out)-len(dst) >= maxRecords
			if full && sure == len(out) {
				return nil
			}
			if len(key) != 8 || binary.BigEndian.Uint64(key) <= last || binary.BigEndian.Uint64(key) >= uint64(now.next) {
				return fmt.Errorf("%w: keys are out of order", ErrCorrupt)
			}
			if len(out)-len(dst) == maxRecords {
				return nil
			}
			last = binary.BigEndian.Uint64(key)
			if owed[last] {
				continue
			}
			if len(v) > maxRecordBytes+headerSize {
				return fmt.Errorf("%w: record of %d bytes", ErrCorrupt, len(v))
			}
			record, at, err := parseValue(key, v)
			if err == nil {
				sure = len(out)
			}
			total += len(record)
			if full = full || total > maxBytes && len(out) > len(dst); full {
				continue // to one that is intact
			}
			if cap(slab)-len(slab) < len(record) {
				// One allocation for many records; the records copied so far keep
				// the slab they are in.
				slab = make([]byte, 0, max(len(record), min(maxBytes, 256<<10)))
			}
			start := len(slab)
			slab = append(slab, record...)
			e := Entry{Pos: Pos{f, last}, Time: at, Record: slab[start:len(slab):len(slab)]}
			if err != nil {
				e.Err = fmt.Errorf("%w: record %d in %q: %w", ErrCorrupt, last, f.path, err)
			}
			out = append(out, e)
			if err == nil {
				sure = len(out)
			}
		}
		sure = len(out)
		return nil
	})
	out = out[:sure]
	if err != nil && len(out) > len(dst) && errors.Is(err, ErrCorrupt) {
		// Deliver what is intact before the damage; the next Peek meets it again.
		err = nil
	}
	return out, err
}

// inOrderBefore returns ErrCorrupt unless the keys before the place that a search
// for what comes after a sequence has found, the end or another, are in order and
// not after it: where a key of the page is damaged, a search by halves passes over
// what it looks for. It looks at as many as a page of bbolt holds, which is two at
// least, however large they are.
func inOrderBefore(records *bolt.Bucket, end bool, after uint64) error {
	c := records.Cursor()
	key, v := c.Last()
	if !end {
		c.Seek(appendKey(nil, after+1))
		key, v = c.Prev()
	}
	limit, page := after+1, records.Tx().DB().Info().PageSize
	for n, size := 0, 0; key != nil && (n <= 2 || size <= page); n++ {
		if len(key) != 8 || binary.BigEndian.Uint64(key) >= limit {
			return fmt.Errorf("%w: keys are out of order", ErrCorrupt)
		}
		limit = binary.BigEndian.Uint64(key)
		size += elementSize + len(key) + len(v)
		key, v = c.Prev()
	}
	return nil
}

// elementSize is what bbolt keeps of a record beside its key and value.
const elementSize = 16

// Ack takes all records up to upTo, in the file of upTo, out of the queue: the
// rejected ones move to the rejected bucket, the others are deleted, in one
// transaction. From now on Peek returns none of them. nil means that this is
// durable. After an error it is not yet: the spool tries again with the next
// transactions, and only a crash before that makes Peek, in the next process,
// return them once more.
func (s *Spool) Ack(upTo Pos, rejects ...Reject) error {
	f := upTo.file
	if f == nil {
		return nil
	}
	s.mu.Lock()
	if s.closing || f.gone {
		defer s.mu.Unlock()
		if s.closing {
			return ErrClosed
		}
		return fmt.Errorf("acknowledge records of %q, which was set aside: %w", f.path, ErrCorrupt)
	}
	f.acked = max(f.acked, upTo.seq)
	number := f.owe(settlement{upTo: upTo.seq, rejects: slices.Clone(rejects)})
	s.mu.Unlock()
	return s.awaitSettled(f, number)
}

// task is something that the committer does between transactions: before
// them, and after them. Either may be nil.
type task struct {
	before func()
	after  func() error
	done   chan error
}

// do has t done and waits for its result.
func (s *Spool) do(t task) error {
	t.done = make(chan error, 1)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrClosed
	}
	s.tasks = append(s.tasks, t)
	s.mu.Unlock()
	signal(s.wake)
	return <-t.done
}

// Oldest returns when the oldest pending record was appended, and false when
// none is pending.
func (s *Spool) Oldest() (time.Time, bool) {
	s.mu.Lock()
	files := slices.Clone(s.files)
	s.mu.Unlock()
	for _, f := range files {
		var at time.Time
		err := f.view(func(_ *bolt.Tx, records *bolt.Bucket) error {
			if key, v := records.Cursor().First(); key != nil {
				_, at, _ = parseValue(key, v)
			}
			return nil
		})
		if err == nil && !at.IsZero() {
			return at, true
		}
	}
	return time.Time{}, false
}

// Rejected yields the rejected records of all open files, each with the error
// of reading it, if any. Records are owned by the caller.
func (s *Spool) Rejected() iter.Seq2[Rejected, error] {
	return func(yield func(Rejected, error) bool) {
		s.mu.Lock()
		files := slices.Clone(s.files)
		s.mu.Unlock()
		for _, f := range files {
			// Collected first: a transaction must not stay open while the caller
			// does whatever it does.
			var found []Rejected
			err := f.view(func(tx *bolt.Tx, _ *bolt.Bucket) error {
				return tx.Bucket(rejectedBucket).ForEach(func(key, v []byte) error {
					reason, record, at, err := parseRejected(key, v)
					if err != nil {
						return fmt.Errorf("%w: %w", ErrCorrupt, err)
					}
					found = append(found, Rejected{f.path, at, reason, slices.Clone(record)})
					return nil
				})
			})
			for _, r := range found {
				if !yield(r, nil) {
					return
				}
			}
			if err != nil && !s.isGone(f) && !yield(Rejected{File: f.path}, fmt.Errorf("read rejected records of %q: %w", f.path, err)) {
				return
			}
		}
	}
}
