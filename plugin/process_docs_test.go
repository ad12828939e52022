package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTheUnitStartsWhatThereIs holds the flags of docs/kafka-metering.service and docs/process.md to those of the binary.
func TestTheUnitStartsWhatThereIs(t *testing.T) {
	help, err := exec.Command(executable(t, t.TempDir()), "-help").CombinedOutput()
	if err != nil || !strings.Contains(string(help), "-spool-dir") {
		t.Fatalf("%s", help)
	}
	for _, name := range []string{"kafka-metering.service", "process.md"} {
		text, err := os.ReadFile(filepath.Join("..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, line := range regexp.MustCompile(`(?m)^.*/kafka-metering[ ,].*$`).FindAllString(string(text), -1) {
			if strings.Contains(line, "install -D") || strings.Contains(line, "cp ") {
				continue
			}
			for _, flag := range regexp.MustCompile(`[ \[]-([a-z]+(?:-[a-z]+)*)`).FindAllStringSubmatch(line, -1) {
				found++
				if !strings.Contains(string(help), "\n  -"+flag[1]+" ") && !strings.Contains(string(help), "\n  -"+flag[1]+"\n") {
					t.Errorf("%s: the binary has no flag -%s: %s", name, flag[1], line)
				}
			}
		}
		if found < 4 {
			t.Errorf("%s: %d flags were found", name, found)
		}
	}
}
