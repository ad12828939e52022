package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

const (
	suffix        = ".spool"
	damagedSuffix = ".damaged"
	format        = "kafka-metering spool 1"
	// lockTimeout must not be zero: bbolt then waits for ever. Anything below
	// bbolt's polling interval of 50 ms means one attempt.
	lockTimeout = time.Millisecond
)

var (
	metaBucket     = []byte("meta")
	recordsBucket  = []byte("records")
	rejectedBucket = []byte("rejected")
	formatKey      = []byte("format")
	countersKey    = []byte("counters")

	errRemoved = errors.New("file was removed while it was being opened")
)

// file is one bbolt file. Writes come from the committer alone; reads may come
// from any goroutine.
type file struct {
	path     string
	db       *bolt.DB
	os       *os.File // db's, to give the lock back when db cannot be closed any more
	volatile bool     // in memory: see memory.go; written by the committer alone, under Spool.mu

	moving  sync.RWMutex // held while db changes
	reading sync.Mutex   // held while Peek reads, so that what it returns is not evicted meanwhile
	read    int          // bytes, since the pages were given back; guarded by reading

	// Written by the committer alone, under Spool.mu: it may read them without.
	counters counters
	size     int64 // bytes in use, free pages included

	// Guarded by Spool.mu.
	acked     uint64 // no record up to here is returned again, on disk or not yet
	passed    uint64 // Peek goes on after it; see Settle
	peeked    uint64 // records up to here may be on their way; they are not evicted
	owed      []settlement
	settled   int64 // settlements that are durable
	gone      bool  // removed or set aside
	compacted bool  // see compact

	salvaging bool            // what is settled meanwhile is owed, and counted at the end
	saved     map[uint64]bool // of a file that was set aside: what is pending elsewhere
	own       bool            // this process has begun it
	state     []byte          // the journal's, of a file that was adopted; see Journal.Adopt
	inherited bool            // this process's journal has it
	stale     bool            // a newer file of this process has it
	heir      bool            // it has it, instead of those that this process began before
}

// settlement is what one Ack or Settle takes out of the queue: everything up to
// a sequence, or single records.
type settlement struct {
	upTo    uint64
	seqs    []uint64 // ascending; nil: up to upTo
	rejects []Reject
}

// guard turns a panic of bbolt, or the fault of a page that the disk does not
// deliver, into ErrCorrupt. Use: defer guard(&err)().
func guard(err *error) func() {
	old := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			*err = fmt.Errorf("%w: %v", ErrCorrupt, r)
		}
	}
}

// openFile opens or creates the file at path, locks it and reads its counters.
// A file that another process holds is ErrLocked.
func openFile(path string, create bool, opts Options) (_ *file, err error) {
	f := &file{path: path}
	defer func() {
		if err != nil {
			f.discard(err) // may come again with every Adopt, or transaction
		}
		if err != nil && create && f.os != nil && !errors.Is(err, ErrLocked) && !errors.Is(err, errRemoved) {
			_ = os.Remove(path) // a full disk would be left with one for each attempt, which Adopt takes for damaged
		}
	}()
	defer guard(&err)()

	err = f.open(opts, func(name string, flag int, mode os.FileMode) (*os.File, error) {
		// Without O_EXCL two processes could create one file; with O_CREATE an
		// adopter would bring back a file that its owner just removed.
		flag &^= os.O_CREATE
		if create {
			flag |= os.O_CREATE | os.O_EXCL
		}
		return os.OpenFile(name, flag, mode)
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, ErrLocked
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	case err != nil && !create && tooSmall(path):
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	case err != nil:
		return nil, err
	}
	// Another process may have removed or renamed the file between our open and
	// our lock; records written to it would vanish with the descriptor.
	mine, err := f.os.Stat()
	if err != nil {
		return nil, err
	}
	if there, err := os.Stat(path); err != nil || !os.SameFile(mine, there) {
		return nil, errRemoved
	}
	if create {
		f.counters = counters{next: 1}
		err = f.db.Update(func(tx *bolt.Tx) error { return initBuckets(tx, f.counters) })
		if err == nil {
			err = syncDir(filepath.Dir(path))
		}
	} else {
		err = f.load(mine.Size())
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// open opens the database in the file that openOS returns.
func (f *file) open(opts Options, openOS func(string, int, os.FileMode) (*os.File, error)) (err error) {
	f.db, err = bolt.Open(f.path, 0o600, &bolt.Options{
		Timeout:         lockTimeout,
		FreelistType:    bolt.FreelistMapType,
		PageSize:        opts.pageSize,
		InitialMmapSize: int(opts.SegmentBytes + opts.SegmentBytes/4),
		NoStatistics:    true,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			f.os, err = openOS(name, flag, mode)
			return f.os, err
		},
	})
	return err
}

// tooSmall reports whether a file was cut off before its second meta page. bbolt
// has no error value for it.
func tooSmall(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() < 2*defaultPageSize
}

func initBuckets(tx *bolt.Tx, c counters) error {
	meta, err := tx.CreateBucket(metaBucket)
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucket(recordsBucket); err != nil {
		return err
	}
	if _, err := tx.CreateBucket(rejectedBucket); err != nil {
		return err
	}
	if err := meta.Put(formatKey, []byte(format)); err != nil {
		return err
	}
	return meta.Put(countersKey, c.encode())
}

// load reads what the last transaction of the file says about it.
func (f *file) load(diskSize int64) error {
	return f.db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if meta == nil {
			if tx.Bucket(recordsBucket) == nil && tx.ID() <= 2 {
				// Its process died between creating the file and its first
				// transaction: nothing was acknowledged.
				f.counters = counters{next: 1}
				return nil
			}
			return fmt.Errorf("%w: bucket %q is missing", ErrCorrupt, metaBucket)
		}
		if got := meta.Get(formatKey); string(got) != format {
			return fmt.Errorf("%w: %q, this version reads %q", ErrFormat, got, format)
		}
		c, err := parseCounters(meta.Get(countersKey))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if tx.Bucket(recordsBucket) == nil || tx.Bucket(rejectedBucket) == nil {
			return fmt.Errorf("%w: a bucket is missing", ErrCorrupt)
		}
		f.counters, f.size = c, tx.Size()
		f.state = parseState(meta.Get(journalKey))
		if f.size > diskSize {
			return fmt.Errorf("%w: file has %d of %d bytes", ErrCorrupt, diskSize, f.size)
		}
		return nil
	})
}

// empty reports whether the file holds nothing that anybody could miss.
func (f *file) empty() bool {
	return f.counters.pending == 0 && f.counters.rejected == 0 && f.state == nil
}

// view runs fn in a read transaction.
func (f *file) view(fn func(tx *bolt.Tx, records *bolt.Bucket) error) (err error) {
	f.moving.RLock()
	defer f.moving.RUnlock()
	defer guard(&err)()
	return f.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(recordsBucket)
		if b == nil {
			return fmt.Errorf("%w: bucket %q is missing", ErrCorrupt, recordsBucket)
		}
		return fn(tx, b)
	})
}

// update runs fn in a write transaction. The transaction is durable when update
// returns nil; then the counters and the size are those of the file from now on.
func (f *file) update(fn func(w *writer) error) (c counters, size int64, err error) {
	defer guard(&err)()
	var w writer
	err = f.db.Update(func(tx *bolt.Tx) error {
		w = writer{counters: f.counters, now: time.Now()}
		w.meta, w.records, w.rejected = tx.Bucket(metaBucket), tx.Bucket(recordsBucket), tx.Bucket(rejectedBucket)
		if w.meta == nil || w.records == nil || w.rejected == nil {
			return fmt.Errorf("%w: a bucket is missing", ErrCorrupt)
		}
		// Keys only grow: a page that is split will never be inserted into again.
		w.records.FillPercent = 1
		if err := fn(&w); err != nil {
			return err
		}
		w.size = tx.Size()
		return w.meta.Put(countersKey, w.counters.encode())
	})
	if err != nil && !errors.Is(err, ErrCorrupt) && w.size != 0 {
		// The write of the meta page can succeed and its sync fail. The
		// transaction is then visible, and its records would be published: make
		// it durable rather than report as failed what will be delivered: by another
		// transaction, because a sync that is tried again succeeds without writing
		// the pages that the failed one has given up.
		if landed, verr := f.landed(w.counters); verr != nil {
			return c, 0, fmt.Errorf("%w (after %w)", verr, err)
		} else if landed && f.db.Update(func(*bolt.Tx) error { return nil }) == nil {
			err = nil
		}
	}
	return w.counters, w.size, err
}

// landed reports whether the file now says c.
func (f *file) landed(c counters) (bool, error) {
	var now counters
	err := f.db.View(func(tx *bolt.Tx) error {
		var err error
		now, err = parseCounters(tx.Bucket(metaBucket).Get(countersKey))
		return err
	})
	return now == c && c != f.counters, err
}

// writer is the inside of one write transaction.
type writer struct {
	meta, records, rejected *bolt.Bucket

	counters counters
	size     int64
	now      time.Time
	slab     []byte
}

// append stores one record.
func (w *writer) append(record []byte) error {
	start := len(w.slab)
	w.slab = appendKey(w.slab, uint64(w.counters.next))
	key := w.slab[start:]
	w.slab = appendValue(w.slab, key, w.now, record)
	if err := w.records.Put(key, w.slab[start+len(key):]); err != nil {
		return err
	}
	w.counters.next++
	w.counters.pending++
	w.counters.pendingBytes += int64(len(record))
	return nil
}

// settle takes what s names out of the queue.
func (w *writer) settle(s settlement) error {
	keys, err := w.settledKeys(s)
	if err != nil {
		return err
	}
	reasons := make(map[uint64]string, len(s.rejects))
	for _, r := range s.rejects {
		reasons[r.Pos.seq] = r.Reason
	}
	for _, key := range keys {
		reason, rejected := reasons[binary.BigEndian.Uint64(key)]
		if rejected {
			// Damaged or not: what is in the file is kept as it is.
			record, at, _ := parseValue(key, w.records.Get(key))
			if err := w.rejected.Put(key, rejectedValue(key, at, reason, record)); err != nil {
				return err
			}
			w.counters.rejected++
			w.counters.rejectedSize += int64(len(record))
		} else {
			w.counters.acked++
		}
		if err := w.delete(key); err != nil {
			return err
		}
	}
	return nil
}

// settledKeys returns the keys of what s names.
func (w *writer) settledKeys(s settlement) ([][]byte, error) {
	if s.seqs == nil {
		return w.keys(0, func(seq uint64, _ int64) bool { return seq <= s.upTo })
	}
	slab := make([]byte, 0, 8*len(s.seqs))
	keys := make([][]byte, 0, len(s.seqs))
	for _, seq := range s.seqs {
		start := len(slab)
		slab = appendKey(slab, seq)
		keys = append(keys, slab[start:])
	}
	return keys, nil
}

// evict deletes the oldest records after a sequence, but for those that are owed,
// until bytes are freed, and returns how many it freed.
func (w *writer) evict(after uint64, owed map[uint64]bool, bytes int64) (freed int64, err error) {
	keys, err := w.keys(after+1, func(seq uint64, size int64) bool {
		if freed >= bytes {
			return false
		}
		if !owed[seq] {
			freed += size
		}
		return true
	})
	if err != nil {
		return 0, err
	}
	keys = slices.DeleteFunc(keys, func(key []byte) bool { return owed[binary.BigEndian.Uint64(key)] })
	for _, key := range keys {
		if err := w.delete(key); err != nil {
			return 0, err
		}
	}
	w.counters.evicted += int64(len(keys))
	return freed, nil
}

// keys returns copies of the keys from a sequence on, as long as more wants
// them. (A bbolt cursor loses its place when the record under it is deleted.)
func (w *writer) keys(from uint64, more func(seq uint64, size int64) bool) ([][]byte, error) {
	var keys [][]byte
	c := w.records.Cursor()
	for key, v := c.Seek(appendKey(nil, from)); key != nil; key, v = c.Next() {
		if len(key) != 8 {
			return nil, fmt.Errorf("%w: key of %d bytes", ErrCorrupt, len(key))
		}
		if !more(binary.BigEndian.Uint64(key), int64(len(v)-headerSize)) {
			break
		}
		keys = append(keys, append([]byte(nil), key...))
	}
	return keys, nil
}

func (w *writer) delete(key []byte) error {
	w.counters.pending--
	v := w.records.Get(key)
	if v == nil {
		return fmt.Errorf("%w: record %x is there and cannot be found", ErrCorrupt, key)
	}
	w.counters.pendingBytes -= int64(max(len(v)-headerSize, 0))
	if w.counters.pending < 0 || w.counters.pendingBytes < 0 {
		return fmt.Errorf("%w: more records than the counters say", ErrCorrupt)
	}
	return w.records.Delete(key)
}

// remove deletes the file while it is still locked, so that nobody adopts it in
// between, and closes it.
func (f *file) remove() error {
	var err error
	if !f.volatile {
		err = os.Remove(f.path)
		_ = os.Remove(f.path + compactingSuffix) // of a process that died at it
	}
	return errors.Join(err, f.close())
}

func (f *file) close() (err error) {
	defer guard(&err)()
	return f.db.Close()
}

// discard gives up a database that err was met in. A mapping that leaks keeps what its file takes of a disk, which may be full:
// it stays only where bbolt has met damage.
func (f *file) discard(err error) {
	if f.db == nil || errors.Is(err, ErrCorrupt) {
		f.abandon()
	} else {
		_ = f.close()
	}
}

// abandon gives the lock back without bbolt's help: after a panic its own locks
// may be held for ever.
func (f *file) abandon() {
	if f.os != nil {
		// Closing is not enough: a mapping that leaks keeps the lock.
		_ = syscall.Flock(int(f.os.Fd()), syscall.LOCK_UN)
		_ = f.os.Close() // the second close of a file that bbolt closed itself does no harm
	}
}

// setAside renames the file so that nobody opens it as a spool again.
func (f *file) setAside() (string, error) {
	if f.volatile {
		return f.path, errors.New("it was in memory, and is lost")
	}
	for n := 0; ; n++ {
		path := f.path + damagedSuffix
		if n > 0 {
			path = fmt.Sprintf("%s%d", path, n)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.Rename(f.path, path); err != nil {
			return f.path, err
		}
		return path, syncDir(filepath.Dir(path))
	}
}

// makeDir creates dir where it does not exist.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil // what is wrong with it is found when a file is opened
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(dir)))
}

// syncDir makes the names in dir durable: without it a new file may be gone
// after loss of power, with everything that was acknowledged in it.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) {
		err = nil // the file system does not sync directories
	}
	return errors.Join(err, d.Close())
}
