package spool

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// childDir makes the test binary a process that appends numbers to the spool in this directory, for ever, and prints each
// that is durable.
const childDir = "KAFKA_METERING_TEST_SPOOL"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		appendForEver(dir)
	}
	os.Exit(m.Run())
}

func appendForEver(dir string) {
	s, err := Open(dir, Options{SegmentBytes: 1 << 20})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for n := 0; ; n++ {
		done := make(chan error, 1)
		if err := s.Enqueue([][]byte{number(n)}, func(err error) { done <- err }); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		wg.Go(func() {
			if <-done == nil {
				fmt.Println(n)
			}
		})
		if n%50 == 49 {
			wg.Wait()
		}
	}
}

// number is the record of number n: 300 bytes.
func number(n int) []byte { return fmt.Appendf(nil, "%-300d", n) }

func numberOf(t testing.TB, record []byte) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(string(record)))
	if err != nil || len(record) != 300 {
		t.Fatalf("garbage: %q", record)
	}
	return n
}

func openSpool(t testing.TB, dir string, opts Options) *Spool {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func appendNumbers(t testing.TB, s *Spool, from, to int) {
	t.Helper()
	records := make([][]byte, 0, to-from)
	for n := from; n < to; n++ {
		records = append(records, number(n))
	}
	if err := s.Append(t.Context(), records...); err != nil {
		t.Fatal(err)
	}
}

// drain reads and acknowledges everything, some records at a time, rejecting what is damaged, and returns the numbers.
func drain(t testing.TB, s *Spool) (numbers []int, damaged int) {
	t.Helper()
	for {
		entries, err := s.Peek(nil, 7, 1<<20)
		if errors.Is(err, ErrCorrupt) {
			continue // that file was set aside; the next one has its turn
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			return numbers, damaged
		}
		var rejects []Reject
		for _, e := range entries {
			if e.Err != nil {
				damaged++
				rejects = append(rejects, Reject{e.Pos, e.Err.Error()})
				continue
			}
			numbers = append(numbers, numberOf(t, e.Record))
		}
		if err := s.Ack(entries[len(entries)-1].Pos, rejects...); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	}
}

// checkBalance checks that every record is in one place.
func checkBalance(t testing.TB, s *Spool) {
	t.Helper()
	st := s.Stats()
	if in, out := st.Adopted+st.Appended, st.Acked+st.Rejected+st.Evicted+st.SetAside+st.Pending; in != out {
		t.Errorf("%d records came in, %d have a place: %+v", in, out, st)
	}
}

func checkNumbers(t testing.TB, got []int, from, to int) {
	t.Helper()
	if len(got) != to-from {
		t.Fatalf("%d records, want %d", len(got), to-from)
	}
	for i, n := range got {
		if n != from+i {
			t.Fatalf("record %d is number %d, want %d", i, n, from+i)
		}
	}
}

func TestRecordsComeBackInOrderUntilTheyAreAcknowledged(t *testing.T) {
	s := openSpool(t, t.TempDir(), Options{SegmentBytes: 64 << 10}) // several files
	for n := 0; n < 1000; n += 50 {
		appendNumbers(t, s, n, n+50)
	}
	if s.Stats().Files < 3 {
		t.Errorf("%d files, want several", s.Stats().Files)
	}
	for range 2 {
		entries, err := s.Peek(nil, 10, 1<<20)
		if err != nil || len(entries) != 10 || numberOf(t, entries[0].Record) != 0 {
			t.Fatal(len(entries), err)
		}
	}
	got, _ := drain(t, s)
	checkNumbers(t, got, 0, 1000)
	checkBalance(t, s)
	if st := s.Stats(); st.Pending != 0 || st.PendingBytes != 0 || st.Acked != 1000 {
		t.Errorf("%+v", st)
	}
}

func TestARejectedRecordIsKeptWithItsReason(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Options{})
	appendNumbers(t, s, 0, 3)
	entries, err := s.Peek(nil, 10, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ack(entries[2].Pos, Reject{entries[1].Pos, "too large"}); err != nil {
		t.Fatal(err)
	}
	checkBalance(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	next := openSpool(t, dir, Options{})
	if _, err := next.Adopt(); err != nil {
		t.Fatal(err)
	}
	kept := 0
	for r, err := range next.Rejected() {
		kept++
		if err != nil || r.Reason != "too large" || numberOf(t, r.Record) != 1 {
			t.Errorf("%+v %v", r, err)
		}
	}
	if kept != 1 || next.Stats().Pending != 0 {
		t.Errorf("%d rejected records are kept, %d pending", kept, next.Stats().Pending)
	}
}

// TestWhatIsDurableSurvivesAKill kills a writing process with -9, several times, and adopts what it left.
func TestWhatIsDurableSurvivesAKill(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Options{})
	for range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		durable := map[int]bool{}
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatal(lines.Text())
			}
			durable[n] = true
			if len(durable) == 500 {
				if _, err := s.Adopt(); err != nil || s.Stats().Pending != 0 {
					t.Errorf("a living process's file is adopted: %v, %+v", err, s.Stats())
				}
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
		if _, err := s.Adopt(); err != nil {
			t.Fatal(err)
		}
		got, damaged := drain(t, s)
		for i, n := range got {
			if n != i {
				t.Fatalf("record %d is number %d", i, n)
			}
			delete(durable, n)
		}
		if damaged > 0 || len(durable) > 0 {
			t.Errorf("%d damaged, %d durable records lost", damaged, len(durable))
		}
	}
	checkBalance(t, s)
}

// image is a spool file with records 0 to n-1 in it, of a process that is gone.
func image(t *testing.T, n int) []byte {
	t.Helper()
	dir := t.TempDir()
	s := openSpool(t, dir, Options{pageSize: 4096})
	for i := 0; i < n; i += 5 {
		appendNumbers(t, s, i, i+5)
	}
	path := s.active.path
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// bbolt lets files grow ahead of their use.
	used := len(bytes.TrimRight(data, "\x00"))
	return data[:(used+4095)/4096*4096]
}

// adoptImage adopts a file with these bytes and drains it.
func adoptImage(t *testing.T, data []byte) (numbers []int, damaged int, s *Spool) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "0000000000001-1-000001"+suffix), data, 0o600); err != nil {
		t.Fatal(err)
	}
	s = openSpool(t, dir, Options{})
	if _, err := s.Adopt(); err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrFormat) {
		t.Errorf("neither damage nor another format: %v", err)
	}
	numbers, damaged = drain(t, s)
	checkBalance(t, s)
	appendNumbers(t, s, 1_000_000, 1_000_001) // whatever it was, the spool goes on
	if got, _ := drain(t, s); len(got) != 1 {
		t.Errorf("the spool is stuck: %v", got)
	}
	return numbers, damaged, s
}

// TestATruncatedFileGivesWhatIsIntactOrIsSetAside cuts a file at every 512 bytes.
func TestATruncatedFileGivesWhatIsIntactOrIsSetAside(t *testing.T) {
	t.Parallel()
	const n = 60
	data := image(t, n)
	for size := 0; size < len(data); size += 512 {
		got, _, s := adoptImage(t, data[:size])
		last := -1
		for _, number := range got { // what is missing was in pages that are cut off, wherever bbolt had put them
			if number <= last || number >= n {
				t.Fatalf("cut at %d: number %d after %d", size, number, last)
			}
			last = number
		}
		left, err := filepath.Glob(filepath.Join(s.dir, "*"+damagedSuffix+"*"))
		if err != nil || len(got) < n && len(left) == 0 && size > 0 {
			t.Errorf("cut at %d: %d of %d records, and no file set aside: %v", size, len(got), n, err)
		}
		s.Close()
	}
}

// TestABitFlipIsNeverPassedOn flips a bit in every 512 bytes of a file, and everywhere in its first pages, which say where
// everything is. What is missing is told: it is rejected as damaged, or its file is set aside or of another format; and it is no more than
// the page holds that the flip is in, but for the roots. Only a flip
// in the newer meta page may undo the last transaction without a word.
func TestABitFlipIsNeverPassedOn(t *testing.T) {
	t.Parallel()
	const n, perPage = 60, 13
	data := image(t, n)
	roots := map[int]bool{} // pages without which more is out of reach than what they hold
	var offsets []int
	for at := 0; at < len(data); at += 512 {
		offsets = append(offsets, at, at+100, at+511)
	}
	for at := range 128 {
		offsets = append(offsets, at, 4096+at)
	}
	for _, at := range offsets {
		if at >= len(data) {
			continue
		}
		flipped := bytes.Clone(data)
		flipped[at] ^= 1 << (at % 8)
		got, damaged, s := adoptImage(t, flipped)
		last := -1
		for _, number := range got {
			if number <= last || number >= n {
				t.Fatalf("flip at %d: number %d after %d", at, number, last)
			}
			last = number
		}
		aside, err := filepath.Glob(filepath.Join(s.dir, "*"+damagedSuffix+"*"))
		if err != nil {
			t.Fatal(err)
		}
		told := len(got)+damaged == n || len(aside) > 0 || s.Stats().Unreadable > 0
		if at >= 8192 && len(got) < n-perPage {
			roots[at/4096] = true
		}
		if undone := at < 8192 && len(got) == n-5; !told && !undone {
			t.Errorf("flip at %d: %d of %d records, %d damaged, and nothing tells: %+v", at, len(got), n, damaged, s.Stats())
		}
		s.Close()
	}
	if len(roots) > 2 { // of the file and of its records
		t.Errorf("a flip in any of the pages %v loses more than that page", slices.Collect(maps.Keys(roots)))
	}
}

func TestAFileOfAnotherFormatIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0000000000001-1-000001"+suffix)
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		return meta.Put(formatKey, []byte("kafka-metering spool 9"))
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := openSpool(t, dir, Options{})
	for range 2 {
		if _, err := s.Adopt(); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "spool 9") || !strings.Contains(err.Error(), path) {
			t.Errorf("%v, want the format that it is", err)
		}
		if st := s.Stats(); st.Unreadable != 1 {
			t.Errorf("%+v", st)
		}
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Error("the file is not as it was", err)
	}
	if err := Check(path); !errors.Is(err, ErrFormat) {
		t.Errorf("Check says %v", err)
	}
	if err := Check(s.active.path); err != nil {
		t.Errorf("Check of a file in use says %v", err)
	}
	if err := os.Remove(path); err != nil { // the version that wrote it has published it
		t.Fatal(err)
	}
	if _, err := s.Adopt(); err != nil || s.Stats().Unreadable != 0 {
		t.Error(err, s.Stats())
	}
}

// TestAFileFromTheFutureIsAdopted is what a clock that was put back leaves.
func TestAFileFromTheFutureIsAdopted(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "9999999999999-1-000001"+suffix), image(t, 20), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openSpool(t, dir, Options{})
	appendNumbers(t, s, 100, 110)
	if n, err := s.Adopt(); n != 20 || err != nil {
		t.Error(n, err)
	}
	appendNumbers(t, s, 110, 120)
	got, _ := drain(t, s)
	checkNumbers(t, got[:20], 100, 120)
	checkNumbers(t, got[20:], 0, 20)
	checkBalance(t, s)
}

func TestAFullSpoolRefusesTheNewestOrEvictsTheOldest(t *testing.T) {
	t.Run("drop newest", func(t *testing.T) {
		s := openSpool(t, t.TempDir(), Options{MaxBytes: 3000})
		appendNumbers(t, s, 0, 10)
		if err := s.Append(t.Context(), number(10)); !errors.Is(err, ErrFull) {
			t.Errorf("%v, want %v", err, ErrFull)
		}
		got, _ := drain(t, s)
		checkNumbers(t, got, 0, 10)
		appendNumbers(t, s, 11, 21) // there is room again
		checkBalance(t, s)
		if st := s.Stats(); st.Refused != 1 || st.Pending != 10 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("drop oldest", func(t *testing.T) {
		s := openSpool(t, t.TempDir(), Options{MaxBytes: 6000, WhenFull: DropOldest})
		for n := range 50 {
			appendNumbers(t, s, n, n+1)
		}
		checkBalance(t, s)
		if st := s.Stats(); st.Evicted != 30 || st.Pending != 20 {
			t.Errorf("%+v", st)
		}
		got, _ := drain(t, s)
		checkNumbers(t, got, 30, 50)
	})
	for _, whenFull := range []WhenFull{DropNewest, DropOldest} {
		t.Run(fmt.Sprintf("what was rejected takes room, %d", whenFull), func(t *testing.T) {
			s := openSpool(t, t.TempDir(), Options{MaxBytes: 6000, WhenFull: whenFull})
			appendNumbers(t, s, 0, 18)
			entries, err := s.Peek(nil, 18, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			var rejects []Reject
			for _, e := range entries {
				rejects = append(rejects, Reject{e.Pos, "expired"})
			}
			if err := s.Ack(entries[17].Pos, rejects...); err != nil {
				t.Fatal(err)
			}
			appendNumbers(t, s, 18, 20)
			if whenFull == DropOldest {
				appendNumbers(t, s, 20, 22) // in place of the two
			}
			if err := s.Append(t.Context(), number(22), number(23), number(24)); !errors.Is(err, ErrFull) {
				t.Errorf("%v, want %v", err, ErrFull)
			}
			checkBalance(t, s)
			if st := s.Stats(); st.Rejected != 18 || st.Pending != 2 {
				t.Errorf("%+v", st)
			}
		})
	}
	t.Run("bounds that change", func(t *testing.T) {
		s := openSpool(t, t.TempDir(), Options{MaxBytes: 3000})
		appendNumbers(t, s, 0, 10)
		s.Limit(6000, DropNewest)
		appendNumbers(t, s, 10, 20)
		s.Limit(3000, DropOldest)
		appendNumbers(t, s, 20, 21)
		got, _ := drain(t, s)
		checkNumbers(t, got, 11, 21)
		checkBalance(t, s)
	})
	t.Run("a record larger than the bound", func(t *testing.T) {
		s := openSpool(t, t.TempDir(), Options{MaxBytes: 100})
		if err := s.Append(t.Context(), number(0)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v, want %v", err, ErrTooLarge)
		}
	})
}

func TestTenThousandGoroutinesHandOverAtOnce(t *testing.T) {
	s := openSpool(t, t.TempDir(), Options{SegmentBytes: 1 << 20})
	const n = 10_000
	var stored atomic.Int64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := s.Append(t.Context(), number(i)); err != nil {
				t.Error(err)
				return
			}
			stored.Add(1)
		})
	}
	wg.Wait()
	got, _ := drain(t, s)
	seen := map[int]bool{}
	for _, i := range got {
		seen[i] = true
	}
	if stored.Load() != n || len(got) != n || len(seen) != n {
		t.Errorf("%d stored, %d read, %d different", stored.Load(), len(got), len(seen))
	}
	checkBalance(t, s)
	if tx := s.Stats().Transactions; tx > n/2 {
		t.Errorf("%d transactions: they are not grouped", tx)
	}
}

func TestTwoSpoolsInOneDirectoryDoNotTouchEachOther(t *testing.T) {
	dir := t.TempDir()
	a, b := openSpool(t, dir, Options{}), openSpool(t, dir, Options{})
	appendNumbers(t, a, 0, 10)
	appendNumbers(t, b, 100, 110)
	for _, s := range []*Spool{a, b} {
		if n, err := s.Adopt(); n != 0 || err != nil {
			t.Error(n, err)
		}
	}
	got, _ := drain(t, a)
	checkNumbers(t, got, 0, 10)
	got, _ = drain(t, b)
	checkNumbers(t, got, 100, 110)
}

func TestAClosedSpoolRefuses(t *testing.T) {
	s := openSpool(t, t.TempDir(), Options{})
	appendNumbers(t, s, 0, 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), number(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("%v, want %v", err, ErrClosed)
	}
	if _, err := s.Peek(nil, 1, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("%v, want %v", err, ErrClosed)
	}
	if st := s.Stats(); st.Pending != 1 {
		t.Errorf("%+v", st)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestADirectoryThatCannotBeUsedIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v, want an error with the path", err)
	}
}

// FuzzValue reads what a disk may give back.
func FuzzValue(f *testing.F) {
	key := appendKey(nil, 7)
	f.Add(key, []byte{})
	f.Add(key, appendValue(nil, key, time.UnixMilli(1795428217000), []byte("record")))
	f.Add(key, rejectedValue(key, time.UnixMilli(1795428217000), "reason", []byte("record")))
	f.Add(key, counters{next: 3, pending: 2, pendingBytes: 9}.encode())
	f.Fuzz(func(t *testing.T, key, v []byte) {
		if record, at, err := parseValue(key, v); err == nil {
			if again := appendValue(nil, key, at, record); !bytes.Equal(again, v) {
				t.Errorf("%x is read as %x", v, again)
			}
		}
		if reason, record, _, err := parseRejected(key, v); err == nil && len(reason)+len(record) > len(v) {
			t.Error("more than there is")
		}
		if c, err := parseCounters(v); err == nil && !bytes.Equal(c.encode(), v) {
			t.Errorf("%x is read as %+v", v, c)
		}
	})
}

// TestAFileWithPagesOfAnotherSizeIsRead has one of a version before, whose pages were smaller, and one of larger ones.
func TestAFileWithPagesOfAnotherSizeIsRead(t *testing.T) {
	for _, size := range []int{4096, 16384} {
		dir := t.TempDir()
		before := openSpool(t, dir, Options{pageSize: size})
		for i := range 100 {
			if err := before.Append(t.Context(), bytes.Repeat([]byte{byte(i)}, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		left := killed(t, dir)
		paths, _ := filepath.Glob(filepath.Join(left, "*"+suffix))
		v, err := Look(paths[0])
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, err := range v.Entries() {
			if err != nil {
				t.Error(err)
			}
			seen++
		}
		if err := v.Close(); seen != 100 || err != nil {
			t.Errorf("pages of %d: %d are seen, %v", size, seen, err)
		}
		s := openSpool(t, left, Options{})
		if _, err := s.Adopt(); err != nil {
			t.Fatal(err)
		}
		got, err := s.Peek(nil, 1000, 1<<20)
		if err != nil || len(got) != 100 || got[99].Record[0] != 99 {
			t.Errorf("pages of %d: %d records, %v", size, len(got), err)
		}
	}
}
