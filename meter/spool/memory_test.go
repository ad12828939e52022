package spool

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kafka-metering/meter/spool/disktest"
)

// hold hands number n over, and returns what became of it.
func hold(t *testing.T, s *Spool, n int) error {
	t.Helper()
	done := make(chan error, 1)
	if err := s.Hold([][]byte{number(n)}, func(err error) { done <- err }); err != nil {
		return err
	}
	return <-done
}

// onDisk waits until the spool's disk takes records.
func onDisk(t *testing.T, s *Spool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); s.Stats().Trouble != nil; {
		if time.Now().After(deadline) {
			t.Fatalf("the disk is not used again: %v", s.Stats().Trouble)
		}
		timer := time.NewTimer(time.Millisecond)
		<-timer.C
	}
}

// TestADiskThatIsFullIsReplacedByMemoryUntilThereIsRoom fills the disk of an open spool.
func TestADiskThatIsFullIsReplacedByMemoryUntilThereIsRoom(t *testing.T) {
	dir := disktest.New(t, 8<<20)
	s := openSpool(t, dir, Options{MemoryBytes: 60_000})
	appendNumbers(t, s, 0, 10)
	filler := filepath.Join(dir, "filler")
	disktest.Fill(t, filler)
	n := 10
	for ; ; n++ { // what the file has room for is durable
		err := hold(t, s, n)
		if errors.Is(err, ErrMemory) && errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	n++
	// Who can come again is told to.
	if err := s.Append(t.Context(), number(-1)); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrMemory) {
		t.Errorf("%v, want that there is no room", err)
	}
	for ; n < 5000; n++ {
		if err := hold(t, s, n); !errors.Is(err, ErrMemory) {
			if !errors.Is(err, errMemoryFull) || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%v, want that the memory is full", err)
			}
			break
		}
	}
	st := s.Stats()
	if st.InMemory != 200 || st.Trouble == nil || st.Pending != int64(n) {
		t.Errorf("%d are handed over: %+v", n, st)
	}
	checkBalance(t, s)
	if files, err := filepath.Glob(filepath.Join(memoryDir, "kafka-metering-*")); err != nil || len(files) > 0 {
		t.Errorf("%v have a name", files)
	}

	// A reader has the first ones on their way while they move to the disk.
	var before []Entry
	for int64(len(before)) < st.Pending-st.InMemory+50 {
		after := Pos{}
		if len(before) > 0 {
			after = before[len(before)-1].Pos
			after.seq++
		}
		more, err := s.PeekFrom(after, nil, 50, 1<<20)
		if err != nil || len(more) == 0 {
			t.Fatal(len(before), err)
		}
		before = append(before, more...)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	onDisk(t, s)
	appendNumbers(t, s, n, n+10)
	if st := s.Stats(); st.InMemory != 0 || st.Pending != int64(n+10) {
		t.Errorf("%+v", st)
	}
	checkBalance(t, s)
	wait := s.Settle(before[len(before)-1].Pos, []Pos{before[len(before)-1].Pos}, nil)
	if err := wait(); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Acked != 1 {
		t.Errorf("%+v", st)
	}
	s.Rewind(Pos{})

	// Another process finds all of it on the disk.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	next := openSpool(t, dir, Options{})
	if _, err := next.Adopt(); err != nil {
		t.Fatal(err)
	}
	got, _ := drain(t, next)
	acked := numberOf(t, before[len(before)-1].Record)
	got = slices.Insert(got, acked, acked)
	checkNumbers(t, got, 0, n+10)
}

// TestADiskThatIsReadOnlyAtStartIsReplacedByMemory publishes from memory, and goes on on the disk.
func TestADiskThatIsReadOnlyAtStartIsReplacedByMemory(t *testing.T) {
	disk := disktest.New(t, 8<<20)
	disktest.ReadOnly(t, disk, true)
	dir := filepath.Join(disk, "kafka")
	if _, err := Open(dir, Options{}); !errors.Is(err, syscall.EROFS) {
		t.Errorf("%v, want what is wrong with the disk", err)
	}
	s := openSpool(t, dir, Options{MemoryBytes: 1 << 20})
	if _, err := s.Adopt(); err != nil {
		t.Error(err)
	}
	for n := range 20 {
		if err := hold(t, s, n); !errors.Is(err, ErrMemory) || !errors.Is(err, syscall.EROFS) {
			t.Fatalf("%v, want that it is in memory", err)
		}
	}
	entries, err := s.Peek(nil, 5, 1<<20)
	if err != nil || len(entries) != 5 {
		t.Fatal(len(entries), err)
	}
	if err := s.Ack(entries[4].Pos, Reject{entries[2].Pos, "too large"}); err != nil {
		t.Error(err)
	}
	checkBalance(t, s)
	disktest.ReadOnly(t, disk, false)
	onDisk(t, s)
	appendNumbers(t, s, 20, 30)
	got, _ := drain(t, s)
	checkNumbers(t, got, 5, 30)
	if st := s.Stats(); st.RejectedHeld != 1 || st.InMemory != 0 {
		t.Errorf("%+v", st)
	}
	checkBalance(t, s)
	files, err := Files(dir)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	info, err := os.Stat(files[0])
	if err != nil || info.Mode() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

// TestWhatIsInMemoryWhenTheProcessEndsIsToldToBeLost closes a spool whose disk never came back.
func TestWhatIsInMemoryWhenTheProcessEndsIsToldToBeLost(t *testing.T) {
	disk := disktest.New(t, 8<<20)
	disktest.ReadOnly(t, disk, true)
	s := openSpool(t, filepath.Join(disk, "kafka"), Options{MemoryBytes: 1 << 20})
	for n := range 3 {
		if err := hold(t, s, n); !errors.Is(err, ErrMemory) {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "3 records are lost") {
		t.Errorf("%v, want what is lost", err)
	}
	if st := s.Stats(); st.Pending != 3 || st.InMemory != 3 {
		t.Errorf("%+v", st)
	}
}

// TestWithoutMemoryADiskThatFailsIsAnError has nowhere to keep files in memory.
func TestWithoutMemoryADiskThatFailsIsAnError(t *testing.T) {
	disk := disktest.New(t, 8<<20)
	disktest.ReadOnly(t, disk, true)
	memoryDir = filepath.Join(disk, "nowhere")
	defer func() { memoryDir = "/dev/shm" }()
	s := openSpool(t, filepath.Join(disk, "kafka"), Options{MemoryBytes: 1 << 20})
	if err := hold(t, s, 0); !errors.Is(err, syscall.EROFS) || errors.Is(err, ErrMemory) {
		t.Errorf("%v, want what is wrong with the disk", err)
	}
	if st := s.Stats(); st.Failed != 1 || st.Appended != 0 {
		t.Errorf("%+v", st)
	}
	checkBalance(t, s)
}

// TestAReaderDoesNotNoticeThatRecordsMoveToTheDisk has the disk fail again and again while one goroutine appends and
// another reads.
func TestAReaderDoesNotNoticeThatRecordsMoveToTheDisk(t *testing.T) {
	dir := disktest.New(t, 16<<20)
	s := openSpool(t, dir, Options{MemoryBytes: 8 << 20})
	const n = 3000
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := range n {
			if err := hold(t, s, i); err != nil && !errors.Is(err, ErrMemory) {
				t.Error(err)
			}
			switch i % 1000 {
			case 300:
				disktest.Fill(t, filepath.Join(dir, "filler"))
			case 900:
				if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
					t.Error(err)
				}
				onDisk(t, s)
			}
		}
	}()
	var got []int
	for len(got) < n {
		entries, err := s.Peek(nil, 7, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			<-s.Ready()
			continue
		}
		for _, e := range entries {
			got = append(got, numberOf(t, e.Record))
		}
		// A full disk owes what it cannot delete.
		if err := s.Ack(entries[len(entries)-1].Pos); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	<-ended
	checkNumbers(t, got, 0, n)
	checkBalance(t, s)
	if st := s.Stats(); st.InMemory != 0 {
		t.Errorf("%+v", st)
	}
}
