package spool

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kafka-metering/meter/spool/disktest"
)

// files counts the files of a directory that are called as spools, damaged ones included.
func files(t *testing.T, dir string) (n int) {
	t.Helper()
	all, err := Files(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestAFullDiskGathersNoEmptyFiles has a disk without room for the next file, when it is to be begun again and again, and somebody
// who adopts meanwhile.
func TestAFullDiskGathersNoEmptyFiles(t *testing.T) {
	dir := disktest.New(t, 8<<20)
	s := openSpool(t, dir, Options{SegmentBytes: 64 << 10})
	disktest.Fill(t, filepath.Join(dir, "filler"))
	for n := range 200 {
		_ = s.Append(t.Context(), number(n)) // some find room
	}
	if _, err := s.Adopt(); err != nil {
		t.Error(err)
	}
	if n := files(t, dir); n > 3 {
		t.Errorf("%d files", n)
	}
}

// TestAHollowFileOnAFullDiskTakesRecords has a file that once held a backlog: it has room, and the disk has none for another one.
func TestAHollowFileOnAFullDiskTakesRecords(t *testing.T) {
	dir := disktest.New(t, 64<<20)
	s := openSpool(t, dir, Options{})
	for n := 0; n < 80_000; n += 1000 {
		appendNumbers(t, s, n, n+1000)
	}
	ack := func(left int64) {
		for s.Stats().Pending > left {
			e, err := s.Peek(nil, 1000, 1<<30)
			if err != nil || len(e) == 0 {
				t.Fatal(len(e), err)
			}
			_ = s.Ack(e[len(e)-1].Pos) // durable later, where the disk is full
		}
	}
	ack(20_000)
	disktest.Fill(t, filepath.Join(dir, "filler"))
	ack(0)
	for n := range 500 {
		if err := s.Append(t.Context(), number(n)); err != nil {
			t.Fatal(err)
		}
	}
	if n := files(t, dir); n > 3 {
		t.Errorf("%d files", n)
	}
}

// TestAFileThatCannotBeBegunLeavesNoMapping has a disk with room for a file, and none for its first transaction.
func TestAFileThatCannotBeBegunLeavesNoMapping(t *testing.T) {
	dir := disktest.New(t, 8<<20)
	s := openSpool(t, dir, Options{})
	appendNumbers(t, s, 0, 5)
	fillBut(t, dir, 40<<10)
	for range 20 {
		var err error
		if failed := s.do(task{before: func() { err = s.begin() }}); failed != nil || err == nil {
			t.Fatal("there is room", failed)
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if os.IsNotExist(err) {
		t.Skip("no /proc here: what is mapped is not known")
	}
	if n := strings.Count(string(maps), dir); err != nil || n > 1 {
		t.Errorf("%d files are mapped, %v", n, err)
	}
}

// fillBut leaves a disk with so many bytes.
func fillBut(t *testing.T, dir string, bytes int64) {
	t.Helper()
	filler := filepath.Join(dir, "filler")
	disktest.Fill(t, filler)
	info, err := os.Stat(filler)
	if err == nil {
		err = os.Truncate(filler, info.Size()-bytes)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestCompactingOnAFullDiskTakesNothingOfIt has a disk without room for the smaller file.
func TestCompactingOnAFullDiskTakesNothingOfIt(t *testing.T) {
	dir := disktest.New(t, 64<<20)
	free := func() int64 {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Bfree) * int64(st.Bsize)
	}
	s := openSpool(t, dir, Options{SegmentBytes: 1 << 30})
	for i := range 24 {
		if err := s.Append(t.Context(), bytes.Repeat([]byte{byte(i)}, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := s.Peek(nil, 100, 1<<30)
	if err != nil || len(entries) != 24 {
		t.Fatal(len(entries), err)
	}
	var rejects []Reject
	for _, e := range entries[:4] {
		rejects = append(rejects, Reject{e.Pos, "no"})
	}
	if err := s.Ack(entries[len(entries)-1].Pos, rejects...); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fillBut(t, dir, 3<<20)
	before := free()
	next := openSpool(t, dir, Options{SegmentBytes: 1 << 30})
	if _, err := next.Adopt(); err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(10 * time.Second); next.Stats().LastError == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("it was not tried")
		}
	}
	if taken := before - free(); taken > 1<<20 {
		t.Errorf("%d bytes are taken", taken)
	}
	if next.Stats().RejectedHeld != 4 {
		t.Error(next.Stats())
	}
}
