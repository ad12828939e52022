package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"kafka-metering/meter"
)

// buffered is an exchange whose body Kong has buffered, on its way from an LLM API's path.
func buffered(t testing.TB, path, contentType string, body []byte) saved {
	t.Helper()
	log, err := os.ReadFile(filepath.Join("..", "testdata", "serialize", "buffered.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"upstream_uri":"\/json"`, `"upstream_uri":"` + path + `"`},
		{`"content-type":"application\/json"`, `"content-type":"` + contentType + `"`},
	} {
		if !bytes.Contains(log, []byte(change[0])) {
			t.Fatalf("the log has no %s", change[0])
		}
		log = bytes.Replace(log, []byte(change[0]), []byte(change[1]), 1)
	}
	return saved{log: bytes.TrimSpace(log), body: body}
}

// TestHostileBodiesInventNothing sends what a broken or hostile upstream may answer. Whatever it is, the request is
// counted, the call is seen, and no token is.
func TestHostileBodiesInventNothing(t *testing.T) {
	const (
		chat     = "/v1/chat/completions"
		messages = "/v1/messages"
		json     = "application/json"
		sse      = "text/event-stream"
		model    = `{"object":"chat.completion","model":"gpt-x",`
		choice   = `"choices":[{"index":0,"message":{"role":"assistant","content":"%"},"finish_reason":"stop"}]`
	)
	for name, test := range map[string]struct {
		path, contentType, body string
	}{
		"truncated JSON before its usage":          {chat, json, model + `"choices":[{"index":0,"message":{"role":"assistant","content":"hel`},
		"JSON truncated inside its usage":          {chat, json, model + `"usage":{"prompt_tokens":1`},
		"ten megabytes of braces":                  {chat, json, strings.Repeat("{", 10<<20)},
		"ten megabytes of brackets":                {chat, json, `{"a":` + strings.Repeat("[", 10<<20)},
		"nested objects":                           {chat, json, strings.Repeat(`{"usage":`, 1<<20)},
		"nothing but bytes that are not UTF-8":     {chat, json, strings.Repeat("\xff\xfe", 4096)},
		"a negative count":                         {chat, json, model + `"usage":{"prompt_tokens":-5,"completion_tokens":1,"total_tokens":6}}`},
		"a fraction":                               {chat, json, model + `"usage":{"prompt_tokens":1.5,"completion_tokens":1}}`},
		"1e308":                                    {chat, json, model + `"usage":{"prompt_tokens":1e308,"completion_tokens":1}}`},
		"a count beyond any integer":               {chat, json, model + `"usage":{"prompt_tokens":` + strings.Repeat("9", 4000) + `,"completion_tokens":1}}`},
		"counts that are text":                     {chat, json, model + `"usage":{"prompt_tokens":"11","completion_tokens":"22"}}`},
		"usage that is a list":                     {chat, json, model + `"usage":[{"prompt_tokens":11}]}`},
		"usage in the content":                     {chat, json, model + strings.Replace(choice, "%", `\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":22}`, 1) + `}`},
		"usage in a tool's arguments":              {chat, json, model + `"choices":[{"message":{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{\"usage\":{\"prompt_tokens\":11}}"}}]}}]}`},
		"usage in a tool's arguments as an object": {chat, json, model + `"choices":[{"message":{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{"usage":{"prompt_tokens":11}}}}]}}]}`},
		"usage of somebody else's":                 {chat, json, model + `"metadata":{"usage":{"prompt_tokens":11,"completion_tokens":22}}}`},
		"a stream that ends in mid-event":          {chat, sse, "data: {\"object\":\"chat.completion.chunk\",\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion"},
		"a stream whose content looks like a usage event": {
			chat, sse,
			"data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"delta\":{\"content\":\"\\n\\ndata: {\\\"usage\\\":{\\\"prompt_tokens\\\":11}}\\n\\n\"}}]}\n\ndata: [DONE]\n\n",
		},
		"usage in a comment, an id and an unknown field": {
			chat, sse,
			": {\"usage\":{\"prompt_tokens\":11}}\nid: {\"usage\":{\"prompt_tokens\":11}}\nusage: {\"prompt_tokens\":11}\n\ndata: [DONE]\n\n",
		},
		"an Anthropic answer with usage in its text": {
			messages, json,
			`{"type":"message","role":"assistant","model":"claude-x","content":[{"type":"text","text":"\"usage\":{\"input_tokens\":11}"},{"type":"tool_use","input":{"usage":{"input_tokens":11}}}]}`,
		},
		"an empty body": {chat, json, ""},
		"an HTML page":  {chat, "text/html", "<h1>usage</h1>"},
	} {
		t.Run(name, func(t *testing.T) {
			p := testProcess(t)
			in, sink := testInstance(t, p, `{"llm":{"provider":"auto"}}`)
			x := buffered(t, test.path, test.contentType, []byte(test.body))
			if test.path == messages {
				x.log = bytes.Replace(x.log, []byte(`"host":"127.0.0.1","enabled"`), []byte(`"host":"api.anthropic.com","enabled"`), 1)
			}
			in.handle(x, p.ledger.open())
			events := eventSchemas(t)
			counted, calls := 0, 0
			for _, r := range sink.records {
				checkRecord(t, events, r)
				event := gjson.ParseBytes(r.Value)
				switch event.Get("type").Str {
				case "kong.api_request":
					counted++
				case "kong.llm_usage":
					calls++
					if status := event.Get("data.usage_status").Str; status != "missing" {
						t.Errorf("usage_status is %q, want missing: %s", status, r.Value)
					}
					if event.Get("data.input_tokens").Exists() || event.Get("data.output_tokens").Exists() || event.Get("data.total_tokens").Exists() {
						t.Errorf("invented numbers: %s", r.Value)
					}
				default:
					t.Errorf("invented: %s", r.Value)
				}
			}
			if counted != 1 || calls != 1 {
				t.Errorf("%d requests and %d calls are counted, want one of each", counted, calls)
			}
			if p.ledger.balance() != 0 || p.ledger.ends[placeSpooled].Get() != 1 || p.ledger.ends[placePanic].Get() != 0 {
				t.Error("the exchange has no place in the ledger")
			}
			results := uint64(0)
			for _, c := range p.ledger.extractions {
				results += c.Get()
			}
			if results != 1 || p.ledger.extractions[extractionOK].Get() != 0 {
				t.Errorf("%d results of the extraction", results)
			}
		})
	}
}

// TestInvalidUTF8EverywhereIsMetered puts bytes that are not UTF-8 wherever a client or an upstream can.
func TestInvalidUTF8EverywhereIsMetered(t *testing.T) {
	p := testProcess(t)
	in, sink := testInstance(t, p, `{"attributes":[{"source":"header","look_up_value_in":"x-department","event_property_name":"department"}]}`)
	log := "{\"request\":{\"id\":\"8aab2a7cbab60237a14a794412cde520\",\"method\":\"GET\xff\",\"uri\":\"/\xff\",\"querystring\":{\"\xff\":\"\xfe\"}," +
		"\"headers\":{\"x-department\":\"caf\xe9\",\"user-agent\":\"\xff\"}},\"response\":{\"status\":200,\"headers\":{\"content-type\":\"\xff\"}}," +
		"\"consumer\":{\"custom_id\":\"\xff1\"},\"route\":{\"name\":\"\xff\"},\"source\":\"upstream\",\"started_at\":1795428218594}"
	in.handle(saved{log: []byte(log)}, p.ledger.open())
	if len(sink.records) != 1 {
		t.Fatalf("%d records", len(sink.records))
	}
	checkRecord(t, eventSchemas(t), sink.records[0])
	if got := gjson.GetBytes(sink.records[0].Value, "data.department").Str; got != "caf\ufffd" {
		t.Errorf("department is %q", got)
	}
	if got := gjson.GetBytes(sink.records[0].Value, "subject").Str; got != meter.AnonymousSubject { // mended it might be another customer's

		t.Errorf("subject is %q", got)
	}
}
