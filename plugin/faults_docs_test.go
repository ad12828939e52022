package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// faultFiles are the files whose tests docs/faults.md names, all of them.
var faultFiles = []string{"plugin/fault_test.go", "plugin/lane_fault_test.go", "meter/relay/fault_test.go"}

// TestTheFaultMatrixIsThatOfTheTests holds docs/faults.md and the tests together: each row names tests that there are, and each
// fault test has a row.
func TestTheFaultMatrixIsThatOfTheTests(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string][]string{} // name -> files
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	if err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(source, -1) {
			tests[string(m[1])] = append(tests[string(m[1])], filepath.ToSlash(strings.TrimPrefix(path, ".."+string(filepath.Separator))))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)`")
	rows, listed := 0, map[string]bool{}
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| fault ") || strings.HasPrefix(line, "| --- ") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 || strings.TrimSpace(cells[2]) == "" {
			t.Errorf("not a fault, its tests and what was measured: %s", line)
			continue
		}
		names := named.FindAllStringSubmatch(cells[1], -1)
		if len(names) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, m := range names {
			listed[m[1]] = true
			if tests[m[1]] == nil {
				t.Errorf("there is no %s: %s", m[1], line)
			}
		}
	}
	if rows < 30 {
		t.Errorf("%d rows", rows)
	}
	for name, files := range tests {
		if !listed[name] && slices.ContainsFunc(files, func(f string) bool { return slices.Contains(faultFiles, f) }) {
			t.Errorf("docs/faults.md does not name %s of %v", name, files)
		}
	}
}
