package spool

import (
	"encoding/binary"
	"slices"
)

// Journal keeps account of what a spool stores, in the transactions that store
// it. Its methods are called by the goroutine that commits, one at a time:
// Append for the records of a transaction, in their order, Seal, and End.
type Journal interface {
	// Append is called for a record that is about to be stored. It may change the
	// record's bytes, not their number.
	Append(record []byte)
	// Seal ends a transaction. The records that it returns are stored behind the
	// others; the state, appended to b, is kept in the file in place of the one
	// before. It is called every second, too, when nothing waits to be stored:
	// no records then mean that there is no transaction. last says that the spool
	// is about to be drained or closed.
	Seal(b []byte, last bool) (records [][]byte, state []byte)
	// End is called after the transaction, if there was one: with false when
	// nothing of it was stored. The records of Append are then as they were before:
	// they may come again.
	End(stored bool)

	// Split ends what was stored so far: what is stored from now on may end with the
	// process, and what the next process says of the state that is on disk must not
	// contradict it.
	Split()

	// Adopt takes over the states that processes which are gone have left, oldest
	// file first, an older file's before that of the file that its process began
	// next. The records that follow from them come out of one of the next Seals.
	Adopt(states [][]byte)
	// Adopted reports whether all of these are stored. The states are forgotten
	// then; as long as they are not, the next process is given them again.
	Adopted() bool
}

// journalKey is where a file has the journal's state, behind a checksum.
var journalKey = []byte("journal")

func encodeState(state []byte) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(state)), checksum(journalKey, state))
	return append(b, state...)
}

// parseState returns nil for a state that is missing, empty or damaged: what it
// told is not known then.
func parseState(v []byte) []byte {
	if len(v) <= 4 || binary.BigEndian.Uint32(v) != checksum(journalKey, v[4:]) {
		return nil
	}
	return append([]byte(nil), v[4:]...)
}

// Seal has the journal end what was stored so far, as if the spool were closed,
// so that its last records are among those that a drain publishes.
func (s *Spool) Seal() error {
	if s.opts.Journal == nil {
		return nil
	}
	return s.do(task{before: func() { s.sealing = true }})
}

// inherit hands the states of adopted files to the journal.
func (s *Spool) inherit() error {
	s.mu.Lock()
	some := slices.ContainsFunc(s.files, func(f *file) bool { return f.state != nil && !f.inherited })
	s.mu.Unlock()
	if !some {
		return nil
	}
	return s.do(task{before: func() {
		var states [][]byte
		s.mu.Lock()
		for _, f := range s.files {
			if f.state != nil && !f.inherited {
				f.inherited = true
				states = append(states, f.state)
			}
		}
		s.mu.Unlock()
		if len(states) > 0 {
			s.opts.Journal.Adopt(states)
		}
	}})
}

// carry puts the journal's state into the file that has just become the active one.
// A crash in between leaves it in two: the newer file's counts.
func (s *Spool) carry() {
	if len(s.kept) == 0 {
		return
	}
	if err := s.update(s.active, func(w *writer) error { return w.meta.Put(journalKey, encodeState(s.kept)) }); err == nil {
		s.mu.Lock()
		s.supersede(s.active)
		s.mu.Unlock()
	}
}

// supersede remembers that f has the journal's state, and that those in this
// process's other files count no more. It needs s.mu.
func (s *Spool) supersede(f *file) {
	if f.heir {
		return
	}
	f.heir = true
	for _, other := range s.files {
		other.stale = other.stale || other.own && !other.volatile && other != f
	}
}

// forget takes the states out of the files that are not to have them any more:
// those that were carried on, and those of adopted files, when the journal has
// stored what follows from them. Those of older files go first, because a state
// is worth nothing without the newer one of the same process.
func (s *Spool) forget() {
	if s.opts.Journal == nil {
		return
	}
	if s.active == nil || s.active.volatile {
		return // what the journal has stored may end with the process
	}
	s.mu.Lock()
	var heirs []*file
	for _, f := range s.files {
		if f.inherited || f.stale {
			heirs = append(heirs, f)
		}
	}
	s.mu.Unlock()
	if len(heirs) == 0 {
		return
	}
	adopted := s.opts.Journal.Adopted()
	for _, f := range heirs {
		if !f.stale && !adopted {
			continue
		}
		if err := s.update(f, func(w *writer) error { return w.meta.Delete(journalKey) }); err != nil {
			return // and tries again
		}
		s.mu.Lock()
		f.state, f.inherited, f.stale = nil, false, false
		s.mu.Unlock()
	}
}
