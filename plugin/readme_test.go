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

// TestReadmeTablesAreGenerated holds the tables of README.md and docs/ and what they are made from together.
func TestReadmeTablesAreGenerated(t *testing.T) {
	for file, tables := range map[string]map[string]string{
		"README.md":             {"example": exampleEvent(t)},
		"docs/configuration.md": {"config": schema.ConfigTable()},
		"docs/metrics.md":       {"metrics": metricsTable()},
		"docs/events.md": {
			"event":                    schema.EventTable(""),
			"kong.api_request":         schema.EventTable("kong.api_request"),
			"kong.llm_request":         schema.EventTable("kong.llm_request"),
			"kong.llm_usage":           schema.EventTable("kong.llm_usage"),
			"kong.metering_gap":        schema.EventTable("kong.metering_gap"),
			"kong.metering_checkpoint": schema.EventTable("kong.metering_checkpoint"),
		},
	} {
		path := filepath.Join("..", filepath.FromSlash(file))
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		page := string(before)
		for marker, text := range tables {
			open, end := "<!-- "+marker+" -->\n", "<!-- /"+marker+" -->"
			head, rest, ok := strings.Cut(page, open)
			_, tail, closed := strings.Cut(rest, end)
			if !ok || !closed {
				t.Fatalf("%s has no %s … %s", file, strings.TrimSpace(open), end)
			}
			page = head + open + strings.TrimRight(text, "\n") + "\n" + end + tail
		}
		if *update {
			if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if diff := cmp.Diff(page, string(before)); diff != "" {
			t.Errorf("%s is out of date: run go test ./plugin -run Readme -update (-want +got):\n%s", file, diff)
		}
	}
}

// TestLinksOfThePagesLeadSomewhere follows the links of README.md and docs/ to files and, within a page, to headings.
func TestLinksOfThePagesLeadSomewhere(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join("..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(pages, filepath.Join("..", "README.md")) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(string(text), -1) {
			file, heading, _ := strings.Cut(link[1], "#")
			if strings.Contains(file, "://") {
				continue
			}
			found++
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), filepath.FromSlash(file))
			}
			info, err := os.Stat(target)
			if err != nil {
				t.Errorf("%s links to %s: %v", page, link[1], err)
				continue
			}
			if heading == "" || info.IsDir() {
				continue
			}
			there, err := os.ReadFile(target)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(anchors(string(there)), heading) {
				t.Errorf("%s links to %s, and there is no such heading", page, link[1])
			}
		}
	}
	if found < 15 {
		t.Errorf("%d links were found", found)
	}
}

// anchors are the names that GitHub gives the headings of a page.
func anchors(page string) []string {
	var names []string
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
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

// TestEveryMetricIsDescribed holds the metrics of a process and their descriptions together, and finds pages that name
// others.
func TestEveryMetricIsDescribed(t *testing.T) {
	var exposed, described strings.Builder
	testProcess(t).ledger.set.WritePrometheus(&exposed)
	for _, m := range metricsHelp {
		fmt.Fprintln(&described, m.name)
	}
	names := func(text string) []string {
		found := regexp.MustCompile(`kong_meter_[a-z0-9_]+`).FindAllString(text, -1)
		for i := range found {
			found[i] = regexp.MustCompile(`_(bucket|count|sum)$`).ReplaceAllString(found[i], "") // of a histogram
		}
		slices.Sort(found)
		return slices.Compact(found)
	}
	if diff := cmp.Diff(names(exposed.String()), names(described.String())); diff != "" {
		t.Errorf("the process and metricsHelp name different metrics (-process +metricsHelp):\n%s", diff)
	}
	pages, err := filepath.Glob(filepath.Join("..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, filepath.Join("..", "README.md")) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names(string(text)) {
			if !slices.Contains(names(exposed.String()), name) {
				t.Errorf("%s names the metric %s, and there is none", page, name)
			}
		}
	}
}
