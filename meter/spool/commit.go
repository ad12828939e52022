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

// groupTime is how far transactions are apart while appends come side by side:
// each costs the disk and the processor the same, however many they are.
const groupTime = time.Millisecond

// run is the committer: the only goroutine that writes to files, creates,
// closes and removes them.
func (s *Spool) run() {
	defer close(s.stopped)
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	var slab []byte
	together := false // appends come side by side
	var began time.Time
	for {
		if pause := groupTime - time.Since(began); together && pause > 0 {
			timer := time.NewTimer(pause)
			<-timer.C
		}
		began = time.Now()
		appends, tasks, closing := s.take()
		together = len(appends) > 1
		for _, task := range tasks {
			if task.before != nil {
				task.before()
			}
		}
		s.mend(closing)
		if s.room(appends) {
			slab = s.commit(appends, slab)
		}
		s.settleOthers()
		s.forget()
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
			if s.opts.Journal != nil {
				s.sealing = true
				s.commit(nil, nil)
				s.forget()
			}
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
	s.mu.Lock()
	if s.opts.MaxBytes <= 0 || s.opts.WhenFull != DropOldest || len(appends) == 0 {
		s.mu.Unlock()
		return true
	}
	need, evictable := s.heldBytes()-s.opts.MaxBytes, int64(0)
	files := slices.Clone(s.files)
	for _, f := range files {
		evictable += f.counters.pendingBytes
	}
	s.mu.Unlock()
	for _, op := range appends {
		need += op.bytes
	}
	if need > evictable {
		files = nil // the rejected records leave no room: evict nothing for nothing
	}
	var err error
	for _, f := range files {
		if need <= 0 {
			break
		}
		if f.counters.pending == 0 {
			continue
		}
		var freed int64
		if freed, err = s.evict(f, need); err != nil {
			break
		}
		need -= freed
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
	s.hold(appends, fmt.Errorf("make room in the spool: %w", err))
	return false
}

// evict takes the oldest records out of f that are not on their way, until bytes
// are freed, and returns how many it freed.
func (s *Spool) evict(f *file, bytes int64) (freed int64, err error) {
	f.reading.Lock()
	defer f.reading.Unlock()
	s.mu.Lock()
	after := max(f.acked, f.peeked)
	owed := f.owedAfter(after)
	s.mu.Unlock()
	before := f.counters
	err = s.update(f, func(w *writer) error {
		var err error
		freed, err = w.evict(after, owed, bytes)
		return err
	})
	if err == nil {
		s.count(func(st *Stats) { st.Evicted += f.counters.evicted - before.evicted })
	}
	return freed, err
}

// commit stores appends, and what is owed to the active file, in one
// transaction. It returns slab for the next call.
func (s *Spool) commit(appends []appendOp, slab []byte) []byte {
	f := s.active
	if f == nil || f.volatile {
		s.hold(appends, s.trouble)
		return slab
	}
	owed := s.owed(f)
	before := f.counters
	slab, own, err := s.write(f, appends, owed, slab)
	if err != nil {
		// The acknowledgements stay owed. settleOthers tries them without the
		// appends: on a full disk they are what frees pages.
		s.hold(appends, err)
		return nil
	}
	s.settled(f, before, len(owed))
	if len(appends)+own > 0 {
		s.answer(appends, nil, false)
		signal(s.ready)
	}
	if cap(slab) > 2*groupBytes {
		slab = nil
	}
	return slab
}

// write stores appends, the journal's own records and what is owed in one
// transaction of f, or does without one when there is nothing. It returns slab for
// the next call, and how many records of its own the journal had.
func (s *Spool) write(f *file, appends []appendOp, owed []settlement, slab []byte) (_ []byte, own int, _ error) {
	told, state := s.seal(appends)
	news := len(appends)+len(told) > 0
	if !news && len(owed) == 0 {
		return slab, 0, nil
	}
	err := s.update(f, func(w *writer) error {
		w.slab = slab[:0]
		for _, op := range appends {
			for _, r := range op.records {
				if err := w.append(r); err != nil {
					return err
				}
			}
		}
		for _, r := range told {
			if err := w.append(r); err != nil {
				return err
			}
		}
		slab = w.slab
		if s.opts.Journal != nil && news {
			if err := w.meta.Put(journalKey, encodeState(state)); err != nil {
				return err
			}
		}
		return w.settleAll(owed)
	})
	if s.opts.Journal != nil && news {
		s.opts.Journal.End(err == nil)
	}
	if err != nil {
		return nil, 0, err
	}
	if s.opts.Journal != nil && news {
		s.kept = append(s.kept[:0], state...)
		if !f.volatile { // the disk may have failed when it was to be carried
			s.mu.Lock()
			s.supersede(f)
			s.mu.Unlock()
		}
	}
	s.count(func(st *Stats) { st.Appended += int64(len(told)) })
	return slab, len(told), nil
}

// seal shows the journal what is about to be stored. It returns the journal's own
// records and its state.
func (s *Spool) seal(appends []appendOp) (own [][]byte, state []byte) {
	if s.opts.Journal == nil {
		return nil, nil
	}
	for _, op := range appends {
		for _, r := range op.records {
			s.opts.Journal.Append(r)
		}
	}
	s.state = s.state[:0]
	own, s.state = s.opts.Journal.Seal(s.state, s.sealing)
	s.sealing = false
	return own, s.state
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
	case err == nil, errors.Is(err, ErrMemory):
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
		if f == s.active && !f.volatile {
			s.trouble = nil
		}
		s.mu.Unlock()
		return nil
	}
	if errors.Is(err, ErrCorrupt) {
		return s.setAside(f, err)
	}
	err = fmt.Errorf("write spool file %q: %w", f.path, err)
	if f == s.active {
		s.inTrouble(err)
	} else {
		s.report(err)
	}
	return err
}

// nextPath returns the path of the next file.
func (s *Spool) nextPath() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++
	return filepath.Join(s.dir, fmt.Sprintf("%013d-%d-%06d%s", s.start.UnixMilli(), os.Getpid(), s.number, suffix))
}

// begin creates the next file and makes it the active one.
func (s *Spool) begin() error {
	if err := makeDir(s.dir); err != nil {
		return err
	}
	for {
		f, err := openFile(s.nextPath(), true, s.opts)
		switch {
		case errors.Is(err, fs.ErrExist), errors.Is(err, ErrLocked), errors.Is(err, errRemoved):
			// Another process was quicker: it adopted our file, still without a
			// lock, and removed it; or a process of the same name, which
			// containers make possible, is there already.
			continue
		case err != nil:
			return err
		}
		f.own = true
		s.mu.Lock()
		s.active, s.trouble = f, nil
		s.insert(f)
		s.mu.Unlock()
		s.carry()
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
// files, or what they take beyond their rejected records.
func (s *Spool) tidy() {
	if f := s.active; f != nil && !f.volatile {
		// A file that once held a backlog keeps its size, and bbolt writes the
		// list of its free pages with every transaction: begin a small one.
		hollow := f.size > s.opts.SegmentBytes/4 && f.counters.pendingBytes < f.size/8
		if (hollow || f.size >= s.opts.SegmentBytes) && time.Since(s.tried) >= retryInterval {
			if err := s.begin(); err != nil {
				s.tried = time.Now()
				s.report(fmt.Errorf("create spool file: %w", err)) // go on with the large one
			}
		}
	}
	s.mu.Lock()
	var drained []*file
	for _, f := range s.files {
		if f != s.active && f.empty() && len(f.owed) == 0 && !s.lastState(f) {
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
	s.compact()
}

// lastState reports whether f may be the only one on disk that has the journal's state. It needs s.mu.
func (s *Spool) lastState(f *file) bool {
	return s.opts.Journal != nil && f.own && !f.volatile && !f.stale && (s.active == nil || s.active.volatile)
}

// setAside gives a damaged file up, but for what is intact in it. The error says
// where it is now and what it held.
func (s *Spool) setAside(f *file, cause error) error {
	s.mu.Lock()
	if f.gone {
		s.mu.Unlock()
		return cause
	}
	if f == s.active {
		s.trouble = cause // until the next is begun
	}
	s.drop(f)
	after, owed := f.acked, f.owedAfter(f.acked)
	f.salvaging = true
	s.mu.Unlock()
	path, err := f.setAside()
	f.abandon()
	saved := map[uint64]bool{}
	if !f.volatile && err == nil {
		saved = s.salvage(path, after, owed)
	}
	s.mu.Lock()
	f.salvaging, f.saved = false, saved
	s.stats.SetAside += f.counters.pending - int64(len(saved)) // which are pending still
	for _, o := range f.owed {
		s.placedElsewhere(f, o)
	}
	if s.stats.SetAside < 0 { // the counters of a damaged file say less than is in it
		s.stats.Appended -= s.stats.SetAside
		s.stats.SetAside = 0
	}
	s.mu.Unlock()
	err = errors.Join(fmt.Errorf("set aside spool file %q with %d pending records, of which %d are intact and pending still: %w", path, f.counters.pending, len(saved), cause), err)
	s.report(err)
	return err
}

// placedElsewhere counts what the reader had placed of a file that was set aside
// where it is now: each record is in one place. It needs s.mu.
func (s *Spool) placedElsewhere(f *file, o settlement) {
	if o.seqs == nil {
		return // Ack does not say how many
	}
	s.stats.Acked += int64(len(o.seqs) - len(o.rejects))
	s.stats.Rejected += int64(len(o.rejects))
	for _, seq := range o.seqs {
		if f.saved[seq] {
			s.stats.Appended++ // it was on its way when it was saved, and comes again
		} else {
			s.stats.SetAside--
		}
	}
}

func (s *Spool) closeFiles() error {
	s.mu.Lock()
	files := s.files
	memory := s.active != nil && s.active.volatile
	s.files, s.active = nil, nil
	var errs []error
	for _, f := range files {
		f.gone = true
		s.stats.Pending += f.counters.pending // Stats still answers after Close
		s.stats.PendingBytes += f.counters.pendingBytes
		s.stats.RejectedHeld += f.counters.rejected
		s.stats.RejectedBytes += f.counters.rejectedSize
		if n := f.counters.pending + f.counters.rejected; f.volatile && n > 0 {
			s.stats.InMemory += f.counters.pending
			errs = append(errs, fmt.Errorf("%d records are lost that were in memory, because the disk could not be written: %w", n, s.trouble))
		}
	}
	s.mu.Unlock()
	for _, f := range files {
		end := f.close
		// What the journal could not end, because the disk takes nothing, the next process ends.
		unended := s.opts.Journal != nil && f.own && !f.volatile && !f.stale && (memory || len(s.kept) > 0)
		if f.empty() && !unended {
			end = f.remove
		}
		if err := end(); err != nil {
			errs = append(errs, fmt.Errorf("close spool file %q: %w", f.path, err))
		}
	}
	return errors.Join(errs...)
}
