package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"go.yaml.in/yaml/v3"
)

// recipe is a meter of docs/recipes.yml.
type recipe struct {
	Slug      string `yaml:"slug"`
	EventType string `yaml:"event_type"`
	text      string // as it is written
}

// recipes returns the recipes in their order.
func recipes(t *testing.T) []recipe {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "docs", "recipes.yml"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(raw), "\n    meters:\n")
	if !ok {
		t.Fatal("docs/recipes.yml has no meters")
	}
	var all []recipe
	for _, part := range regexp.MustCompile(`(?m)^    - `).Split(text, -1)[1:] {
		lines := strings.Split("    - "+part, "\n")
		for i, line := range lines {
			lines[i] = strings.TrimPrefix(line, "    ")
			if strings.HasPrefix(lines[i], "#") {
				lines = lines[:i] // of the next one
				break
			}
		}
		var one []recipe
		text := strings.TrimSpace(strings.Join(lines, "\n")) + "\n"
		if err := yaml.Unmarshal([]byte(text), &one); err != nil || len(one) != 1 {
			t.Fatal(err, text)
		}
		one[0].text = text
		all = append(all, one[0])
	}
	return all
}

// TestTheRecipesOfTheGuide evaluates every recipe for the exchanges of testdata/recipes, and holds docs/meters.md to the result.
func TestTheRecipesOfTheGuide(t *testing.T) {
	all := recipes(t)
	if len(all) != 10 {
		t.Errorf("there are %d recipes", len(all))
	}
	path := filepath.Join("..", "docs", "meters.md")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	guide := string(before)
	for _, r := range all {
		var meters []map[string]any
		if err := yaml.Unmarshal([]byte(r.text), &meters); err != nil {
			t.Fatal(err)
		}
		config, err := json.Marshal(map[string]any{"meters": meters})
		if err != nil {
			t.Fatal(err)
		}
		e, err := newEvaluator(config, "")
		if err != nil {
			t.Fatal(err)
		}
		exchange := "orders"
		if strings.Contains(r.text, "llm.") {
			exchange = "chat"
		}
		archive, err := txtar.ParseFile(filepath.Join("..", "testdata", "recipes", exchange+".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		o, err := e.Observe(bytes.TrimSpace(archive.Files[0].Data), archive.Files[1].Data)
		if err != nil {
			t.Fatal(err)
		}
		text := "```yaml\n" + r.text + "```\n```json\n"
		records, result := e.Records(o)
		if result.Failure != nil {
			t.Errorf("%s: %v", r.Slug, result.Failure)
		}
		events := 0
		for _, record := range records {
			if record.Event.Type == r.EventType {
				text += string(record.Event.Data) + "\n"
				events++
			}
		}
		if events == 0 {
			t.Errorf("%s makes no event", r.Slug)
		}
		open, end := "<!-- "+r.Slug+" -->\n", "<!-- /"+r.Slug+" -->"
		head, rest, ok := strings.Cut(guide, open)
		_, tail, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("docs/meters.md has no %s … %s", strings.TrimSpace(open), end)
		}
		guide = head + open + text + "```\n" + end + tail
	}
	if *update {
		if err := os.WriteFile(path, []byte(guide), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(guide, string(before)); diff != "" {
		t.Errorf("docs/meters.md is out of date: run go test ./plugin -run Recipes -update (-want +got):\n%s", diff)
	}
}

// TestTheRecipesRunThroughTheWholePath runs try with all of them: each has its line in the totals, with both fronts.
func TestTheRecipesRunThroughTheWholePath(t *testing.T) {
	for _, front := range []string{"lua", "pdk"} {
		out, err := tryCommand(t, "-f", filepath.Join("docs", "recipes.yml"), "-front", front).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		_, totals, _ := strings.Cut(string(out), "Totals, read back")
		for _, r := range recipes(t) {
			if !strings.Contains(totals, "\n"+r.EventType+" ") {
				t.Errorf("-front %s: the topic has no total of %s:\n%s", front, r.EventType, totals)
			}
		}
		for _, want := range []string{"items                 2       4", "1 unique_count", "credits               3       2\n"} {
			if !strings.Contains(totals, want) {
				t.Errorf("-front %s: %q is not in\n%s", front, want, totals)
			}
		}
	}
}
