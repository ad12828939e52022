package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// memoryDir is where Linux keeps files in memory. Without it nothing is held.
var memoryDir = "/dev/shm"

// errMemoryFull means that Options.MemoryBytes are in memory.
var errMemoryFull = errors.New("as much as may be is in memory")

// newMemory returns a file that is in memory, without a name there, and has its
// place among the others at path. It ends with the process.
func newMemory(path string, opts Options) (_ *file, err error) {
	f := &file{path: path, own: true, volatile: true, counters: counters{next: 1}}
	defer guard(&err)()
	err = f.open(opts, func(string, int, os.FileMode) (*os.File, error) {
		m, err := os.CreateTemp(memoryDir, "kafka-metering-*")
		if err != nil {
			return nil, err
		}
		return m, os.Remove(m.Name())
	})
	if err == nil {
		err = f.db.Update(func(tx *bolt.Tx) error { return initBuckets(tx, f.counters) })
	}
	if err != nil {
		f.discard(err)
		return nil, fmt.Errorf("keep records in memory: %w", err)
	}
	return f, nil
}

// toDisk writes f, which is in memory, to its path as it is, and goes on there:
// every record keeps its position, so that a reader does not notice.
func (f *file) toDisk(opts Options) (err error) {
	defer guard(&err)()
	if err := makeDir(filepath.Dir(f.path)); err != nil {
		return err
	}
	to, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	disk := &file{path: f.path}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.path), to.Close())
		}
	}()
	// Nobody may adopt it half written. Between the two calls somebody could, and
	// find it empty and remove it: load notices.
	if err := syscall.Flock(int(to.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return err
	}
	var size int64
	if err := f.db.View(func(tx *bolt.Tx) error { size = tx.Size(); return nil }); err != nil {
		return err
	}
	if _, err := io.Copy(to, io.NewSectionReader(f.os, 0, size)); err != nil {
		return err
	}
	if err := errors.Join(to.Sync(), syncDir(filepath.Dir(f.path))); err != nil {
		return err
	}
	if mine, err := to.Stat(); err != nil {
		return err
	} else if there, err := os.Stat(f.path); err != nil || !os.SameFile(mine, there) {
		return errRemoved
	}
	if err := disk.open(opts, func(string, int, os.FileMode) (*os.File, error) { return to, nil }); err != nil {
		return err
	}
	if err := disk.load(size); err != nil {
		return errors.Join(err, disk.db.Close())
	}
	f.moving.Lock()
	memory := f.db
	f.db, f.os = disk.db, to
	f.moving.Unlock()
	_ = memory.Close() // it is of no use any more
	return nil
}

// hold puts into memory what may be there of appends that the disk did not take,
// and answers the rest with cause.
func (s *Spool) hold(appends []appendOp, cause error) {
	if len(appends) == 0 {
		return
	}
	var held, rest []appendOp
	free, full := s.opts.MemoryBytes, false
	if s.active != nil && s.active.volatile {
		free -= s.active.counters.pendingBytes + s.active.counters.rejectedSize
	}
	for _, op := range appends {
		if !op.hold || op.bytes > free {
			full = full || op.hold
			rest = append(rest, op)
			continue
		}
		free -= op.bytes
		held = append(held, op)
	}
	if len(held) > 0 {
		if err := s.store(held); err != nil {
			s.answer(held, errors.Join(cause, err), true)
		} else {
			s.answer(held, fmt.Errorf("%w: %w", ErrMemory, cause), false)
			signal(s.ready)
		}
	}
	if len(rest) > 0 {
		if full {
			cause = fmt.Errorf("%w; %w", cause, errMemoryFull)
		}
		s.answer(rest, cause, true)
	}
}

// store appends to the file in memory, which it begins where there is none.
func (s *Spool) store(held []appendOp) error {
	f := s.active
	if f == nil || !f.volatile {
		var err error
		if f, err = newMemory(s.nextPath(), s.opts); err != nil {
			return err
		}
		s.mu.Lock()
		s.active = f
		s.insert(f)
		s.mu.Unlock()
		if s.opts.Journal != nil {
			s.opts.Journal.Split()
		}
	}
	_, _, err := s.write(f, held, nil, nil)
	return err
}

// mend tries, once a second or now, whether a disk that took no records takes
// them again.
func (s *Spool) mend(now bool) {
	f := s.active
	if f != nil && !f.volatile && s.trouble == nil || !now && time.Since(s.tried) < retryInterval {
		return
	}
	s.tried = time.Now()
	var err error
	switch {
	case f == nil, f.volatile && f.empty() && len(s.owed(f)) == 0:
		err = s.begin() // tidy drops the one in memory
	case f.volatile:
		err = s.toDisk(f)
	default:
		_ = s.update(f, func(*writer) error { return nil }) // says itself how it went
		return
	}
	if err != nil {
		s.inTrouble(fmt.Errorf("create spool file: %w", err))
	}
}

// toDisk brings what is in memory to the disk.
func (s *Spool) toDisk(f *file) error {
	switch err := f.toDisk(s.opts); {
	case errors.Is(err, fs.ErrExist):
		// A process of the same name, which containers make possible, has taken
		// this one: what is in memory stays there until it is published.
		return s.begin()
	case err != nil:
		return err
	}
	s.mu.Lock()
	f.volatile, s.trouble = false, nil
	s.supersede(f)
	s.mu.Unlock()
	return nil
}

// inTrouble remembers why the disk takes no records.
func (s *Spool) inTrouble(err error) {
	s.report(err)
	s.mu.Lock()
	s.trouble = err
	s.mu.Unlock()
}
