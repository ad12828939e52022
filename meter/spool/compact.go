package spool

import (
	"fmt"
	"os"
	"path/filepath"

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
			_ = os.Remove(small.path)
			small.discard(err)
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
	// What damage hides in the large one it has still, and this one would not.
	kept := int64(0)
	if err := small.db.View(func(tx *bolt.Tx) error {
		size = tx.Size()
		return tx.Bucket(rejectedBucket).ForEach(func(_, _ []byte) error { kept++; return nil })
	}); err != nil {
		return 0, err
	}
	if kept != f.counters.rejected {
		return 0, fmt.Errorf("%w: %d of %d rejected records are found", ErrCorrupt, kept, f.counters.rejected)
	}
	// Whoever has opened the large one meanwhile finds that it has no name any more.
	if err := os.Rename(small.path, f.path); err != nil {
		return 0, err
	}
	f.moving.Lock()
	large := &file{db: f.db}
	f.db, f.os = small.db, small.os
	f.moving.Unlock()
	_ = large.close()                 // it is of no use any more
	_ = syncDir(filepath.Dir(f.path)) // until that is done either may have the name
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
