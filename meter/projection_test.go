package meter_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

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

// pick returns the members of the document at the paths, as JSON; nil where it has none.
func pick(t *testing.T, document []byte, paths [][]string) (members [][]byte) {
	t.Helper()
	for _, path := range paths {
		value := gjson.ParseBytes(document)
		for _, key := range path {
			value = value.Map()[key]
		}
		members = append(members, []byte(value.Raw))
	}
	return members
}

func TestAnExcerptIsObservedAsTheWholeLogIs(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "testdata", "serialize", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal("no logs", err)
	}
	for name, more := range map[string]map[string]string{
		"members":                         {"agent": "request.headers['user-agent']", "slash": `request.querystring["a\"b"]`},
		"parts of a member that is there": {"tries": "size(tries)", "ip": "tries[0].ip"},
	} {
		p, err := meter.Compile(meter.Settings{
			Meters:         []meter.Meter{meter.APIRequests(), meter.AICalls(), {Slug: "a", EventType: "own", Aggregation: meter.Count, GroupBy: more}},
			Headers:        []string{"x-usage"},
			SubjectSources: []meter.SubjectSource{{LookUpValueIn: "consumer", Field: "username"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		every, calls := p.LogPaths()
		var o meter.Observation // one for all: its memory is used again
		for _, file := range files {
			document, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			whole, err := p.Observe(string(document))
			if err != nil {
				t.Fatal(err)
			}
			whole.InferOutcome()
			want := p.Events(whole).Events
			for _, paths := range [][][]string{every, calls} {
				members := pick(t, document, paths)
				for len(members) > 0 && len(members[len(members)-1]) == 0 {
					members = members[:len(members)-1] // as LuaJIT leaves them out
				}
				if err := p.Excerpt(paths).Observe(&o, members); err != nil {
					t.Fatal(err)
				}
				o.InferOutcome()
				if diff := cmp.Diff(want, p.Events(&o).Events); diff != "" {
					t.Errorf("%s, %s (-whole log +excerpt):\n%s", name, file, diff)
				}
				if document := p.Document(&o); !json.Valid(document) {
					t.Errorf("%s, %s: the document is no JSON: %s", name, file, document)
				}
			}
			if o.UpstreamPath() != whole.UpstreamPath() || o.ResponseHeader("x-usage") != whole.ResponseHeader("x-usage") {
				t.Errorf("%s, %s: what tells of calls is another", name, file)
			}
		}
		if err := p.Excerpt(every).Observe(&o, make([][]byte, len(every)+1)); err == nil {
			t.Error("a member too many passes")
		}
		if err := p.Excerpt(every).Observe(&o, nil); err != nil || o.RequestID() != "" {
			t.Errorf("of nothing the id is %q: %v", o.RequestID(), err)
		}
	}
}

func TestWhatTellsOfCallsIsReadOnlyWhereAMeterAsks(t *testing.T) {
	count := func(m ...meter.Meter) (every, calls int) {
		p, err := meter.Compile(meter.Settings{Meters: m, Headers: []string{"x-usage"}})
		if err != nil {
			t.Fatal(err)
		}
		a, b := p.LogPaths()
		return len(a), len(b)
	}
	requests, none := count(meter.APIRequests())
	both, some := count(meter.APIRequests(), meter.AICalls())
	if none != requests || some <= both || requests != both {
		t.Errorf("of requests %d and %d paths, of calls %d and %d", requests, none, both, some)
	}
	body := meter.Meter{Slug: "b", Aggregation: meter.Sum, Value: "body.rows"}
	if every, calls := count(meter.APIRequests(), body); calls != every || every <= requests {
		t.Errorf("of bodies %d and %d paths", every, calls)
	}
	uri := meter.Meter{Slug: "u", Aggregation: meter.Count, GroupBy: map[string]string{"uri": "upstream_uri"}}
	if every, calls := count(meter.APIRequests(), meter.AICalls(), uri); every != requests+1 || calls != some {
		t.Errorf("with a dimension %d and %d paths, without it %d and %d", every, calls, requests, some)
	}
}

func TestTheLogsPathsAreAllThatIsReadOfIt(t *testing.T) {
	p, err := meter.Compile(meter.Settings{
		Meters: []meter.Meter{
			meter.APIRequests(), meter.AICalls(),
			{Slug: "a", EventType: "own", Aggregation: meter.Sum, Value: "response.size", Filter: "response.status < 600 && has(service.name)", GroupBy: map[string]string{"agent": "lower(request.headers['user-agent'])"}},
		},
		Headers:        []string{"x-usage"},
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
		every, calls := p.LogPaths()
		if diff := cmp.Diff(want, events(project(t, document, every))); diff != "" {
			t.Errorf("%s (-whole log +its paths):\n%s", file, diff)
		}
		o, err := p.Observe(string(project(t, document, calls)))
		if err != nil {
			t.Fatal(err)
		}
		whole, _ := p.Observe(string(document))
		facts := func(o *meter.Observation) []string {
			return []string{o.UpstreamPath(), o.ServiceHost(), o.ContentType(), o.ContentEncoding(), o.ResponseHeader("x-usage"), o.Method()}
		}
		if diff := cmp.Diff(facts(whole), facts(o)); diff != "" {
			t.Errorf("%s: what tells of calls (-whole log +its paths):\n%s", file, diff)
		}
	}
}
