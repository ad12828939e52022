package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// requeueRecords bounds one transaction of Requeue.
const requeueRecords = 1000

// Requeue moves the rejected records of all open files that pick wants back to
// the end of the queue, and returns how many. Each is in exactly one of the two
// places whenever the process ends. Stats counts them as Appended. A record that
// was rejected because it is damaged stays where it is.
func (s *Spool) Requeue(pick func(Rejected) bool) (moved int64, err error) {
	s.mu.Lock()
	files := slices.Clone(s.files)
	s.mu.Unlock()
	for _, f := range files {
		for after := uint64(0); ; {
			var n int64
			var last uint64
			var failed error
			err := s.do(task{before: func() {
				if s.isGone(f) {
					return
				}
				failed = s.update(f, func(w *writer) error {
					var err error
					n, last, err = w.requeue(f.path, after, pick)
					return err
				})
				if failed == nil && n > 0 {
					s.count(func(st *Stats) { st.Appended += n })
					signal(s.ready)
				}
			}})
			if err = errors.Join(err, failed); err != nil {
				return moved, fmt.Errorf("requeue rejected records of %q: %w", f.path, err)
			}
			moved += n
			if last == 0 {
				break
			}
			after = last
		}
	}
	return moved, nil
}

// requeue moves what pick wants of the next rejected records after a sequence. It
// returns how many it moved and the last sequence that it looked at, 0 at the end.
func (w *writer) requeue(path string, after uint64, pick func(Rejected) bool) (moved int64, last uint64, err error) {
	var keys [][]byte
	c := w.rejected.Cursor()
	for key, _ := c.Seek(appendKey(nil, after+1)); key != nil && len(keys) < requeueRecords; key, _ = c.Next() {
		if len(key) != 8 {
			return 0, 0, fmt.Errorf("%w: key of %d bytes", ErrCorrupt, len(key))
		}
		keys = append(keys, slices.Clone(key))
	}
	for _, key := range keys {
		last = binary.BigEndian.Uint64(key)
		reason, record, at, err := parseRejected(key, w.rejected.Get(key))
		if err != nil || strings.HasPrefix(reason, ErrCorrupt.Error()) {
			continue
		}
		record = slices.Clone(record) // the page that it is on changes
		if !pick(Rejected{path, at, reason, record}) {
			continue
		}
		if err := w.append(record); err != nil {
			return 0, 0, err
		}
		if err := w.rejected.Delete(key); err != nil {
			return 0, 0, err
		}
		w.counters.acked++ // one record has left the queue, another has joined it
		w.counters.rejected--
		w.counters.rejectedSize -= int64(len(record))
		moved++
	}
	return moved, last, nil
}
