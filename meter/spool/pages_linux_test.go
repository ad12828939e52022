package spool

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
)

// residentBytes returns how much of the mapped file is in this process's memory.
func residentBytes(t *testing.T, path string) (n int64) {
	t.Helper()
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer smaps.Close()
	here := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		var kB int64
		if head, _, _ := strings.Cut(line, " "); strings.Contains(head, "-") {
			here = strings.HasSuffix(line, path)
		} else if _, err := fmt.Sscanf(line, "Rss: %d kB", &kB); err == nil && here {
			n += kB << 10
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestABacklogThatIsReadDoesNotStayInMemory reads a file of several times readPages.
func TestABacklogThatIsReadDoesNotStayInMemory(t *testing.T) {
	s := openSpool(t, t.TempDir(), Options{})
	record := make([]byte, 1<<10)
	for range 6 * readPages / len(record) / 1024 {
		group := make([][]byte, 1024)
		for i := range group {
			group[i] = record
		}
		if err := s.Append(t.Context(), group...); err != nil {
			t.Fatal(err)
		}
	}
	file := s.files[0]
	if whole, _ := os.Stat(file.path); len(s.files) != 1 || whole.Size() < 6*readPages {
		t.Fatalf("%d files, the first of %d bytes", len(s.files), whole.Size())
	}
	var most int64
	at := Pos{file, 1}
	for read := 0; read < 5*readPages; {
		entries, err := s.PeekFrom(at, nil, 1024, 1<<20)
		if err != nil || len(entries) == 0 {
			t.Fatalf("after %d bytes %d entries: %v", read, len(entries), err)
		}
		for _, e := range entries {
			at, read = Pos{file, e.Pos.seq + 1}, read+len(e.Record)
		}
		most = max(most, residentBytes(t, file.path))
	}
	const limit = 2 * readPages
	if most == 0 || most > limit {
		t.Errorf("%d MiB of the file were in memory, want at most %d", most>>20, limit>>20)
	}
}
