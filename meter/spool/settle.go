package spool

import (
	"cmp"
	"fmt"
	"slices"
)

// Compare returns -1, 0 or 1 as p comes before q in the order of Peek, is the
// same, or comes after it.
func (p Pos) Compare(q Pos) int {
	if p.file == q.file {
		return cmp.Compare(p.seq, q.seq)
	}
	return cmp.Compare(p.path(), q.path())
}

func (p Pos) path() string {
	if p.file == nil {
		return ""
	}
	return p.file.path
}

// PeekFrom is Peek from a record on, whether or not Settle has passed it over.
func (s *Spool) PeekFrom(from Pos, dst []Entry, maxRecords, maxBytes int) ([]Entry, error) {
	return s.peek(dst, maxRecords, maxBytes, func(f *file) (after uint64, ok bool) {
		if f == from.file {
			return max(f.acked, from.seq-1), true
		}
		return f.acked, f.path > from.path()
	})
}

// Settle ends a batch that Peek or PeekFrom has returned, with last as its last
// record: the placed records and the rejected ones leave the queue as with Ack,
// and the others stay pending, are passed over by Peek until [Spool.Rewind], and
// may be evicted. With the zero Pos as last nothing is passed over. All of them
// are records of one file. It does not wait for the disk; wait does, and returns
// what Ack would.
func (s *Spool) Settle(last Pos, placed []Pos, rejects []Reject) (wait func() error) {
	f := last.file
	switch {
	case f != nil:
	case len(placed) > 0:
		f = placed[0].file
	case len(rejects) > 0:
		f = rejects[0].Pos.file
	default:
		return func() error { return nil }
	}
	seqs := make([]uint64, 0, len(placed)+len(rejects))
	for _, p := range placed {
		seqs = append(seqs, p.seq)
	}
	for _, r := range rejects {
		seqs = append(seqs, r.Pos.seq)
	}
	slices.Sort(seqs)
	s.mu.Lock()
	defer s.mu.Unlock()
	if last.file != nil {
		f.passed, f.peeked = max(f.passed, last.seq), 0
	}
	switch {
	case s.closing:
		return func() error { return ErrClosed }
	case f.salvaging:
		f.owe(settlement{seqs: seqs, rejects: slices.Clone(rejects)})
		return func() error {
			return fmt.Errorf("acknowledge records of %q, which is set aside: %w", f.path, ErrCorrupt)
		}
	case f.gone:
		s.placedElsewhere(f, settlement{seqs: seqs, rejects: rejects})
		err := fmt.Errorf("acknowledge records of %q, which was set aside: %w", f.path, ErrCorrupt)
		return func() error { return err }
	case len(seqs) == 0:
		return func() error { return nil }
	}
	number := f.owe(settlement{seqs: seqs, rejects: slices.Clone(rejects)})
	return func() error { return s.awaitSettled(f, number) }
}

// Rewind makes Peek return again what Settle has passed over, from a record on;
// from the zero Pos: all of it.
func (s *Spool) Rewind(to Pos) {
	s.mu.Lock()
	for _, f := range s.files {
		switch {
		case f == to.file:
			f.passed = min(f.passed, to.seq-1)
		case f.path > to.path():
			f.passed = 0
		}
	}
	s.mu.Unlock()
	signal(s.ready)
}

// owe adds a settlement to what f owes and returns its number. It needs
// Spool.mu.
func (f *file) owe(o settlement) (number int64) {
	f.owed = append(f.owed, o)
	return f.settled + int64(len(f.owed))
}

// awaitSettled waits until a settlement of f was tried, and returns an error if f
// owes it still.
func (s *Spool) awaitSettled(f *file, number int64) error {
	// No transaction of its own: what is owed goes with the next group.
	return s.do(task{after: func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if f.settled >= number {
			return nil
		}
		return fmt.Errorf("acknowledge records, will be tried again: %w", s.stats.LastError)
	}})
}

// owedAfter returns the single records after a sequence that were settled and
// are still in the file: a Rewind does not bring them back. It needs Spool.mu.
func (f *file) owedAfter(after uint64) map[uint64]bool {
	var owed map[uint64]bool
	for _, o := range f.owed {
		for _, seq := range o.seqs {
			if seq > after {
				if owed == nil {
					owed = map[uint64]bool{}
				}
				owed[seq] = true
			}
		}
	}
	return owed
}
