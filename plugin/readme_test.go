package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kafka-metering/schema"
)

// TestReadmeTablesAreGenerated holds the tables of README.md and what they are made from together.
func TestReadmeTablesAreGenerated(t *testing.T) {
	path := filepath.Join("..", "README.md")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	readme := string(before)
	for marker, text := range map[string]string{
		"config":           schema.ConfigTable(),
		"event":            schema.EventTable(""),
		"kong.api_request": schema.EventTable("kong.api_request"),
		"kong.llm_request": schema.EventTable("kong.llm_request"),
		"kong.llm_usage":   schema.EventTable("kong.llm_usage"),
		"example":          exampleEvent(t),
		"metrics":          metricsTable(),
	} {
		open, end := "<!-- "+marker+" -->\n", "<!-- /"+marker+" -->"
		head, rest, ok := strings.Cut(readme, open)
		_, tail, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("README.md has no %s … %s", strings.TrimSpace(open), end)
		}
		readme = head + open + strings.TrimRight(text, "\n") + "\n" + end + tail
	}
	if *update {
		if err := os.WriteFile(path, []byte(readme), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(readme, string(before)); diff != "" {
		t.Errorf("README.md is out of date: run go test ./plugin -run Readme -update (-want +got):\n%s", diff)
	}
}

// exampleEvent is an event of the golden exchange of a chat.
func exampleEvent(t *testing.T) string {
	t.Helper()
	archive, err := os.ReadFile(filepath.Join("..", "testdata", "exchange", "openai_chat.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(archive), "\n") {
		if strings.Contains(line, `"type":"kong.llm_request"`) {
			var indented bytes.Buffer
			if err := json.Indent(&indented, []byte(line), "", "  "); err != nil {
				t.Fatal(err)
			}
			return "```json\n" + indented.String() + "\n```\n"
		}
	}
	t.Fatal("the golden exchange has no kong.llm_request event")
	return ""
}

// metricsTable is the reference of the metrics.
func metricsTable() string {
	var b strings.Builder
	b.WriteString("| metric | counts |\n| --- | --- |\n")
	for _, m := range metricsHelp {
		fmt.Fprintf(&b, "| `%s` | %s |\n", m.name, m.help)
	}
	return b.String()
}

// TestEveryMetricIsDescribed holds the metrics of a process, their descriptions and README.md together.
func TestEveryMetricIsDescribed(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var exposed, described strings.Builder
	testProcess(t).ledger.set.WritePrometheus(&exposed)
	for _, m := range metricsHelp {
		fmt.Fprintln(&described, m.name)
	}
	names := func(text string) []string {
		found := regexp.MustCompile(`kong_meter_[a-z0-9_]+`).FindAllString(text, -1)
		slices.Sort(found)
		return slices.Compact(found)
	}
	if diff := cmp.Diff(names(exposed.String()), names(described.String())); diff != "" {
		t.Errorf("the process and metricsHelp name different metrics (-process +metricsHelp):\n%s", diff)
	}
	if diff := cmp.Diff(names(exposed.String()), names(string(readme))); diff != "" {
		t.Errorf("the process and README.md name different metrics (-process +README.md):\n%s", diff)
	}
}
