package spool

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// look opens a view of the only file in dir.
func look(t testing.TB, dir string) *View {
	t.Helper()
	paths, err := Files(dir)
	if err != nil || len(paths) != 1 {
		t.Fatal(paths, err)
	}
	v, err := Look(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// viewed returns the numbers of the pending records of a view.
func viewed(t testing.TB, v *View) (numbers []int) {
	t.Helper()
	for e, err := range v.Entries() {
		if err != nil || e.Err != nil {
			t.Fatal(err, e.Err)
		}
		numbers = append(numbers, numberOf(t, e.Record))
	}
	return numbers
}

// rejectFirst rejects the oldest n records.
func rejectFirst(t testing.TB, s *Spool, n int, reason string) {
	t.Helper()
	for left := n; left > 0; {
		entries, err := s.Peek(nil, left, 1<<20)
		if err != nil || len(entries) == 0 {
			t.Fatal(entries, err)
		}
		var rejects []Reject
		for _, e := range entries {
			rejects = append(rejects, Reject{e.Pos, reason})
		}
		if err := s.Ack(entries[len(entries)-1].Pos, rejects...); err != nil {
			t.Fatal(err)
		}
		left -= len(entries)
	}
}

func TestAViewTellsWhatADeadProcessLeftAndChangesNothing(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Options{})
	appendNumbers(t, s, 0, 3500)
	rejectFirst(t, s, 1200, "too large")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	paths, _ := Files(dir)
	before, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	v := look(t, dir)
	if v.InUse || v.Moving || v.Damaged || v.PID != os.Getpid() || time.Since(v.Started) > time.Minute || v.Size != int64(len(before)) {
		t.Errorf("%+v", v)
	}
	if v.Pending != 2300 || v.PendingBytes != 2300*300 || v.Rejected != 1200 || v.RejectedBytes != 1200*300 {
		t.Errorf("%+v", v)
	}
	if at, ok := v.Oldest(); !ok || time.Since(at) > time.Minute {
		t.Error(at, ok)
	}
	checkNumbers(t, viewed(t, v), 1200, 3500)
	rejected := 0
	for r, err := range v.RejectedRecords() {
		if err != nil || r.Reason != "too large" || numberOf(t, r.Record) != rejected || r.File != paths[0] {
			t.Fatal(rejected, r, err)
		}
		rejected++
	}
	steps := 0
	if err := v.Verify(func() { steps++ }); err != nil || steps != 3500 || rejected != 1200 {
		t.Error(err, steps, rejected)
	}
	next := openSpool(t, dir, Options{})
	if n, err := next.Adopt(); n != 0 || err != nil {
		t.Errorf("adopted %d records under a view: %v", n, err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(paths[0]); err != nil || !bytes.Equal(before, after) {
		t.Error("the file is another one", err)
	}
	if n, err := next.Adopt(); n != 2300 || err != nil {
		t.Errorf("adopted %d records after the view: %v", n, err)
	}
}

func TestAViewOfALivingProcessIsOfACopy(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Options{})
	appendNumbers(t, s, 0, 2000)
	rejectFirst(t, s, 10, "no")
	v := look(t, dir)
	if !v.InUse || v.Moving || v.Pending != 1990 || v.Rejected != 10 {
		t.Errorf("%+v", v)
	}
	appendNumbers(t, s, 2000, 2100)
	checkNumbers(t, viewed(t, v), 10, 2000)
	if err := v.Verify(func() {}); err != nil {
		t.Error(err)
	}
	if got, _ := drain(t, s); len(got) != 2090 {
		t.Errorf("the process has %d records", len(got))
	}
}

// TestAViewOfABusyFileHasItsCounts looks at a file while its process writes to it without a pause.
func TestAViewOfABusyFileHasItsCounts(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Options{})
	appendNumbers(t, s, 0, 1000)
	rejectFirst(t, s, 20, "no")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for n := 1000; ; n++ {
				select {
				case <-stop:
					return
				default:
					if err := s.Append(t.Context(), number(n)); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	s.mu.Lock()
	path := s.active.path
	s.mu.Unlock()
	for range 30 {
		before := s.Stats().Pending
		v, err := Look(path)
		if err != nil {
			t.Fatal(err)
		}
		after := s.Stats().Pending
		if !v.InUse || v.Pending < before || v.Pending > after+2 || v.Rejected != 20 {
			t.Fatalf("pending %d before, %d after: %+v", before, after, v)
		}
		if rejected := countRejected(t, v); rejected != 20 {
			t.Fatalf("%d rejected records", rejected)
		}
		if err := v.Verify(func() {}); (err != nil) != v.Moving {
			t.Fatalf("moving %v: %v", v.Moving, err)
		}
		v.Close()
	}
	close(stop)
	wg.Wait()
}

func countRejected(t testing.TB, v *View) (n int) {
	t.Helper()
	for _, err := range v.RejectedRecords() {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// TestVerifyFindsEveryFlipThatMatters flips bits all over a file: what is said to be right is right.
func TestVerifyFindsEveryFlipThatMatters(t *testing.T) {
	t.Parallel()
	const n = 60
	data := image(t, n)
	path := filepath.Join(t.TempDir(), "0000000000001-1-000001"+suffix)
	found := 0
	for at := 0; at < len(data); at += 100 {
		flipped := bytes.Clone(data)
		flipped[at] ^= 1 << (at % 8)
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := Look(path)
		if err == nil {
			err = v.Verify(func() {})
		}
		if err != nil {
			found++
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrFormat) {
				t.Fatalf("flip at %d: %v", at, err)
			}
		} else {
			numbers := viewed(t, v)
			checkNumbers(t, numbers, 0, len(numbers)) // a transaction may be undone: see the package's documentation
			if len(numbers) != n && at >= 2*4096 {
				t.Fatalf("flip at %d: %d records", at, len(numbers))
			}
		}
		v.Close()
	}
	if found < n*300/100/2 {
		t.Errorf("%d flips were found", found)
	}
}

func TestVerifyNoticesRecordsThatAreMissing(t *testing.T) {
	for _, bucket := range [][]byte{recordsBucket, rejectedBucket} {
		dir := t.TempDir()
		s := openSpool(t, dir, Options{})
		appendNumbers(t, s, 0, 20)
		rejectFirst(t, s, 5, "no")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		paths, err := Files(dir)
		if err != nil {
			t.Fatal(err)
		}
		db, err := bolt.Open(paths[0], 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error {
			key, _ := tx.Bucket(bucket).Cursor().Last()
			return tx.Bucket(bucket).Delete(key)
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if err := look(t, dir).Verify(func() {}); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "counts 15 and 5") {
			t.Errorf("%s: %v", bucket, err)
		}
	}
}

func TestAFileThatIsCutOffIsDamaged(t *testing.T) {
	data := image(t, 20)
	path := filepath.Join(t.TempDir(), "0000000000001-77-000001"+suffix+damagedSuffix+"1")
	for _, size := range []int{0, 100, 4096, 8192, len(data) / 2} {
		if err := os.WriteFile(path, data[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := Look(path)
		if err == nil {
			err = v.Verify(func() {})
		}
		if !errors.Is(err, ErrCorrupt) || !v.Damaged || v.PID != 77 || v.Size != int64(size) {
			t.Errorf("%d bytes: %v, %+v", size, err, v)
		}
		v.Close()
	}
}

func TestFilesAreThoseOfSpools(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"2-1-000001.spool", "1-1-000001.spool", "1-1-000001.spool.damaged", "1-1-000001.spool.damaged2", "notes.txt", "x.spool.damaged.txt", ".ready-1"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "dir.spool"), 0o700); err != nil {
		t.Fatal(err)
	}
	paths, err := Files(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range paths {
		paths[i] = filepath.Base(paths[i])
	}
	if want := []string{"1-1-000001.spool", "1-1-000001.spool.damaged", "1-1-000001.spool.damaged2", "2-1-000001.spool"}; !slices.Equal(paths, want) {
		t.Error(paths)
	}
	if _, err := Files(filepath.Join(dir, "missing")); err == nil {
		t.Error("a directory that is not there has files")
	}
}

func TestRequeuedRecordsAreInOnePlaceWhateverHappens(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Options{})
	appendNumbers(t, s, 0, 2500)
	rejectFirst(t, s, 2200, "too large")
	moved, err := s.Requeue(func(r Rejected) bool { return numberOf(t, r.Record)%2 == 0 && r.Reason == "too large" })
	if err != nil || moved != 1100 {
		t.Fatal(moved, err)
	}
	checkBalance(t, s)
	if st := s.Stats(); st.Pending != 1400 || st.RejectedHeld != 1100 || st.RejectedBytes != 1100*300 {
		t.Errorf("%+v", st)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	v := look(t, dir)
	if err := v.Verify(func() {}); err != nil {
		t.Error(err)
	}
	v.Close()
	next := openSpool(t, dir, Options{})
	if _, err := next.Adopt(); err != nil {
		t.Fatal(err)
	}
	moved, err = next.Requeue(func(Rejected) bool { return true })
	if err != nil || moved != 1100 {
		t.Fatal(moved, err)
	}
	numbers, _ := drain(t, next)
	slices.Sort(numbers)
	checkNumbers(t, numbers, 0, 2500)
	checkBalance(t, next)
	if st := next.Stats(); st.RejectedHeld != 0 || st.RejectedBytes != 0 {
		t.Errorf("%+v", st)
	}
}

func TestADamagedRecordIsNotRequeued(t *testing.T) {
	s := openSpool(t, t.TempDir(), Options{})
	appendNumbers(t, s, 0, 2)
	rejectFirst(t, s, 1, ErrCorrupt.Error()+": record 1: checksum does not match")
	rejectFirst(t, s, 1, "too large")
	moved, err := s.Requeue(func(Rejected) bool { return true })
	if err != nil || moved != 1 {
		t.Error(moved, err)
	}
	for r, err := range s.Rejected() {
		if err != nil || !strings.HasPrefix(r.Reason, ErrCorrupt.Error()) {
			t.Error(r, err)
		}
	}
}
