package spool

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestWhoAdoptsIsToldOfTheNewestRecordsFirst copies the file of a spool that is still open: what a killed process leaves.
func TestWhoAdoptsIsToldOfTheNewestRecordsFirst(t *testing.T) {
	dead, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	var want []string
	for i := range 3 {
		if err := dead.Append(t.Context(), fmt.Appendf(nil, "record %d", i)); err != nil {
			t.Fatal(err)
		}
		want = append([]string{fmt.Sprintf("record %d", i)}, want...)
	}
	dir := t.TempDir()
	files, _ := filepath.Glob(filepath.Join(dead.dir, "*"+suffix))
	if len(files) != 1 {
		t.Fatalf("%d files", len(files))
	}
	from, err := os.Open(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(filepath.Join(dir, filepath.Base(files[0])))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	to.Close()

	var told []string
	var s *Spool
	s, err = Open(dir, Options{OnAdopt: func(record []byte) {
		told = append(told, string(record))
		if entries, err := s.Peek(nil, 10, 1<<20); err != nil || len(entries) > 0 {
			t.Errorf("Peek returns %d records before OnAdopt was told of all: %v", len(entries), err)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n, err := s.Adopt(); n != 3 || err != nil {
		t.Errorf("adopted %d records: %v", n, err)
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
}
