package spool

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// salvage appends what is intact in the damaged file at path, after a sequence and
// but for what is owed, to the end of the queue, and returns their
// sequences there. The file stays as it is. For the committer.
func (s *Spool) salvage(path string, after uint64, owed map[uint64]bool) map[uint64]bool {
	saved := map[uint64]bool{}
	var group [][]byte
	var seqs []uint64
	var times []time.Time
	size := 0
	flush := func() bool {
		if len(group) == 0 {
			return true
		}
		if s.active == nil {
			if err := s.begin(); err != nil {
				s.inTrouble(fmt.Errorf("create spool file: %w", err))
				return false
			}
		}
		if s.active.volatile {
			return false // it would be lost there; in the file it is safe
		}
		if err := s.update(s.active, func(w *writer) error {
			for i, r := range group {
				w.now = times[i]
				if err := w.append(r); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return false
		}
		for _, seq := range seqs {
			saved[seq] = true
		}
		group, seqs, times, size = nil, nil, nil, 0
		return true
	}
	eachIntact(path, func(seq uint64, at time.Time, record []byte) bool {
		if seq <= after || owed[seq] {
			return true
		}
		group, seqs, times = append(group, slices.Clone(record)), append(seqs, seq), append(times, at)
		size += len(record)
		return size < groupBytes || flush()
	})
	flush()
	if len(saved) > 0 {
		signal(s.ready)
	}
	return saved
}

// eachIntact calls take for each record of a file whose checksum is right, in
// their order, until it returns false: from the first up to where the file cannot
// be read, and then what can be reached from its end.
func eachIntact(path string, take func(seq uint64, at time.Time, record []byte) bool) {
	seen := map[uint64]bool{}
	wanted := true
	err := walk(path, (*bolt.Cursor).First, (*bolt.Cursor).Next, func(seq uint64, at time.Time, record []byte) bool {
		if seen[seq] {
			return true
		}
		seen[seq] = true
		wanted = take(seq, at, record)
		return wanted
	})
	if err == nil || !wanted {
		return
	}
	type found struct {
		seq    uint64
		at     time.Time
		record []byte
	}
	var tail []found
	_ = walk(path, (*bolt.Cursor).Last, (*bolt.Cursor).Prev, func(seq uint64, at time.Time, record []byte) bool {
		if seen[seq] {
			return false
		}
		seen[seq] = true
		tail = append(tail, found{seq, at, slices.Clone(record)})
		return true
	})
	for _, f := range slices.Backward(tail) {
		if !take(f.seq, f.at, f.record) {
			return
		}
	}
}

// walk calls take for the intact records that a cursor comes by. An error means
// that it could not come to the end.
func walk(path string, first, next func(*bolt.Cursor) (key, value []byte), take func(seq uint64, at time.Time, record []byte) bool) (err error) {
	v := &View{Path: path, file: file{path: path}}
	defer v.file.abandon() // bbolt may have met damage: its mapping leaks
	defer guard(&err)()
	if err := v.openBolt(func(name string, _ int, _ os.FileMode) (*os.File, error) { return os.Open(name) }); err != nil {
		return err
	}
	return v.file.db.View(func(tx *bolt.Tx) error {
		records := tx.Bucket(recordsBucket)
		if records == nil {
			return fmt.Errorf("%w: bucket %q is missing", ErrCorrupt, recordsBucket)
		}
		c := records.Cursor()
		key, value := first(c)
		for range tx.Size() / headerSize { // a damaged file may lead round in circles
			if key == nil {
				return nil
			}
			if len(key) == 8 && len(value) <= maxRecordBytes+headerSize {
				if record, at, err := parseValue(key, value); err == nil && !take(binary.BigEndian.Uint64(key), at, record) {
					return nil
				}
			}
			key, value = next(c)
		}
		return fmt.Errorf("%w: more records than there is room for", ErrCorrupt)
	})
}
