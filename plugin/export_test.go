package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// TestExport runs the command on the project's own configurations and on testdata/export/deck.yml. The results are
// testdata/export, and what it says on standard error beside them.
func TestExport(t *testing.T) {
	path := executable(t, t.TempDir())
	for _, test := range []struct{ what, file, want string }{
		{"openmeter", "kong.yml", "openmeter.yaml"},
		{"openmeter", "docs/recipes.yml", "openmeter_recipes.yaml"},
		{"openmeter", "testdata/export/deck.yml", "openmeter_deck.yaml"},
		{"collector", "kong.yml", "collector.yaml"},
		{"collector", "testdata/export/deck.yml", "collector_deck.yaml"},
		{"asyncapi", "kong.yml", "asyncapi.yaml"},
		{"asyncapi", "testdata/export/deck.yml", "asyncapi_deck.yaml"},
		{"jsonschema", "docs/recipes.yml", "recipes.schema.json"},
		{"jsonschema", "testdata/export/deck.yml", "deck.schema.json"},
	} {
		cmd := exec.Command(path, "export", test.what, filepath.FromSlash(test.file))
		cmd.Dir = ".."
		var warnings bytes.Buffer
		cmd.Stderr = &warnings
		got, err := cmd.Output()
		if err != nil {
			t.Fatalf("export %s %s: %v\n%s", test.what, test.file, err, &warnings)
		}
		golden(t, filepath.Join("..", "testdata", "export", test.want), got)
		if test.want == "openmeter_deck.yaml" {
			golden(t, filepath.Join("..", "testdata", "export", "openmeter_deck.stderr"), warnings.Bytes())
		} else if warnings.Len() > 0 {
			t.Errorf("%s: %s", test.want, &warnings)
		}
		var document any
		if err := yaml.Unmarshal(got, &document); err != nil {
			t.Errorf("%s: %v", test.want, err)
		}
		for _, ref := range references(document) {
			if !resolves(document, ref) {
				t.Errorf("%s: nothing is at %s", test.want, ref)
			}
		}
	}
}

// TestExportTellsOfMetersThatAConsumerCountsAsOne has two meters of one event type and property, which no consumer can tell apart.
func TestExportTellsOfMetersThatAConsumerCountsAsOne(t *testing.T) {
	path := executable(t, t.TempDir())
	for filter, told := range map[string]bool{`request.method == "POST"`: true, `request.method == "GET"`: false} {
		file := filepath.Join(t.TempDir(), "kong.yml")
		text := `{_format_version: "3.0", plugins: [{name: kafka-metering, config: {bootstrap_servers: [{host: kafka}], meters: [
			{slug: reads, aggregation: COUNT, filter: 'request.method == "GET"'},
			{slug: writes, aggregation: COUNT, filter: '` + filter + `'}]}}]}`
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(path, "export", "openmeter", file)
		var warnings bytes.Buffer
		cmd.Stderr = &warnings
		if err := cmd.Run(); err != nil {
			t.Fatal(err, &warnings)
		}
		const want = `meters "reads" and "writes" count into the property "value" of "kong.meter" under different filters`
		if got := warnings.String(); strings.Contains(got, want) != told {
			t.Errorf("%s: %s", filter, got)
		}
	}
}

// golden compares with a file of testdata.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// references returns the references in a document.
func references(document any) []string {
	var all []string
	switch d := document.(type) {
	case map[string]any:
		for key, value := range d {
			if ref, ok := value.(string); ok && key == "$ref" {
				all = append(all, ref)
			}
			all = append(all, references(value)...)
		}
	case []any:
		for _, value := range d {
			all = append(all, references(value)...)
		}
	}
	return all
}

// resolves reports whether a reference within a document leads to something: a JSON pointer in a URI.
func resolves(document any, ref string) bool {
	path, inside := strings.CutPrefix(ref, "#/")
	for step := range strings.SplitSeq(path, "/") {
		at, ok := document.(map[string]any)
		if !ok {
			return false
		}
		if document, ok = at[step]; !ok {
			return false
		}
	}
	return inside
}

// exportedSchema compiles the JSON Schema that the command exports for a file.
func exportedSchema(t *testing.T, executable, file string) *jsonschema.Schema {
	t.Helper()
	out, err := exec.Command(executable, "export", "jsonschema", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("events.json", document); err != nil {
		t.Fatal(err)
	}
	return c.MustCompile("events.json")
}

// TestTheExportedSchemaIsThatOfTheEvents validates the events of all golden exchanges, and of those of the recipes, with the
// schema that is exported for their configuration, and has it refuse what is none of them.
func TestTheExportedSchemaIsThatOfTheEvents(t *testing.T) {
	path := executable(t, t.TempDir())
	types := map[string]bool{}
	validate := func(name string, events *jsonschema.Schema, value []byte) {
		event, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
		if err != nil {
			t.Fatal(err)
		}
		if err := events.Validate(event); err != nil {
			t.Errorf("%s: %v\n%s", name, err, value)
		}
		e := event.(map[string]any)
		types[e["type"].(string)] = true
		e["data"].(map[string]any)["prompt"] = []any{"what no event holds"}
		if events.Validate(event) == nil {
			t.Errorf("%s: a list passes for data of %s", name, e["type"])
		}
	}

	recipes := filepath.Join("..", "docs", "recipes.yml")
	events := exportedSchema(t, path, recipes)
	config := pluginConfig(t, recipes)
	for _, name := range []string{"chat", "orders"} {
		archive, err := txtar.ParseFile(filepath.Join("..", "testdata", "recipes", name+".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		p := testProcess(t)
		in, sink := testInstance(t, p, config)
		in.handle(saved{bytes.TrimSpace(archive.Files[0].Data), archive.Files[1].Data}, p.ledger.open())
		for _, r := range sink.records {
			validate(name, events, r.Value)
		}
	}

	files, err := filepath.Glob(filepath.Join("..", "testdata", "exchange", "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		config, want := []byte("{topic: kong.metering}"), []byte(nil)
		for _, f := range archive.Files {
			switch f.Name {
			case "config.json":
				config = f.Data
			case "want.jsonl":
				want = f.Data
			}
		}
		alone := filepath.Join(t.TempDir(), "config.yml")
		if err := os.WriteFile(alone, config, 0o600); err != nil {
			t.Fatal(err)
		}
		events := exportedSchema(t, path, alone)
		for line := range bytes.Lines(want) {
			validate(filepath.Base(file), events, line)
		}
	}
	if len(types) < 14 {
		t.Errorf("events of %d types were validated: %v", len(types), types)
	}
}

// pluginConfig returns the configuration of the first plugin at the top of a declarative file, as JSON.
func pluginConfig(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Shared  map[string]map[string]any `yaml:"_plugin_configs"`
		Plugins []struct {
			Config map[string]any `yaml:"config"`
		} `yaml:"plugins"`
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	config := file.Shared["metering"]
	if len(file.Plugins) > 0 {
		config = file.Plugins[0].Config
	}
	out, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestOpenMeterCountsWhatTheMetersCount folds the events of three exchanges as OpenMeter does, by the exported meters: COUNT
// counts every event of the type, SUM skips events without the property.
func TestOpenMeterCountsWhatTheMetersCount(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "export", "openmeter_deck.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Meters []struct {
			Slug, Aggregation, EventType, ValueProperty string
		}
	}
	// The keys are OpenMeter's, in camel case, which YAML does not match with fields by itself.
	var tree map[string]any
	if err := yaml.Unmarshal(raw, &tree); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(asJSON, &file); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join("..", "testdata", "serialize", "authenticated.json"))
	if err != nil {
		t.Fatal(err)
	}
	p := testProcess(t)
	in, sink := testInstance(t, p, pluginConfig(t, filepath.Join("..", "testdata", "export", "deck.yml")))
	for _, status := range []string{"200", "404", "503"} {
		one := bytes.ReplaceAll(log, []byte("64593a19e721a376184d706224dde809"), []byte("request"+status)) // else it is the same exchange again
		one = bytes.Replace(one, []byte(`"status":200`), []byte(`"status":`+status), 1)
		in.handle(saved{one, nil}, p.ledger.open())
	}
	got := map[string]float64{}
	for _, m := range file.Meters {
		for _, r := range sink.records {
			var event struct {
				Type string
				Data map[string]any
			}
			if err := json.Unmarshal(r.Value, &event); err != nil {
				t.Fatal(err)
			}
			if event.Type != m.EventType {
				continue
			}
			value, _ := event.Data[strings.TrimPrefix(m.ValueProperty, "$.")].(float64)
			switch m.Aggregation {
			case "COUNT":
				got[m.Slug]++
			case "SUM":
				got[m.Slug] += value
			}
		}
	}
	want := map[string]float64{"calls": 3, "failed_calls": 1, "egress": 500}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !slices.ContainsFunc(file.Meters, func(m struct{ Slug, Aggregation, EventType, ValueProperty string }) bool {
		return m.Slug == "customers__" && m.Aggregation == "UNIQUE_COUNT"
	}) {
		t.Error("the meter of unique customers is not exported")
	}
}
