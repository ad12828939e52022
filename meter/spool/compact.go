package spool

import (
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
)

const (
	compactingSuffix = ".compacting"
	// compactSize is how large a file must be for its rejected records to move.
	compactSize = 1 << 20
)

// oversized reports whether f holds little but free pages, and will for as long as nobody takes its rejected records out: a
// bbolt file never shrinks. It needs s.mu.
func (s *Spool) oversized(f *file) bool {
	return f != s.active && !f.volatile && !f.compacted && len(f.owed) == 0 &&
		f.counters.pending == 0 && f.counters.rejected > 0 && f.size > max(compactSize, 4*f.counters.rejectedSize)
}

// compact replaces the file by one without free pages. Whatever interrupts it, one of the two has the name, and both hold
// the same.
func (f *file) compact(opts Options) (size int64, err error) {
	small := &file{path: f.path + compactingSuffix}
	defer func() {
		if err != nil {
			small.abandon()
			_ = os.Remove(small.path)
		}
	}()
	defer guard(&err)()
	err = small.open(opts, func(name string, flag int, mode os.FileMode) (*os.File, error) {
		return os.OpenFile(name, flag|os.O_TRUNC, mode) // what a process left that died at it
	})
	if err != nil {
		return 0, err
	}
	if err := bolt.Compact(small.db, f.db, groupBytes); err != nil {
		return 0, err
	}
	if err := small.db.View(func(tx *bolt.Tx) error { size = tx.Size(); return nil }); err != nil {
		return 0, err
	}
	// Whoever has opened the large one meanwhile finds that it has no name any more.
	if err := os.Rename(small.path, f.path); err != nil {
		return 0, err
	}
	f.moving.Lock()
	large := &file{db: f.db}
	f.db, f.os = small.db, small.os
	f.moving.Unlock()
	_ = large.close() // it is of no use any more
	return size, nil
}

// compact gives the disk back what files with rejected records do not need.
func (s *Spool) compact() {
	s.mu.Lock()
	var files []*file
	for _, f := range s.files {
		if s.oversized(f) {
			f.compacted = true // or tried: the next process may try again
			files = append(files, f)
		}
	}
	s.mu.Unlock()
	for _, f := range files {
		size, err := f.compact(s.opts)
		if err != nil {
			s.report(fmt.Errorf("compact spool file %q: %w", f.path, err))
			continue
		}
		s.mu.Lock()
		f.size = size
		s.mu.Unlock()
	}
}
