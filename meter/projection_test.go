package meter_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kafka-metering/meter"
)

// project returns a document that holds only the paths.
func project(t *testing.T, document []byte, paths [][]string) []byte {
	t.Helper()
	var whole map[string]any
	if err := json.Unmarshal(document, &whole); err != nil {
		t.Fatal(err)
	}
	part := map[string]any{}
	for _, path := range paths {
		from, into := whole, part
		for i, key := range path {
			value, ok := from[key]
			if !ok {
				break
			}
			if i == len(path)-1 {
				into[key] = value
				break
			}
			if from, ok = value.(map[string]any); !ok {
				break
			}
			if into[key] == nil {
				into[key] = map[string]any{}
			}
			into, _ = into[key].(map[string]any)
		}
	}
	b, err := json.Marshal(part)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheLogsPathsAreAllThatIsReadOfIt(t *testing.T) {
	p, err := meter.Compile(meter.Settings{
		Meters: []meter.Meter{
			meter.APIRequests(), meter.AICalls(),
			{Slug: "a", EventType: "own", Aggregation: meter.Sum, Value: "response.size", Filter: "has(service.name)", GroupBy: map[string]string{"agent": "request.headers['user-agent']"}},
		},
		SubjectSources: []meter.SubjectSource{{LookUpValueIn: "consumer", Field: "username"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join("..", "testdata", "serialize", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal("no logs", err)
	}
	for _, file := range files {
		document, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		events := func(log []byte) []meter.Event {
			o, err := p.Observe(string(log))
			if err != nil {
				t.Fatal(err)
			}
			o.InferOutcome()
			return p.Events(o).Events
		}
		want := events(document)
		if len(want) != 2 {
			t.Errorf("%s gives %d events", file, len(want))
		}
		if diff := cmp.Diff(want, events(project(t, document, p.LogPaths()))); diff != "" {
			t.Errorf("%s (-whole log +its paths):\n%s", file, diff)
		}
	}
}
