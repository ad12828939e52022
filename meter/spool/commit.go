package spool

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// retryInterval is how soon acknowledgements that the disk refused are tried
// again when no append brings a transaction.
const retryInterval = time.Second

// run is the committer: the only goroutine that writes to files, creates,
// closes and removes them.
func (s *Spool) run() {
	defer close(s.stopped)
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	var slab []byte
	for {
		appends, tasks, closing := s.take()
		for _, task := range tasks {
			if task.before != nil {
				task.before()
			}
		}
		if s.room(appends) {
			slab = s.commit(appends, slab)
		}
		s.settleOthers()
		s.tidy()
		for _, task := range tasks {
			var err error
			if task.after != nil {
				err = task.after()
			}
			task.done <- err
		}
		if len(appends) > 0 || len(tasks) > 0 {
			continue
		}
		if closing {
			s.closed = s.closeFiles()
			return
		}
		select {
		case <-s.wake:
		case <-retry.C:
		}
	}
}

// take removes the next group from the queue.
func (s *Spool) take() (appends []appendOp, tasks []task, closing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := int64(groupBytes)
	if s.opts.WhenFull == DropOldest && s.opts.MaxBytes > 0 {
		limit = min(limit, s.opts.MaxBytes/4) // room must be able to make room for a group
	}
	n, bytes := 0, int64(0)
	for n < len(s.appends) && (n == 0 || bytes+s.appends[n].bytes <= limit) {
		bytes += s.appends[n].bytes
		s.queued -= s.appends[n].bytes + queueOverhead
		n++
	}
	appends = s.appends[:n:n]
	if s.appends = s.appends[n:]; len(s.appends) == 0 {
		s.appends = nil
	}
	tasks, s.tasks = s.tasks, nil
	return appends, tasks, s.closing
}

// room evicts what appends need under DropOldest. When it reports false it has
// answered the appends.
func (s *Spool) room(appends []appendOp) bool {
	if s.opts.MaxBytes <= 0 || s.opts.WhenFull != DropOldest || len(appends) == 0 {
		return true
	}
	s.mu.Lock()
	need := s.pendingBytes() - s.opts.MaxBytes
	files := slices.Clone(s.files)
	s.mu.Unlock()
	for _, op := range appends {
		need += op.bytes
	}
	var err error
	for _, f := range files {
		if need <= 0 {
			break
		}
		if f.counters.pending == 0 {
			continue
		}
		s.mu.Lock()
		after := max(f.acked, f.peeked)
		s.mu.Unlock()
		before := f.counters
		var freed int64
		if err = s.update(f, func(w *writer) error {
			var err error
			freed, err = w.evict(after, need)
			return err
		}); err != nil {
			break
		}
		need -= freed
		s.count(func(st *Stats) { st.Evicted += f.counters.evicted - before.evicted })
	}
	if need <= 0 {
		return true
	}
	if err == nil {
		err = ErrFull
		n := 0
		for _, op := range appends {
			n += len(op.records)
		}
		s.count(func(st *Stats) { st.Refused += int64(n) })
		s.answer(appends, err, false)
		return false
	}
	s.answer(appends, fmt.Errorf("make room in the spool: %w", err), true)
	return false
}

// commit stores appends, and what is owed to the active file, in one
// transaction. It returns slab for the next call.
func (s *Spool) commit(appends []appendOp, slab []byte) []byte {
	if s.active == nil && len(appends) > 0 {
		if err := s.begin(); err != nil {
			err = fmt.Errorf("create spool file: %w", err)
			s.report(err)
			s.answer(appends, err, true)
			return slab
		}
	}
	f := s.active
	if f == nil {
		return slab
	}
	owed := s.owed(f)
	if len(appends) == 0 && len(owed) == 0 {
		return slab
	}
	before := f.counters
	err := s.update(f, func(w *writer) error {
		w.slab = slab[:0]
		for _, op := range appends {
			for _, r := range op.records {
				if err := w.append(r); err != nil {
					return err
				}
			}
		}
		slab = w.slab
		return w.settleAll(owed)
	})
	if err != nil {
		// The acknowledgements stay owed. settleOthers tries them without the
		// appends: on a full disk they are what frees pages.
		s.answer(appends, err, true)
		return nil
	}
	s.settled(f, before, len(owed))
	if len(appends) > 0 {
		s.answer(appends, nil, false)
		signal(s.ready)
	}
	if cap(slab) > 2*groupBytes {
		slab = nil
	}
	return slab
}

// settleOthers makes acknowledgements durable that are still owed, each file in
// a transaction of its own.
func (s *Spool) settleOthers() {
	s.mu.Lock()
	files := slices.Clone(s.files)
	s.mu.Unlock()
	for _, f := range files {
		owed := s.owed(f)
		if len(owed) == 0 {
			continue
		}
		before := f.counters
		if err := s.update(f, func(w *writer) error { return w.settleAll(owed) }); err == nil {
			s.settled(f, before, len(owed))
		}
	}
}

func (w *writer) settleAll(owed []settlement) error {
	for _, o := range owed {
		if err := w.settle(o); err != nil {
			return err
		}
	}
	return nil
}

func (s *Spool) owed(f *file) []settlement {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(f.owed)
}

// settled counts what the settlements changed and forgets the first n.
func (s *Spool) settled(f *file, before counters, n int) {
	s.mu.Lock()
	f.owed = slices.Delete(f.owed, 0, n)
	f.settled += int64(n)
	s.stats.Acked += f.counters.acked - before.acked
	s.stats.Rejected += f.counters.rejected - before.rejected
	s.mu.Unlock()
}

// answer ends appends. failed counts their records as failed.
func (s *Spool) answer(appends []appendOp, err error, failed bool) {
	var records, bytes int64
	for _, op := range appends {
		records += int64(len(op.records))
		bytes += op.bytes
	}
	s.mu.Lock()
	s.growing -= bytes
	switch {
	case err == nil:
		s.stats.Appended += records
	case failed:
		s.stats.Failed += records
	}
	s.mu.Unlock()
	for _, op := range appends {
		op.done(err)
	}
}

func (s *Spool) count(fn func(*Stats)) {
	s.mu.Lock()
	fn(&s.stats)
	s.mu.Unlock()
}

// update runs one write transaction of f and sets f aside when it turns out to
// be damaged. f.counters is published under s.mu.
func (s *Spool) update(f *file, fn func(*writer) error) error {
	c, size, err := f.update(fn)
	if err == nil {
		s.mu.Lock()
		f.counters, f.size = c, size
		s.stats.Transactions++
		s.mu.Unlock()
		return nil
	}
	if errors.Is(err, ErrCorrupt) {
		return s.setAside(f, err)
	}
	err = fmt.Errorf("write spool file %q: %w", f.path, err)
	s.report(err)
	return err
}

// begin creates the next file and makes it the active one.
func (s *Spool) begin() error {
	for {
		s.mu.Lock()
		s.number++
		name := fmt.Sprintf("%013d-%d-%06d%s", s.start.UnixMilli(), os.Getpid(), s.number, suffix)
		s.mu.Unlock()
		f, err := openFile(filepath.Join(s.dir, name), true, s.opts)
		switch {
		case errors.Is(err, fs.ErrExist), errors.Is(err, ErrLocked), errors.Is(err, errRemoved):
			// Another process was quicker: it adopted our file, still without a
			// lock, and removed it; or a process of the same name, which
			// containers make possible, is there already.
			continue
		case err != nil:
			return err
		}
		s.mu.Lock()
		s.active = f
		s.insert(f)
		s.mu.Unlock()
		return nil
	}
}

// insert needs s.mu.
func (s *Spool) insert(f *file) {
	i, _ := slices.BinarySearchFunc(s.files, f, func(a, b *file) int { return cmp.Compare(a.path, b.path) })
	s.files = slices.Insert(s.files, i, f)
}

// drop takes f out of the list. It needs s.mu.
func (s *Spool) drop(f *file) {
	f.gone = true
	s.files = slices.DeleteFunc(s.files, func(g *file) bool { return g == f })
	if s.active == f {
		s.active = nil
	}
}

// tidy begins the next file when the active one is large, and removes drained
// files.
func (s *Spool) tidy() {
	if f := s.active; f != nil {
		// A file that once held a backlog keeps its size, and bbolt writes the
		// list of its free pages with every transaction: begin a small one.
		hollow := f.size > s.opts.SegmentBytes/4 && f.counters.pendingBytes < f.size/8
		if hollow || f.size >= s.opts.SegmentBytes {
			if err := s.begin(); err != nil {
				s.report(fmt.Errorf("create spool file: %w", err)) // go on with the large one
			}
		}
	}
	s.mu.Lock()
	var drained []*file
	for _, f := range s.files {
		if f != s.active && f.empty() && len(f.owed) == 0 {
			drained = append(drained, f)
		}
	}
	for _, f := range drained {
		s.drop(f)
	}
	s.mu.Unlock()
	for _, f := range drained {
		if err := f.remove(); err != nil {
			s.report(fmt.Errorf("remove drained spool file %q: %w", f.path, err))
		}
	}
}

// setAside gives a damaged file up. The error says where it is now and what it
// held.
func (s *Spool) setAside(f *file, cause error) error {
	s.mu.Lock()
	if f.gone {
		s.mu.Unlock()
		return cause
	}
	s.drop(f)
	s.stats.SetAside += f.counters.pending
	for _, o := range f.owed {
		s.placedElsewhere(o)
	}
	s.mu.Unlock()
	path, err := f.setAside()
	f.abandon()
	err = errors.Join(fmt.Errorf("set aside spool file %q with %d pending records: %w", path, f.counters.pending, cause), err)
	s.report(err)
	return err
}

// placedElsewhere counts what the reader had placed of a file that was set aside
// where it is now: each record is in one place. It needs s.mu.
func (s *Spool) placedElsewhere(o settlement) {
	placed, rejected := int64(len(o.seqs)-len(o.rejects)), int64(len(o.rejects))
	if o.seqs == nil {
		return // Ack does not say how many
	}
	s.stats.Acked += placed
	s.stats.Rejected += rejected
	s.stats.SetAside -= placed + rejected
}

func (s *Spool) closeFiles() error {
	s.mu.Lock()
	files := s.files
	s.files, s.active = nil, nil
	var errs []error
	for _, f := range files {
		f.gone = true
		s.stats.Pending += f.counters.pending // Stats still answers after Close
		s.stats.PendingBytes += f.counters.pendingBytes
		s.stats.RejectedHeld += f.counters.rejected
		s.stats.RejectedBytes += f.counters.rejectedSize
	}
	s.mu.Unlock()
	for _, f := range files {
		end := f.close
		if f.empty() {
			end = f.remove
		}
		if err := end(); err != nil {
			errs = append(errs, fmt.Errorf("close spool file %q: %w", f.path, err))
		}
	}
	return errors.Join(errs...)
}
