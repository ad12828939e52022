package schema_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"kafka-metering/meter"
	"kafka-metering/schema"
)

func TestDumpHasTheFormThatKongReads(t *testing.T) {
	raw, err := os.ReadFile("kong.json")
	if err != nil {
		t.Fatal(err)
	}
	var config bytes.Buffer
	if err := json.Compact(&config, raw); err != nil {
		t.Fatal(err)
	}
	// json.Marshal writes these three so; to a JSON reader it is the same.
	escaped := strings.NewReplacer("<", `\u003c`, ">", `\u003e`, "&", `\u0026`).Replace(config.String())
	want := `{"Protocol":"ProtoBuf:1","SocketPath":"/usr/local/kong/kafka-metering.socket","Plugins":[` +
		`{"Name":"kafka-metering","Phases":["response","log"],"Version":"0.1.0","Priority":5,` +
		`"Schema":{"fields":[{"config":` + escaped + `}],"name":"kafka-metering"}}]}`
	got, err := schema.Dump("kafka-metering", "0.1.0", 5, []string{"response", "log"}, "/usr/local/kong/kafka-metering.socket")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("dump (-want +got):\n%s", diff)
	}
}

// compileEvents returns the schema of whole events.
func compileEvents(t *testing.T) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for urn, raw := range schema.EventSchemas() {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatalf("%s: %v", urn, err)
		}
		if err := c.AddResource(urn, doc); err != nil {
			t.Fatalf("%s: %v", urn, err)
		}
	}
	compiled, err := c.Compile(schema.EventSchema)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// event returns an event of a type with the given data.
func event(eventType, data string) string {
	return `{"specversion": "1.0", "id": "8d3f/` + eventType + `", "source": "/kong/demo/node-1", "type": "` + eventType + `",
		"subject": "cust-0001", "time": "2026-01-02T03:04:05.678Z", "datacontenttype": "application/json",
		"dataschema": "` + schema.DataSchema(eventType) + `", "partitionkey": "cust-0001", "sequence": "17",
		"recordedtime": "2026-01-02T03:04:05.700Z", "data": ` + data + `}`
}

const (
	apiData = `{"value": 1, "outcome": "completed", "status": 200, "status_class": "2xx", "upstream_status": 200, "request_id": "8d3f",
		"request_method": "GET", "route_name": "orders", "response_source": "upstream", "request_bytes": 101, "response_bytes": 2044,
		"duration_ms": 12, "kong_latency_ms": 1, "upstream_latency_ms": 11, "tries": 1, "department": "search"}`
	tokenData = `{"tokens": 17, "type": "cache_read", "model": "gpt-4o-mini", "provider": "openai", "usage_status": "final", "usage_source": "stream"}`
	usageData = `{"value": 1, "provider": "azure", "gen_ai_provider_name": "azure.ai.openai", "operation": "chat", "stream": true, "input_tokens": 12,
		"reasoning_output_tokens": 0, "usage_status": "final", "usage_source": "body", "outcome": "completed", "status": 200}`
)

func TestEventsThatKeepTheContractAreValid(t *testing.T) {
	compiled := compileEvents(t)
	for name, text := range map[string]string{
		"an API request":                          event("kong.api_request", apiData),
		"a request that Kong rejected":            event("kong.api_request", `{"value": 1, "outcome": "rejected", "status": 401, "upstream_latency_ms": -1}`),
		"the tokens of one type":                  event("kong.llm_request", tokenData),
		"an LLM call":                             event("kong.llm_usage", usageData),
		"an LLM call without usage":               event("kong.llm_usage", `{"usage_status": "missing", "outcome": "client_abort"}`),
		"a meter of the user's":                   event("acme.export", `{"credits": 1.5, "format": "csv", "trial": false}`),
		"an event with a trace":                   strings.Replace(event("kong.meter", `{"value": 1}`), `"id"`, `"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "id"`, 1),
		"a customer whose name is not Latin":      strings.Replace(event("kong.meter", `{"value": 1}`), `"subject": "cust-0001"`, `"subject": "株式会社"`, 1),
		"a dimension named as long as is allowed": event("kong.meter", `{"`+strings.Repeat("a", 63)+`": 1}`),
	} {
		if err := validateEvent(t, compiled, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEventsThatBreakTheContractAreInvalid(t *testing.T) {
	compiled := compileEvents(t)
	replace := func(text, old, fresh string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("no %s in %s", old, text)
		}
		return strings.Replace(text, old, fresh, 1)
	}
	api, tokens, usage := event("kong.api_request", apiData), event("kong.llm_request", tokenData), event("kong.llm_usage", usageData)
	for name, text := range map[string]string{
		"another version of CloudEvents":           replace(api, `"1.0"`, `"0.3"`),
		"no subject":                               replace(api, `"subject": "cust-0001",`, ``),
		"an empty subject":                         replace(api, `"subject": "cust-0001"`, `"subject": ""`),
		"a time without milliseconds":              replace(api, `05.678Z`, `05Z`),
		"a time with an offset":                    replace(api, `05.678Z`, `05.678+01:00`),
		"a time that is none":                      replace(api, `2026-01-02T03:04:05.678Z`, `2026-13-02T03:04:05.678Z`),
		"a source without a node":                  replace(api, `/kong/demo/node-1`, `/kong/demo`),
		"a number as sequence":                     replace(api, `"17"`, `17`),
		"an extension that nobody defined":         replace(api, `"id"`, `"extra": "x", "id"`),
		"data as base64":                           replace(api, `"data":`, `"data_base64":`),
		"the schema of another type":               replace(api, schema.DataSchema("kong.api_request"), schema.DataSchema("kong.llm_usage")),
		"a user's type with a preset's schema":     replace(event("x", `{"value": 1}`), schema.DataSchema("x"), schema.DataSchema("kong.api_request")),
		"a request counted twice":                  replace(api, `"value": 1`, `"value": 2`),
		"an outcome that is not known":             replace(api, `"completed"`, `"ok"`),
		"a negative number of bytes":               replace(api, `101`, `-1`),
		"a status as text":                         replace(api, `"status": 200`, `"status": "200"`),
		"a nested dimension":                       replace(api, `"search"`, `{"name": "search"}`),
		"a list as dimension":                      replace(api, `"search"`, `["search"]`),
		"null for an unknown dimension":            replace(api, `"search"`, `null`),
		"a dimension that is not in snake_case":    replace(api, `"department"`, `"Department"`),
		"a token type that is not disjoint":        replace(tokens, `"cache_read"`, `"total"`),
		"no tokens at all":                         replace(tokens, `"tokens": 17`, `"tokens": 0`),
		"a fraction of a token":                    replace(tokens, `"tokens": 17`, `"tokens": 17.5`),
		"tokens without a source":                  replace(tokens, `, "usage_source": "stream"`, ``),
		"an unknown quantity that is not a scalar": replace(usage, `"input_tokens": 12`, `"input_tokens": null`),
		"negative tokens":                          replace(usage, `"input_tokens": 12`, `"input_tokens": -12`),
		"a call without a status of its usage":     replace(usage, `"usage_status": "final", `, ``),
		"a meter without data":                     event("acme.export", `{}`),
	} {
		if err := validateEvent(t, compiled, text); err == nil {
			t.Errorf("%s is valid: %s", name, text)
		}
	}
}

func validateEvent(t *testing.T, compiled *jsonschema.Schema, text string) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return compiled.Validate(doc)
}

// properties returns the members that the data schema of an event type describes.
func properties(t *testing.T, eventType string) map[string]any {
	t.Helper()
	var doc struct{ Properties map[string]any }
	if err := json.Unmarshal(schema.EventSchemas()[schema.DataSchema(eventType)], &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Properties
}

func TestTheDataSchemasDescribeWhatThePresetsWrite(t *testing.T) {
	for _, m := range []meter.Meter{meter.APIRequests(), meter.AITokenUsage(), meter.AICalls()} {
		want := map[string]bool{m.ValueProperty: true}
		if m.ValueProperty == "" {
			want = map[string]bool{meter.DefaultValueProperty: true}
		}
		for name := range m.GroupBy {
			want[name] = true
		}
		got := map[string]bool{}
		for name := range properties(t, m.EventType) {
			got[name] = true
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-preset +schema):\n%s", m.EventType, diff)
		}
	}
	for _, q := range meter.Quantities() {
		if properties(t, meter.TypeLLMUsage)[q.String()] == nil {
			t.Errorf("%s has no %s", meter.TypeLLMUsage, q)
		}
	}
}

func TestEveryDataSchemaIsTheOneThatItsEventsName(t *testing.T) {
	schemas := schema.EventSchemas()
	for _, eventType := range []string{meter.TypeAPIRequest, meter.TypeLLMRequest, meter.TypeLLMUsage, "acme.export", meter.DefaultEventType} {
		if schemas[schema.DataSchema(eventType)] == nil {
			t.Errorf("%s: no schema is called %s", eventType, schema.DataSchema(eventType))
		}
	}
	if got, want := schema.DataSchema("acme.export"), "urn:kafka-metering:schema:event:1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestTheTablesNameEveryField(t *testing.T) {
	config := schema.ConfigTable()
	for _, want := range []string{
		"| `queue.max_bytes` | integer, 1048576 to 10995116277760 | `10737418240` |",
		"| `bootstrap_servers[].host` | string | required |",
		"| `subject.sources` | array of records | `consumer custom_id`, then `consumer username`,",
		"| `meters[].group_by` | map of string to string |  |",
		"| `queue.max_coalescing_delay` | number, 0 to 3600 | `0.05` |",
		"| `authentication.password` | string, or vault reference, stored encrypted |  |",
	} {
		if !strings.Contains(config, want) {
			t.Errorf("no %q in\n%s", want, config)
		}
	}
	for _, eventType := range []string{meter.TypeAPIRequest, meter.TypeLLMRequest, meter.TypeLLMUsage} {
		table := schema.EventTable(eventType)
		for name := range properties(t, eventType) {
			if !strings.Contains(table, "| `"+name+"` |") {
				t.Errorf("%s: no %s in\n%s", eventType, name, table)
			}
		}
	}
	for name, table := range map[string]string{"config": config, "event": schema.EventTable("")} {
		for line := range strings.Lines(table) {
			if columns := strings.Count(line, "|") - strings.Count(line, `\|`); columns != 5 {
				t.Errorf("%s: a line has %d bars, not 5: %s", name, columns, line)
			}
		}
	}
}

func TestEventsOfRealExchangesAreValid(t *testing.T) {
	compiled := compileEvents(t)
	program, err := meter.Compile(meter.Settings{
		Meters: []meter.Meter{
			meter.APIRequests(), meter.AITokenUsage(), meter.AICalls(),
			{Slug: "egress", EventType: "acme.egress", Aggregation: meter.Sum, Value: "response.size", ValueProperty: "bytes"},
		},
		SubjectSources: []meter.SubjectSource{{LookUpValueIn: "consumer", Field: "custom_id"}},
		Attributes:     []meter.Attribute{{Source: "header", LookUpValueIn: "x-department", EventPropertyName: "department"}},
		Source:         "/kong/demo/node-1",
		DataSchema:     schema.DataSchema,
	})
	if err != nil {
		t.Fatal(err)
	}
	llm := meter.LLM{
		Provider: "openai", Operation: "chat", RequestModel: "gpt-4o-mini", Model: "gpt-4o-mini-2024-07-18", Stream: new(true),
		FinishReason: "stop", ResponseID: "chatcmpl-1", UsageStatus: meter.UsageFinal, UsageSource: meter.SourceStream,
	}
	for i, q := range meter.Quantities() {
		llm.Usage.Set(q, int64(1000-i)/(1+int64(i)))
	}
	for name, c := range map[string]struct {
		log    string
		llm    *meter.LLM
		events int
	}{
		"an LLM call": {`{"request": {"id": "8d3f", "method": "POST", "uri": "/openai/v1/chat/completions", "size": 412,
			"headers": {"x-department": "search", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}},
			"response": {"status": 200, "size": 2044, "headers": {"content-type": "text/event-stream"}}, "upstream_status": "200", "source": "upstream",
			"latencies": {"request": 912, "kong": 2, "proxy": 901, "receive": 9}, "started_at": 1767322445678, "tries": [{"ip": "127.0.0.1"}],
			"route": {"id": "r", "name": "openai"}, "service": {"id": "s", "name": "llm"}, "workspace": "w", "workspace_name": "default",
			"consumer": {"id": "c", "username": "acme", "custom_id": "cust-0001"}}`, &llm, 7},
		"an LLM call without usage": {
			`{"request": {"id": "8d40"}, "response": {"status": 200}, "source": "upstream", "started_at": 1767322445678}`,
			&meter.LLM{UsageStatus: meter.UsageMissing}, 2,
		},
		"a request that no route took": {`{"request": {"id": "8d41", "method": "GET", "size": 80}, "response": {"status": 404, "size": 201},
			"upstream_status": "", "source": "kong", "latencies": {"request": 0.5, "kong": 0, "proxy": -1}, "started_at": 1767322445678}`, nil, 2},
		"an exchange of which next to nothing is known": {`{"started_at": 1767322445678}`, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := program.Observe(c.log)
			if err != nil {
				t.Fatal(err)
			}
			o.LLM = c.llm
			o.InferOutcome()
			events := program.Events(o).Events
			if len(events) != c.events {
				t.Errorf("got %d events, want %d", len(events), c.events)
			}
			for i := range events {
				e := &events[i]
				e.Sequence, e.RecordedTime = "17", "2026-01-02T02:54:06.000Z"
				text := string(e.AppendStructured(nil))
				if err := validateEvent(t, compiled, text); err != nil {
					t.Errorf("%v\n%s", err, text)
				}
			}
		})
	}
}
