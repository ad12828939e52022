package meter

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// TestADocumentGivesTheSameEvents writes observations out and reads them again.
func TestADocumentGivesTheSameEvents(t *testing.T) {
	settings := Settings{
		Meters: []Meter{
			APIRequests(), AITokenUsage(), AICalls(),
			{Slug: "a", EventType: "e", Aggregation: Sum, Filter: "response.status < 600", Value: "body.rows * 0.5", GroupBy: map[string]string{"kind": "body['by-kind']['in']", "outcome": "outcome", "subject": "subject", "mode": "capture.mode"}},
			{Slug: "b", EventType: "f", Aggregation: Count, ForEach: "body.list", GroupBy: map[string]string{"sku": "each.sku"}},
		},
		SubjectSources: defaultSources,
	}
	p, err := Compile(settings)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"plain", "authenticated", "buffered", "ai_proxy", "stream"} {
		observe := func() *Observation {
			o, err := p.Observe(serialized(t, name))
			if err != nil {
				t.Fatal(err)
			}
			o.InferOutcome()
			o.Capture = Capture{Mode: CaptureTap, Complete: true, Measured: true, BytesDelivered: 7}
			o.Body = []byte(exampleBody)
			o.LLM = &LLM{Provider: "openai", Model: "gpt-4o", UsageStatus: UsageFinal, UsageSource: SourceBody}
			o.LLM.Usage.Set(InputTokens, 11)
			o.LLM.Usage.Set(OutputTokens, 0)
			return o
		}
		want := p.Events(observe())
		document := p.Document(observe())
		if !json.Valid(document) || !utf8.Valid(document) {
			t.Fatalf("%s: no JSON: %s", name, document)
		}
		o, err := p.Replay(string(document))
		if err != nil {
			t.Fatal(err)
		}
		got := p.Events(o)
		if diff := cmp.Diff(want.Events, got.Events); diff != "" || len(got.Events) < 5 {
			t.Errorf("%s: %d events (-observed +replayed)\n%s", name, len(got.Events), diff)
		}
	}
}

func TestADocumentHoldsNoSecretsAndNoMoreOfTheBodyThanIsRead(t *testing.T) {
	p, err := Compile(Settings{Meters: []Meter{{Slug: "m", Aggregation: Sum, Value: "body.usage.rows + body.usage.cells", GroupBy: map[string]string{"id": "body.id"}}}})
	if err != nil {
		t.Fatal(err)
	}
	o, err := p.Observe("{\"request\":{\"uri\":\"/x?key=planted&team=blue&access_token=planted&%6Bey=planted\",\"url\":\"https://k/x?key=planted\",\"querystring\":{\"key\":\"planted\",\"team\":\"blue\"}," +
		"\"headers\":{\"authorization\":\"planted\",\"cookie\":[\"planted\"],\"x-api-key\":\"planted\",\"x-team\":\"\xff\"}},\"response\":{\"headers\":{\"set-cookie\":\"planted\"}},\"upstream_uri\":\"/x?key=planted\"}")
	if err != nil {
		t.Fatal(err)
	}
	o.Body = []byte(`{"id":"i","prompt":"planted","usage":{"rows":1,"cells":2,"text":"planted"}}`)
	document := string(p.Document(o))
	if strings.Contains(document, "planted") || !utf8.ValidString(document) || !json.Valid([]byte(document)) {
		t.Error(document)
	}
	for _, want := range []string{`"body":{"id":"i","usage":{"cells":2,"rows":1}}`, `team=blue`, `"x-team":"` + "\ufffd" + `"`} {
		if !strings.Contains(document, want) {
			t.Errorf("%s is not in %s", want, document)
		}
	}
}

func TestExplainSaysWhatDecided(t *testing.T) {
	p, err := Compile(Settings{Meters: []Meter{
		{Slug: "a", EventType: "a", Aggregation: Count, Filter: "response.status == 200 && (route.name == 'orders' || has(request.headers['x-nobody'])) && route.tags.exists(t, t == 'paid')"},
		{Slug: "b", EventType: "b", Aggregation: Sum, Value: "consumer.credits"},
		{Slug: "c", EventType: "c", Aggregation: Sum, Value: "body.neg"},
		{Slug: "d", EventType: "d", Aggregation: Count, ForEach: "body.list", GroupBy: map[string]string{"x": "each.sku"}},
		{Slug: "e", EventType: "e", Aggregation: Count, Filter: "service.name == 'x'"},
		{Slug: "f", EventType: "f", Aggregation: Sum, Value: "body.rows", GroupBy: map[string]string{"route": "route.name", "none": "service.name"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	o, err := p.Observe(exampleLog)
	if err != nil {
		t.Fatal(err)
	}
	o.InferOutcome()
	o.Body = []byte(exampleBody)
	got := map[string]string{}
	verdicts := p.Explain(o)
	for _, v := range verdicts {
		text := "applies"
		if !v.Applies {
			text = "does not"
		}
		got[v.Meter.Slug] = text + ": " + v.Why
	}
	want := map[string]string{
		"a": `does not: route.name == "orders" || has(request.headers["x-nobody"]) is false`, "b": "does not: its value is absent",
		"c": "does not: its value is no finite number of at least 0; it is counted as invalid", "d": "applies: one event for each of 3 rows",
		"e": "does not: its filter is absent, because service.name is", "f": "applies: ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var parts []string
	for _, part := range verdicts[0].Filter {
		parts = append(parts, strings.Repeat(">", part.Depth)+part.Expression+" = "+part.Value)
	}
	wantParts := []string{
		"response.status == 200 && (route.name == 'orders' || has(request.headers['x-nobody'])) && route.tags.exists(t, t == 'paid') = false",
		">response.status == 200 = true",
		`>route.name == "orders" || has(request.headers["x-nobody"]) = false`,
		`>>route.name == "orders" = false`,
		`>>has(request.headers["x-nobody"]) = false`,
		`>route.tags.exists(t, t == "paid") = true`,
	}
	if diff := cmp.Diff(wantParts, parts); diff != "" {
		t.Error(diff)
	}
}
