package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// View is a look into one spool file from outside of the process that uses it.
// It changes nothing in the file. The file of a living process is copied without
// its lock; one that nobody uses is read where it is, and cannot be adopted until
// Close. A View is for one goroutine.
type View struct {
	Path    string
	Size    int64     // of the file
	PID     int       // of the process that created the file, by its name; 0: not known
	Started time.Time // when that process began, by the file's name
	InUse   bool      // a living process has the file locked
	Damaged bool      // the file was set aside as damaged before
	Foreign bool      // the file is of another format
	// Moving means that the process wrote to the file all the time it was copied:
	// pending records may be missing in the view, or be unreadable. The counts
	// below are right.
	Moving bool

	Pending       int64
	PendingBytes  int64
	Rejected      int64
	RejectedBytes int64

	file   file
	broken bool // bbolt met damage: do not touch the database again
}

// Files returns the paths of the spool files in dir, those that were set aside
// as damaged included, in the order of their names.
func Files(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for spool files: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if name := e.Name(); !e.IsDir() && (strings.HasSuffix(name, suffix) || IsDamaged(name)) {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths, nil
}

// IsDamaged reports whether a file is called as those that were set aside are.
func IsDamaged(path string) bool {
	_, number, ok := strings.Cut(filepath.Base(path), suffix+damagedSuffix)
	_, err := strconv.Atoi("0" + number)
	return ok && err == nil
}

// Look opens a view of the spool file at path. A damaged file is [ErrCorrupt]:
// the view then tells what its name and size do, and must be closed all the same.
func Look(path string) (v *View, err error) {
	v = &View{Path: path, Damaged: IsDamaged(path), file: file{path: path}}
	if parts := strings.SplitN(filepath.Base(path), "-", 3); len(parts) == 3 {
		if ms, err := strconv.ParseInt(parts[0], 10, 64); err == nil {
			v.Started = time.UnixMilli(ms)
		}
		v.PID, _ = strconv.Atoi(parts[1])
	}
	info, err := os.Stat(path)
	if err != nil {
		return v, fmt.Errorf("look at spool file: %w", err)
	}
	v.Size = info.Size()
	if err := v.open(v.copy); err != nil {
		v.broken, v.Foreign = errors.Is(err, ErrCorrupt), errors.Is(err, ErrFormat)
		return v, fmt.Errorf("look at spool file %q: %w", path, err)
	}
	c := v.file.counters
	v.Pending, v.PendingBytes, v.Rejected, v.RejectedBytes = c.pending, c.pendingBytes, c.rejected, c.rejectedSize
	return v, nil
}

// Check returns what is wrong with the file at path as a whole, [ErrFormat] or
// [ErrCorrupt], without reading its records. Of a file that a living process uses
// it knows nothing wrong.
func Check(path string) error {
	v := &View{Path: path, file: file{path: path}}
	err := v.open(func(string) (*os.File, error) { return nil, ErrLocked })
	v.broken = errors.Is(err, ErrCorrupt)
	_ = v.Close() // it was only read
	if err == nil || errors.Is(err, ErrLocked) {
		return nil
	}
	return fmt.Errorf("look at spool file %q: %w", path, err)
}

// open opens the file, or what inUse returns where a living process uses it.
func (v *View) open(inUse func(path string) (*os.File, error)) (err error) {
	defer guard(&err)()
	err = v.openBolt(func(name string, _ int, mode os.FileMode) (*os.File, error) {
		return os.OpenFile(name, os.O_RDONLY, mode)
	})
	if errors.Is(err, berrors.ErrTimeout) {
		v.InUse = true
		err = v.openBolt(func(name string, _ int, _ os.FileMode) (*os.File, error) { return inUse(name) })
	}
	switch {
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case err != nil && tooSmall(v.Path):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case err != nil:
		return err
	}
	info, err := v.file.os.Stat()
	if err != nil {
		return err
	}
	return v.file.load(info.Size())
}

func (v *View) openBolt(open func(string, int, os.FileMode) (*os.File, error)) (err error) {
	v.file.db, err = bolt.Open(v.Path, 0, &bolt.Options{
		ReadOnly: true, Timeout: lockTimeout, NoStatistics: true,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			v.file.os, err = open(name, flag, mode)
			return v.file.os, err
		},
	})
	return err
}

// Close gives the file back.
func (v *View) Close() error {
	defer v.file.abandon()
	if v.file.db == nil || v.broken {
		return nil
	}
	return v.file.close()
}

const (
	// copyAttempts is how often a file is copied that changes meanwhile.
	copyAttempts = 5
	// headAttempts is the same for its first page and its root.
	headAttempts = 1000
)

// copy returns a copy of the file at path, which a living process writes to, in
// a file without a name.
//
// A transaction writes its data to pages that the one before it does not use, and
// then one of the two meta pages. What is read between two equal readings of
// those is therefore one state of the file. A process that never pauses leaves
// time for the root page, which holds the counters, but not for a whole file.
func (v *View) copy(path string) (_ *os.File, err error) {
	from, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer from.Close() //nolint:errcheck // it was only read
	to, err := os.CreateTemp("", "kafka-metering-spool-*")
	if err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	defer func() {
		if err != nil {
			_ = to.Close()
		}
	}()
	if err := os.Remove(to.Name()); err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	for range copyAttempts {
		if _, err := to.Seek(0, io.SeekStart); err != nil {
			return nil, fmt.Errorf("copy: %w", err)
		}
		head, err := readHead(from)
		if err != nil {
			return nil, err
		}
		if _, err := io.Copy(to, io.NewSectionReader(from, 0, 1<<62)); err != nil {
			return nil, fmt.Errorf("copy: %w", err)
		}
		if _, err := to.WriteAt(head.root, head.rootAt); err != nil {
			return nil, fmt.Errorf("copy: %w", err)
		}
		if _, err := to.WriteAt(head.metas, 0); err != nil {
			return nil, fmt.Errorf("copy: %w", err)
		}
		after, err := readMetas(from, len(head.metas)/2)
		if err != nil {
			return nil, err
		}
		if v.Moving = !bytes.Equal(head.metas, after); !v.Moving {
			break
		}
	}
	return to, nil
}

// head is the beginning of a bbolt file: two meta pages, and the root page that
// the newer one names.
type head struct {
	metas  []byte
	root   []byte
	rootAt int64
}

// Offsets in a bbolt meta page: the page's header has 16 bytes; then come magic,
// version, page size and flags, 4 bytes each, the root's page number and sequence,
// the pages of the free list and the high-water mark, and the transaction's number,
// 8 bytes each; all in the byte order of the machine.
const (
	metaPageSize = 16 + 8
	metaRoot     = 16 + 16
	metaTx       = 16 + 16 + 32
)

func readHead(f io.ReaderAt) (head, error) {
	pageSize := defaultPageSize
	for range headAttempts {
		metas, err := readMetas(f, pageSize)
		if err != nil {
			return head{}, err
		}
		if size := int(binary.NativeEndian.Uint32(metas[metaPageSize:])); size != pageSize {
			if size < 1024 || size > 1<<16 {
				return head{}, fmt.Errorf("%w: page size %d", ErrCorrupt, size)
			}
			pageSize = size
			continue
		}
		newer, other := metas[:pageSize], metas[pageSize:]
		if binary.NativeEndian.Uint64(other[metaTx:]) > binary.NativeEndian.Uint64(newer[metaTx:]) {
			newer = other
		}
		h := head{metas: metas, root: make([]byte, pageSize), rootAt: int64(binary.NativeEndian.Uint64(newer[metaRoot:])) * int64(pageSize)}
		if _, err := f.ReadAt(h.root, h.rootAt); err != nil {
			return head{}, fmt.Errorf("%w: read the root page: %w", ErrCorrupt, err)
		}
		again, err := readMetas(f, pageSize)
		if err != nil {
			return head{}, err
		}
		if bytes.Equal(metas, again) {
			return h, nil
		}
	}
	return head{}, errors.New("its process writes faster than it can be read: try again")
}

func readMetas(f io.ReaderAt, pageSize int) ([]byte, error) {
	metas := make([]byte, 2*pageSize)
	if _, err := f.ReadAt(metas, 0); err != nil {
		return nil, fmt.Errorf("%w: read the meta pages: %w", ErrCorrupt, err)
	}
	return metas, nil
}

const (
	viewRecords = 1000
	viewBytes   = 4 << 20
)

// Entries yields the pending records in their order; a damaged one has its Err.
// The last pair may be an error alone: not all could be read.
func (v *View) Entries() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if v.bare() {
			return
		}
		for after := uint64(0); ; {
			entries, err := v.file.peek(nil, after, nil, viewRecords, viewBytes)
			for _, e := range entries {
				after = e.Pos.seq
				if !yield(e, nil) {
					return
				}
			}
			if err != nil {
				v.broken = true
				if !v.InUse && !v.intact(after, yield) {
					return
				}
				yield(Entry{}, fmt.Errorf("read spool file %q: %w", v.Path, err))
				return
			}
			if len(entries) == 0 {
				return
			}
		}
	}
}

// intact yields what is intact behind the damage, as [Spool.Adopt] finds it.
func (v *View) intact(after uint64, yield func(Entry, error) bool) (more bool) {
	more = true
	eachIntact(v.Path, func(seq uint64, at time.Time, record []byte) bool {
		if seq > after {
			more = yield(Entry{Pos: Pos{seq: seq}, Time: at, Record: slices.Clone(record)}, nil)
		}
		return more
	})
	return more
}

// RejectedRecords yields the rejected records in their order, with the error of
// reading one, if any: then its bytes are not to be used. The last pair may be an
// error with nothing else: what comes after it cannot be read.
func (v *View) RejectedRecords() iter.Seq2[Rejected, error] {
	return func(yield func(Rejected, error) bool) {
		if v.bare() {
			return
		}
		type result struct {
			Rejected
			err error
		}
		for after := uint64(0); ; {
			var found []result
			err := v.file.view(func(tx *bolt.Tx, _ *bolt.Bucket) error {
				b := tx.Bucket(rejectedBucket)
				if b == nil {
					return fmt.Errorf("%w: bucket %q is missing", ErrCorrupt, rejectedBucket)
				}
				c, last := b.Cursor(), after
				for key, value := c.Seek(appendKey(nil, after+1)); key != nil && len(found) < viewRecords; key, value = c.Next() {
					if len(key) != 8 || binary.BigEndian.Uint64(key) <= last {
						return fmt.Errorf("%w: keys of rejected records are out of order", ErrCorrupt)
					}
					last = binary.BigEndian.Uint64(key)
					reason, record, at, err := parseRejected(key, value)
					if err != nil {
						err = fmt.Errorf("%w: rejected record %d in %q: %w", ErrCorrupt, last, v.Path, err)
					}
					found = append(found, result{Rejected{v.Path, at, reason, slices.Clone(record)}, err})
				}
				after = last
				return nil
			})
			for _, r := range found {
				if !yield(r.Rejected, r.err) {
					return
				}
			}
			if err != nil {
				v.broken = true
				yield(Rejected{File: v.Path}, fmt.Errorf("read rejected records of %q: %w", v.Path, err))
				return
			}
			if len(found) == 0 {
				return
			}
		}
	}
}

// bare reports whether the process of the file died before its first transaction.
func (v *View) bare() bool { return v.file.counters == counters{next: 1} && v.file.size == 0 }

// Oldest returns when the oldest pending record was appended, and false when
// none is pending.
func (v *View) Oldest() (time.Time, bool) {
	if v.Pending == 0 {
		return time.Time{}, false
	}
	entries, err := v.file.peek(nil, 0, nil, 1, 0)
	if err != nil || len(entries) == 0 || entries[0].Time.IsZero() {
		return time.Time{}, false
	}
	return entries[0].Time, true
}

// Verify reads every record and compares them with their checksums, and their
// number and size with the file's counters. The error joins all that is wrong. step
// is called for each record. A view that is Moving cannot be verified.
func (v *View) Verify(step func()) error {
	if v.Moving {
		return fmt.Errorf("verify spool file %q: its process writes to it all the time: try again when it is quiet", v.Path)
	}
	var errs []error
	whole := true
	var pending, pendingBytes, rejected, rejectedBytes int64
	for e, err := range v.Entries() {
		if err != nil {
			errs, whole = append(errs, err), false
			break
		}
		if e.Err != nil {
			errs = append(errs, e.Err)
		}
		pending++
		pendingBytes += int64(len(e.Record))
		step()
	}
	for r, err := range v.RejectedRecords() {
		if err != nil {
			errs = append(errs, err)
			if r.Time.IsZero() {
				whole = false
				break
			}
		}
		rejected++
		rejectedBytes += int64(len(r.Record))
		step()
	}
	if whole && (pending != v.Pending || rejected != v.Rejected) {
		errs = append(errs, fmt.Errorf("%w: %q holds %d pending and %d rejected records, and counts %d and %d", ErrCorrupt, v.Path, pending, rejected, v.Pending, v.Rejected))
	} else if len(errs) == 0 && (pendingBytes != v.PendingBytes || rejectedBytes != v.RejectedBytes) {
		errs = append(errs, fmt.Errorf("%w: %q holds %d and %d bytes of records, and counts %d and %d", ErrCorrupt, v.Path, pendingBytes, rejectedBytes, v.PendingBytes, v.RejectedBytes))
	}
	return errors.Join(errs...)
}
