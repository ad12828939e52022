package spool

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"kafka-metering/meter/spool/disktest"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

// numbers is a journal that writes the numbers 1, 2, 3, … into the records, and the last one into a record of its own when the
// spool ends, or when its process was killed.
type numbers struct {
	last, stored int
	closed       bool
	dead         []string
	told         int
	fail         atomic.Bool // the next transaction

	s  *Spool
	db *bolt.DB
}

func (j *numbers) Append(record []byte) {
	j.last++
	j.closed = false
	copy(record, number(j.last))
	if j.fail.Swap(false) {
		j.db, j.s.active.db = j.s.active.db, &bolt.DB{}
	}
}

func (j *numbers) Seal(b []byte, last bool) (records [][]byte, state []byte) {
	j.told = len(j.dead)
	for _, d := range j.dead {
		records = append(records, []byte("killed "+d))
	}
	if last && !j.closed && j.last > 0 {
		records, j.closed = append(records, []byte("last "+strconv.Itoa(j.last))), true
	}
	if j.closed || j.last == 0 {
		return records, b
	}
	return records, strconv.AppendInt(b, int64(j.last), 10)
}

func (j *numbers) End(stored bool) {
	if j.db != nil {
		j.s.active.db, j.db = j.db, nil
	}
	if !stored {
		j.last = j.stored
		return
	}
	j.stored, j.dead = j.last, j.dead[j.told:]
}

func (j *numbers) Adopt(states [][]byte) {
	newest := slices.MaxFunc(states, func(a, b []byte) int { x, _ := strconv.Atoi(string(a)); y, _ := strconv.Atoi(string(b)); return x - y })
	j.dead = append(j.dead, string(newest))
}

func (j *numbers) Split() {}

func (j *numbers) Adopted() bool { return len(j.dead) == 0 }

func openWithJournal(t *testing.T, dir string, opts Options) (*Spool, *numbers) {
	t.Helper()
	j := &numbers{}
	opts.Journal = j
	s := openSpool(t, dir, opts)
	j.s = s
	return s, j
}

// killed returns a directory as a process that was killed leaves it: with no lock on its files.
func killed(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	paths, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, filepath.Base(path)), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// texts drains s.
func texts(t *testing.T, s *Spool) (all []string) {
	t.Helper()
	for {
		entries, err := s.Peek(nil, 100, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			return all
		}
		for _, e := range entries {
			if e.Err != nil {
				t.Fatal(e.Err)
			}
			all = append(all, string(bytes.TrimSpace(e.Record)))
		}
		if err := s.Ack(entries[len(entries)-1].Pos); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheJournalNumbersWhatIsStoredAndNothingElse(t *testing.T) {
	s, j := openWithJournal(t, t.TempDir(), Options{})
	for i := range 20 {
		if i%4 == 2 {
			j.fail.Store(true)
		}
		err := s.Append(t.Context(), number(0), number(0))
		if (err != nil) != (i%4 == 2) {
			t.Fatal(i, err)
		}
	}
	if err := s.Seal(); err != nil {
		t.Fatal(err)
	}
	got := texts(t, s)
	for i := range 30 {
		if got[i] != strconv.Itoa(i+1) {
			t.Fatalf("record %d is %q", i, got[i])
		}
	}
	if len(got) != 31 || got[30] != "last 30" {
		t.Errorf("%q", got[30:])
	}
	checkBalance(t, s)
}

func TestASpoolThatIsClosedEndsWithTheJournalsRecord(t *testing.T) {
	dir := t.TempDir()
	s, _ := openWithJournal(t, dir, Options{})
	if err := s.Append(t.Context(), number(0)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	next, j := openWithJournal(t, dir, Options{})
	if _, err := next.Adopt(); err != nil {
		t.Fatal(err)
	}
	if got := texts(t, next); fmt.Sprint(got) != "[1 last 1]" || !j.Adopted() {
		t.Errorf("%q", got)
	}
}

// TestTheJournalOfAKilledProcessIsEndedByTheNext has files in which all is left, or nothing, and several of them.
func TestTheJournalOfAKilledProcessIsEndedByTheNext(t *testing.T) {
	for name, c := range map[string]struct {
		opts    Options
		appends int
		drained bool
	}{
		"one file":                  {Options{}, 20, false},
		"one file, drained":         {Options{}, 20, true},
		"several files":             {Options{SegmentBytes: 256 << 10}, 400, false},
		"several files, drained":    {Options{SegmentBytes: 256 << 10}, 400, true},
		"nothing was ever appended": {Options{}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, _ := openWithJournal(t, dir, c.opts)
			for range c.appends {
				if err := s.Append(t.Context(), number(0)); err != nil {
					t.Fatal(err)
				}
			}
			if c.drained {
				texts(t, s)
			}
			if err := s.do(task{}); err != nil { // what is owed is done
				t.Fatal(err)
			}
			if n := s.Stats().Files; !c.drained && c.appends == 400 && n < 3 {
				t.Fatalf("%d files", n)
			}
			left := killed(t, dir)
			for range 2 { // the first that adopts is killed before it could forget, or afterwards
				next, j := openWithJournal(t, left, c.opts)
				if _, err := next.Adopt(); err != nil {
					t.Fatal(err)
				}
				if !j.Adopted() {
					t.Error("what was adopted is not stored")
				}
				afterwards := killed(t, left)
				var want []string
				if !c.drained {
					for i := range c.appends {
						want = append(want, strconv.Itoa(i+1))
					}
				}
				if c.appends > 0 {
					want = append(want, "killed "+strconv.Itoa(c.appends))
				}
				if got := texts(t, next); !slices.Equal(got, want) {
					t.Errorf("%d records, the last %q, want %d", len(got), got[max(len(got)-2, 0):], len(want))
				}
				checkBalance(t, next)
				if err := next.Close(); err != nil {
					t.Fatal(err)
				}
				if files, _ := filepath.Glob(filepath.Join(left, "*"+suffix)); len(files) > 0 {
					t.Errorf("left: %v", files)
				}
				left = afterwards
			}
		})
	}
}

func TestWithoutAJournalADrainedFileIsRemoved(t *testing.T) {
	dir := t.TempDir()
	s, _ := openWithJournal(t, dir, Options{})
	if err := s.Append(t.Context(), number(0)); err != nil {
		t.Fatal(err)
	}
	texts(t, s)
	left := killed(t, dir)
	plain := openSpool(t, left, Options{})
	if n, err := plain.Adopt(); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if n := plain.Stats().Files; n != 1 {
		t.Errorf("%d files", n)
	}
}

func TestADamagedStateIsNone(t *testing.T) {
	whole := encodeState([]byte("state"))
	if string(parseState(whole)) != "state" || parseState(nil) != nil || parseState(encodeState(nil)) != nil {
		t.Error("a state is not what it was")
	}
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 1
		if parseState(bad) != nil || parseState(whole[:i]) != nil {
			t.Errorf("damage at %d is not noticed", i)
		}
	}
}

// TestWhatIsHeldInMemoryIsNumberedAsOnDisk has the disk refuse records that were numbered already, keeps them in memory, and
// gives the disk back: every number once, and the state goes along.
func TestWhatIsHeldInMemoryIsNumberedAsOnDisk(t *testing.T) {
	dir := disktest.New(t, 8<<20)
	s, j := openWithJournal(t, dir, Options{MemoryBytes: 1 << 20})
	filler := filepath.Join(dir, "filler")
	disktest.Fill(t, filler)
	n := 0
	for held := 0; held < 5; n++ { // what the file has room for is durable
		switch err := hold(t, s, 0); {
		case errors.Is(err, ErrMemory):
			held++
		case err != nil:
			t.Fatal(err)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	onDisk(t, s)
	if err := hold(t, s, 0); err != nil {
		t.Fatal(err)
	}
	n++
	left := killed(t, dir)
	var want []string
	for i := range n {
		want = append(want, strconv.Itoa(i+1))
	}
	if diff := cmp.Diff(want, texts(t, s)); diff != "" || j.last != n {
		t.Errorf("the last number is %d of %d (-want +got):\n%s", j.last, n, diff)
	}
	next, _ := openWithJournal(t, left, Options{})
	if _, err := next.Adopt(); err != nil {
		t.Fatal(err)
	}
	if got := texts(t, next); got[len(got)-1] != fmt.Sprint("killed ", n) {
		t.Errorf("the next process has %q", got[len(got)-1])
	}
}

// padded has a state as of some dozens of runs.
type padded struct{ *numbers }

func (p padded) Seal(b []byte, last bool) ([][]byte, []byte) {
	records, state := p.numbers.Seal(nil, last)
	if len(state) == 0 {
		return records, b
	}
	return records, append(append(b, strings.Repeat("0", 20_000)...), state...)
}

// TestAStateThatCouldNotBeCarriedCountsNoMore fills the disk so far that the next file can be begun, and the state not carried into
// it; when there is room again the new file has the state, and the old one none that counts.
func TestAStateThatCouldNotBeCarriedCountsNoMore(t *testing.T) {
	open := func(dir string) *Spool {
		j := &numbers{}
		s := openSpool(t, dir, Options{Journal: padded{j}})
		j.s = s
		return s
	}
	for room := int64(16 << 10); room <= 256<<10; room += 4 << 10 {
		dir := disktest.New(t, 8<<20)
		s := open(dir)
		appendNumbers(t, s, 0, 5)
		fillBut(t, dir, room)
		var err error
		if failed := s.do(task{before: func() { err = s.begin() }}); failed != nil {
			t.Fatal(failed)
		}
		if err != nil || s.Stats().LastError == nil {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			continue // there is too little room, or too much
		}
		if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
			t.Fatal(err)
		}
		onDisk(t, s)
		appendNumbers(t, s, 5, 10)
		if err := s.Close(); err != nil { // a stop, with a backlog in both files
			t.Fatal(err)
		}
		next := open(dir)
		if _, err := next.Adopt(); err != nil {
			t.Fatal(err)
		}
		for _, text := range texts(t, next) {
			if strings.HasPrefix(text, "killed") {
				t.Error("a process that was stopped is told to be killed, at a number that another record has:", text)
			}
		}
		return
	}
	t.Fatal("the case was not met")
}
