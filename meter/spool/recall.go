package spool

import (
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	// recallAge bounds how old records are that Options.OnAdopt is told of.
	recallAge = 2 * time.Minute
	// recallRecords bounds how many they are, of one Adopt.
	recallRecords = 1 << 17
)

// recall calls Options.OnAdopt for the newest records of an adopted file, for limit
// of them at most, and returns for how many. What cannot be read is for Peek to
// find.
func (s *Spool) recall(f *file, limit int) (n int) {
	if s.opts.OnAdopt == nil {
		return 0
	}
	since := time.Now().Add(-recallAge)
	_ = f.view(func(_ *bolt.Tx, records *bolt.Bucket) error {
		c := records.Cursor()
		key, v := c.Last()
		for ; n < limit; n++ {
			record, ok := newer(since, key, v)
			if !ok {
				break
			}
			s.opts.OnAdopt(record)
			key, v = c.Prev()
		}
		return nil
	})
	if n > 0 {
		f.giveBack()
	}
	return n
}

// newer returns the record of a stored value that is whole and was appended
// after since.
func newer(since time.Time, key, v []byte) (record []byte, ok bool) {
	record, at, err := parseValue(key, v)
	return record, err == nil && !at.Before(since)
}
