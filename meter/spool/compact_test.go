package spool

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// rejectHundredths appends records, and rejects one in a hundred.
func rejectHundredths(t *testing.T, s *Spool, records int) {
	t.Helper()
	for n := 0; n < records; n += 1000 {
		appendNumbers(t, s, n, n+1000)
	}
	for n := 0; n < records; {
		entries, err := s.Peek(nil, 1000, 1<<20)
		if err != nil || len(entries) == 0 {
			t.Fatal(n, err)
		}
		var rejects []Reject
		for _, e := range entries {
			if numberOf(t, e.Record)%100 == 0 {
				rejects = append(rejects, Reject{e.Pos, "too large"})
			}
		}
		if err := s.Ack(entries[len(entries)-1].Pos, rejects...); err != nil {
			t.Fatal(err)
		}
		n += len(entries)
	}
}

// TestARejectedRecordDoesNotKeepTheSizeOfItsFile rejects one record in a hundred of some megabytes, and looks at what files
// take when the others are gone: those of this process, and one that a process left which did not live to compact it.
func TestARejectedRecordDoesNotKeepTheSizeOfItsFile(t *testing.T) {
	const records = 30_000
	check := func(t *testing.T, s *Spool, dir string) {
		for limit := time.Now().Add(10 * time.Second); diskBytes(t, dir) > 3<<20; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("the files take %d bytes", diskBytes(t, dir))
			}
		}
		var kept []int
		for r, err := range s.Rejected() {
			if err != nil || r.Reason != "too large" {
				t.Fatal(r.Reason, err)
			}
			kept = append(kept, numberOf(t, r.Record))
		}
		if !slices.IsSorted(kept) || len(kept) != records/100 || kept[len(kept)-1] != records-100 {
			t.Errorf("%d rejected records are kept: %v", len(kept), kept)
		}
		if moved, err := s.Requeue(func(Rejected) bool { return true }); err != nil || moved != records/100 {
			t.Errorf("%d are requeued, %v", moved, err)
		}
		if got, _ := drain(t, s); len(got) != records/100 {
			t.Errorf("%d of them come again", len(got))
		}
		checkBalance(t, s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if files, err := Files(dir); err != nil || len(files) > 0 {
			t.Error("drained files stay:", files, err)
		}
	}
	t.Run("its own", func(t *testing.T) {
		dir := t.TempDir()
		s := openSpool(t, dir, Options{SegmentBytes: 2 << 20})
		rejectHundredths(t, s, records)
		check(t, s, dir)
	})
	t.Run("adopted", func(t *testing.T) {
		dir := t.TempDir()
		s := openSpool(t, dir, Options{SegmentBytes: 1 << 30})
		rejectHundredths(t, s, records)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		files, err := Files(dir)
		if n := diskBytes(t, dir); err != nil || len(files) != 1 || n < 8<<20 {
			t.Fatalf("%v take %d bytes, %v: the test shows nothing", files, n, err)
		}
		leftover := files[0] + compactingSuffix // of a process that was killed at it
		if err := os.WriteFile(leftover, []byte("half written"), 0o600); err != nil {
			t.Fatal(err)
		}
		next := openSpool(t, dir, Options{})
		if _, err := next.Adopt(); err != nil {
			t.Fatal(err)
		}
		check(t, next, dir)
		if _, err := os.Stat(leftover); !errors.Is(err, fs.ErrNotExist) {
			t.Error("what is half written stays:", err)
		}
	})
}

// TestADamagedFileIsNotCompacted hides rejected records behind a page whose count is wrong: the file that has them must stay.
func TestADamagedFileIsNotCompacted(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Options{SegmentBytes: 1 << 30})
	rejectHundredths(t, s, 30_000)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := Files(dir)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	db, err := bolt.Open(files[0], 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	var at int64
	if err := db.View(func(tx *bolt.Tx) error {
		at = int64(tx.Bucket(rejectedBucket).Root()) * int64(db.Info().PageSize)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	binary.NativeEndian.PutUint16(page[at+10:], 1) // how many branches the page has
	if err := os.WriteFile(files[0], page, 0o600); err != nil {
		t.Fatal(err)
	}
	next := openSpool(t, dir, Options{})
	if _, err := next.Adopt(); err != nil {
		t.Log(err)
	}
	for limit := time.Now().Add(10 * time.Second); next.Stats().LastError == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("nobody has noticed")
		}
	}
	if info, err := os.Stat(files[0]); err != nil || info.Size() != int64(len(page)) {
		t.Errorf("the file that has them is gone: %v", err)
	}
}

// TestWhatADeadCompactionLeftGoesWithItsFile has a file that is drained before it is compacted.
func TestWhatADeadCompactionLeftGoesWithItsFile(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Options{})
	appendNumbers(t, s, 0, 10)
	rejectFirst(t, s, 5, "no")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := Files(dir)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0]+compactingSuffix, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	next := openSpool(t, dir, Options{})
	if _, err := next.Adopt(); err != nil {
		t.Fatal(err)
	}
	if _, err := next.Requeue(func(Rejected) bool { return true }); err != nil {
		t.Fatal(err)
	}
	drain(t, next)
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Error("left:", left, err)
	}
}

// TestCompactingGoesUnnoticed looks at a file from everywhere while it is compacted.
func TestCompactingGoesUnnoticed(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds under the race detector; .ci/run runs it without")
	}
	for range 4 {
		dir := t.TempDir()
		s := openSpool(t, dir, Options{SegmentBytes: 1 << 30})
		rejectHundredths(t, s, 12_000)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		next, other := openSpool(t, dir, Options{}), openSpool(t, dir, Options{})
		stop := make(chan struct{})
		var wg sync.WaitGroup
		each := func(fn func()) {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						fn()
					}
				}
			})
		}
		each(func() { _, _ = other.Adopt() })
		each(func() {
			n := 0
			for _, err := range next.Rejected() {
				if err != nil {
					t.Error(err)
				}
				n++
			}
			if n > 120 {
				t.Error(n, "rejected")
			}
		})
		each(func() {
			paths, _ := Files(dir)
			for _, p := range paths {
				v, err := Look(p)
				if err == nil && !v.Moving {
					err = v.Verify(func() {})
				}
				if errors.Is(err, ErrCorrupt) {
					t.Error(err)
				}
				_ = v.Close()
			}
		})
		each(func() { next.Oldest(); next.Stats() })
		for next.Stats().RejectedHeld == 0 && other.Stats().RejectedHeld == 0 {
			_, _ = next.Adopt()
			time.Sleep(time.Millisecond)
		}
		time.Sleep(150 * time.Millisecond)
		owner := next
		if other.Stats().RejectedHeld > 0 {
			owner = other
		}
		moved, err := owner.Requeue(func(Rejected) bool { return true })
		close(stop)
		wg.Wait()
		if moved != 120 || err != nil {
			t.Error(moved, err)
		}
		if got, _ := drain(t, owner); len(got) != 120 {
			t.Error(len(got))
		}
	}
}

// diskBytes returns what the files of a directory take on disk: they are sparse.
func diskBytes(t *testing.T, dir string) (n int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // renamed meanwhile
		}
		if err != nil {
			t.Fatal(err)
		}
		n += info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	return n
}
