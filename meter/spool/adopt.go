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
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // a disk that is not there is [Stats.Trouble]
	}
	if err != nil {
		return 0, fmt.Errorf("adopt spool files: %w", err)
	}
	var errs []error
	var files []*file
	foreign, recall := 0, recallRecords
	for _, name := range slices.Backward(names) { // the newest first
		path := filepath.Join(s.dir, name.Name())
		if !strings.HasSuffix(path, suffix) || s.has(path) {
			continue
		}
		f, saved, err := s.takeOver(path)
		records += saved
		if err != nil {
			errs = append(errs, fmt.Errorf("adopt spool file %q: %w", path, err))
			if !errors.Is(err, ErrCorrupt) {
				foreign++
			}
		}
		if f != nil {
			recall -= s.recall(f, recall)
			files = append(files, f)
		}
	}
	s.mu.Lock()
	s.foreign = foreign
	s.mu.Unlock()
	if len(files) == 0 {
		return records, errors.Join(errs...)
	}
	// All at once: each time the committer may be at work for long.
	var pending int64
	err = s.do(task{before: func() {
		s.mu.Lock()
		for _, f := range files {
			s.insert(f)
			pending += f.counters.pending
		}
		s.stats.Adopted += pending
		s.mu.Unlock()
		signal(s.ready)
	}})
	if err != nil { // closed meanwhile
		errs = append(errs, err)
		for _, f := range files {
			errs = append(errs, f.close())
		}
	} else if err := s.inherit(); err != nil {
		errs = append(errs, fmt.Errorf("adopt spool files: %w", err))
	}
	return records + pending, errors.Join(errs...)
}

// takeOver opens a file of a process that is gone; nil and no error when there is
// nothing to adopt. Of a damaged file it returns how many records were saved.
func (s *Spool) takeOver(path string) (_ *file, saved int64, _ error) {
	f, err := openFile(path, false, s.opts)
	switch {
	case errors.Is(err, ErrLocked), errors.Is(err, errRemoved), errors.Is(err, fs.ErrNotExist):
		return nil, 0, nil
	case errors.Is(err, ErrCorrupt):
		aside, failed := (&file{path: path}).setAside()
		if failed == nil {
			failed = s.do(task{before: func() {
				saved = int64(len(s.salvage(aside, 0, nil)))
				s.count(func(st *Stats) { st.Adopted += saved })
			}})
		}
		return nil, saved, errors.Join(fmt.Errorf("set aside as %q, %d records of it are intact and pending: %w", aside, saved, err), failed)
	case err != nil:
		return nil, 0, err
	}
	if s.opts.Journal == nil {
		f.state = nil // there is nobody for it
	}
	if f.empty() {
		return nil, 0, f.remove()
	}
	return f, 0, nil
}

func (s *Spool) has(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.files, func(f *file) bool { return f.path == path })
}
