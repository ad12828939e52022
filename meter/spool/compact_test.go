package spool

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestARejectedRecordDoesNotKeepTheSizeOfItsFile rejects one record in a hundred of some megabytes, and looks at what files
// take when the others are gone: those of this process, and one that a process left which did not live to compact it.
func TestARejectedRecordDoesNotKeepTheSizeOfItsFile(t *testing.T) {
	const records = 30_000
	reject := func(t *testing.T, s *Spool) {
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
		reject(t, s)
		check(t, s, dir)
	})
	t.Run("adopted", func(t *testing.T) {
		dir := t.TempDir()
		s := openSpool(t, dir, Options{SegmentBytes: 1 << 30})
		reject(t, s)
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
