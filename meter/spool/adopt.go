package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Adopt takes over the files of processes that are gone and returns how many
// pending records they hold. Files that a live process has locked are left
// alone; Adopt never waits for a lock. Call it after Open, and from time to time
// for a process that ends later.
//
// The error joins what was wrong with single files, each with its path. Damaged
// files have been set aside; the others are adopted all the same.
func (s *Spool) Adopt() (records int64, err error) {
	s.adopt.Lock()
	defer s.adopt.Unlock()
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, fmt.Errorf("adopt spool files: %w", err)
	}
	var errs []error
	for _, name := range names {
		path := filepath.Join(s.dir, name.Name())
		if !strings.HasSuffix(path, suffix) || s.has(path) {
			continue
		}
		n, err := s.adoptFile(path)
		records += n
		if err != nil {
			errs = append(errs, fmt.Errorf("adopt spool file %q: %w", path, err))
		}
	}
	return records, errors.Join(errs...)
}

func (s *Spool) adoptFile(path string) (int64, error) {
	f, err := openFile(path, false, s.opts)
	switch {
	case errors.Is(err, ErrLocked), errors.Is(err, errRemoved), errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case errors.Is(err, ErrCorrupt):
		aside, renameErr := (&file{path: path}).setAside()
		return 0, errors.Join(fmt.Errorf("set aside as %q: %w", aside, err), renameErr)
	case err != nil:
		return 0, err
	case f.empty():
		return 0, f.remove()
	}
	s.recall(f)
	pending := f.counters.pending
	err = s.do(task{before: func() {
		s.mu.Lock()
		s.insert(f)
		s.stats.Adopted += pending
		s.mu.Unlock()
		signal(s.ready)
	}})
	if err != nil { // closed meanwhile
		return 0, errors.Join(err, f.close())
	}
	return pending, nil
}

func (s *Spool) has(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.files, func(f *file) bool { return f.path == path })
}
