package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// TestExport runs the command on the project's own configurations: the results are testdata/export.
func TestExport(t *testing.T) {
	path := executable(t, t.TempDir())
	for _, test := range []struct{ what, file, want string }{
		{"openmeter", "kong.yml", "openmeter.yaml"},
		{"openmeter", "docs/recipes.yml", "openmeter_recipes.yaml"},
		{"collector", "kong.yml", "collector.yaml"},
		{"asyncapi", "kong.yml", "asyncapi.yaml"},
		{"jsonschema", "docs/recipes.yml", "recipes.schema.json"},
	} {
		cmd := exec.Command(path, "export", test.what, filepath.FromSlash(test.file))
		cmd.Dir = ".."
		got, err := cmd.Output()
		if err != nil {
			t.Fatalf("export %s %s: %v", test.what, test.file, err)
		}
		golden := filepath.Join("..", "testdata", "export", test.want)
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.want, diff)
		}
		var document any
		if err := yaml.Unmarshal(got, &document); err != nil {
			t.Errorf("%s: %v", test.want, err)
		}
	}
}

// TestTheExportedSchemaIsThatOfTheEvents validates the events of real exchanges under docs/recipes.yml with the schema that is
// exported for it, and has it refuse what is none of them.
func TestTheExportedSchemaIsThatOfTheEvents(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "docs", "recipes.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Plugins []struct {
			Config map[string]any `yaml:"config"`
		} `yaml:"plugins"`
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(file.Plugins[0].Config)
	if err != nil {
		t.Fatal(err)
	}
	exported, err := os.ReadFile(filepath.Join("..", "testdata", "export", "recipes.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(exported))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("events.json", document); err != nil {
		t.Fatal(err)
	}
	events := c.MustCompile("events.json")
	types := map[string]bool{}
	for _, name := range []string{"chat", "orders"} {
		archive, err := txtar.ParseFile(filepath.Join("..", "testdata", "recipes", name+".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		p := testProcess(t)
		in, sink := testInstance(t, p, string(config))
		in.handle(saved{bytes.TrimSpace(archive.Files[0].Data), archive.Files[1].Data}, p.ledger.open())
		for _, r := range sink.records {
			event, err := jsonschema.UnmarshalJSON(bytes.NewReader(r.Value))
			if err != nil {
				t.Fatal(err)
			}
			if err := events.Validate(event); err != nil {
				t.Errorf("%s: %v\n%s", name, err, r.Value)
			}
			e := event.(map[string]any)
			types[e["type"].(string)] = true
			e["data"].(map[string]any)["prompt"] = []any{"what no event holds"}
			if events.Validate(event) == nil {
				t.Errorf("a list passes for data of %s", e["type"])
			}
		}
	}
	if len(types) != 13 {
		t.Errorf("events of %d types were validated: %v", len(types), types)
	}
}
