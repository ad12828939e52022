package meter

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// serialized returns a log that a real Kong serialized.
func serialized(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", "serialize", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(b))
}

var defaultSources = []SubjectSource{{"consumer", "custom_id"}, {"consumer", "username"}, {"consumer", "id"}, {"credential", "id"}}

// evaluate runs meters over a log and returns the data of each event by id.
func evaluate(t *testing.T, s Settings, log string, change func(*Observation)) (map[string]string, Result) {
	t.Helper()
	p, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	o, err := p.Observe(log)
	if err != nil {
		t.Fatal(err)
	}
	o.InferOutcome()
	if change != nil {
		change(o)
	}
	r := p.Events(o)
	got := map[string]string{}
	for _, e := range r.Events {
		if _, twice := got[e.ID]; twice {
			t.Errorf("id %s stands twice", e.ID)
		}
		if !json.Valid(e.Data) || !utf8.Valid(e.Data) {
			t.Errorf("data of %s is not JSON in UTF-8: %q", e.ID, e.Data)
		}
		got[e.ID] = string(e.Data)
	}
	return got, r
}

func TestAnAPIRequestBecomesOneEventWithKongsDimensions(t *testing.T) {
	got, r := evaluate(t, Settings{
		Meters: []Meter{APIRequests(), AITokenUsage(), AICalls()}, SubjectSources: defaultSources, Source: "/kong/prod-eu/node-1",
		DataSchema: func(eventType string) string { return "urn:test:" + eventType },
	}, serialized(t, "authenticated"), nil)
	want := map[string]string{
		"64593a19e721a376184d706224dde809/kong.api_request": `{"consumer_custom_id":"cust-42","consumer_id":"b32379d9-3d28-5683-a79c-72139be6e34f","consumer_username":"alice",` +
			`"duration_ms":2,"kong_latency_ms":1,"outcome":"completed","request_bytes":103,"request_id":"64593a19e721a376184d706224dde809",` +
			`"request_method":"GET","response_bytes":500,"response_source":"upstream","route_id":"576c10f5-7dd6-5ffa-b939-ca03836424b6",` +
			`"route_name":"auth","service_id":"dea4c45f-3d88-5461-8ebd-05ae5bbbf87a","service_name":"up","status":200,"status_class":"2xx",` +
			`"tries":1,"upstream_latency_ms":0,"upstream_status":200,"value":1,"workspace":"0dc6f45b-8f8d-40d2-a504-473544ee190b"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	e := r.Events[0]
	e.Data = nil
	wantEvent := Event{
		ID: "64593a19e721a376184d706224dde809/kong.api_request", Source: "/kong/prod-eu/node-1", Type: "kong.api_request", Subject: "cust-42",
		Time: "2026-11-23T10:03:38.594Z", DataSchema: "urn:test:kong.api_request",
	}
	if diff := cmp.Diff(wantEvent, e); diff != "" {
		t.Error(diff)
	}
}

func TestAnLLMCallBecomesDisjointTokenEventsAndOneWideEvent(t *testing.T) {
	llm := LLM{Provider: "anthropic", Operation: "chat", Model: "claude-x", Stream: new(true), FinishReason: "end_turn", ResponseID: "msg_1", UsageStatus: UsageFinal, UsageSource: SourceStream}
	llm.Usage.Set(InputTokens, 1000)
	llm.Usage.Set(CacheReadInputTokens, 600)
	llm.Usage.Set(CacheWriteInputTokens, 0)
	llm.Usage.Set(OutputTokens, 50)
	llm.Usage.Set(ReasoningOutputTokens, 20)
	llm.Usage.Set(TotalTokens, 1050)
	got, _ := evaluate(t, Settings{Meters: []Meter{AITokenUsage(), AICalls()}, SubjectSources: defaultSources}, serialized(t, "plain"), func(o *Observation) { o.LLM = &llm })
	const id = "8aab2a7cbab60237a14a794412cde520"
	row := `,"usage_source":"stream","usage_status":"final"}`
	common := `"model":"claude-x","provider":"anthropic","request_id":"` + id + `","request_method":"GET","route_name":"probelog","service_name":"up",`
	want := map[string]string{
		id + "/kong.llm_request/0": `{` + common + `"tokens":400,"type":"input"` + row,
		id + "/kong.llm_request/1": `{` + common + `"tokens":600,"type":"cache_read"` + row,
		id + "/kong.llm_request/2": `{` + common + `"tokens":50,"type":"output"` + row,
	}
	wide := got[id+"/kong.llm_usage"]
	delete(got, id+"/kong.llm_usage")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, part := range []string{
		`"input_tokens":1000,`, `"cache_read_input_tokens":600,`, `"cache_write_input_tokens":0,`, `"output_tokens":50,`, `"reasoning_output_tokens":20,`,
		`"total_tokens":1050,`, `"finish_reason":"end_turn"`, `"stream":true`, `"usage_status":"final"`, `"response_id":"msg_1"`, `"operation":"chat"`,
		`"gen_ai_provider_name":"anthropic"`, `"outcome":"completed"`, `"status":200`,
	} {
		if !strings.Contains(wide, part) {
			t.Errorf("the wide event lacks %s: %s", part, wide)
		}
	}
	if strings.Contains(wide, "audio_input_tokens") {
		t.Errorf("the wide event holds a number that nobody declared: %s", wide)
	}
}

func TestAMissingUsageIsAnEventThatSaysMissing(t *testing.T) {
	got, _ := evaluate(t, Settings{Meters: []Meter{AITokenUsage(), AICalls()}}, serialized(t, "plain"), func(o *Observation) {
		o.LLM = &LLM{Provider: "openai", Operation: "chat", UsageStatus: UsageMissing}
	})
	if len(got) != 1 {
		t.Fatalf("want the wide event alone, got %v", got)
	}
	for id, data := range got {
		if !strings.HasSuffix(id, "/kong.llm_usage") || !strings.Contains(data, `"usage_status":"missing"`) || strings.Contains(data, "tokens") || strings.Contains(data, "usage_source") {
			t.Errorf("%s: %s", id, data)
		}
	}
}

func TestDeclaredMeters(t *testing.T) {
	const log = `{"request":{"id":"r1","headers":{"x-tenant-id":"t-1","x-two":["a","b"],"x-credits":"12","x-long":"` + "LONG" + `"},"querystring":{"format":"csv"},"size":10},"response":{"status":200,"size":2000,"headers":{}},"latencies":{"request":7},"started_at":1795428218594,"source":"upstream","route":{"name":"export","tags":["x"]},"tries":[{},{}],"upstream_status":"502, 200","service":null}`
	long := strings.Replace(log, "LONG", strings.Repeat("ä", 200), 1)
	body := []byte(`{"rows_exported":250,"credits":0.5,"negative":-1,"huge":1e308,"text":"7","list":[{"sku":"a","n":2},{"sku":"b","n":3},{"sku":"c"}],"list":[]}`)
	for name, test := range map[string]struct {
		meters []Meter
		want   map[string]string
		errors int
	}{
		"a sum of a log member": {
			[]Meter{{Slug: "egress", EventType: "acme.egress", Aggregation: Sum, Value: "response.size", ValueProperty: "bytes", GroupBy: map[string]string{"route": "route.name"}}},
			map[string]string{"r1/acme.egress": `{"bytes":2000,"route":"export"}`},
			0,
		},
		"defaults of event type and property": {
			[]Meter{{Slug: "a", Aggregation: Count}}, map[string]string{"r1/kong.meter": `{"value":1}`}, 0,
		},
		"a value from the body, an integral and a fractional one": {
			[]Meter{{Slug: "a", Aggregation: Sum, Value: "body.rows_exported", ValueProperty: "rows"}, {Slug: "b", Aggregation: Sum, Value: "body.credits", ValueProperty: "credits"}},
			map[string]string{"r1/kong.meter": `{"credits":0.5,"rows":250}`},
			0,
		},
		"a missing value makes the meter not apply": {
			[]Meter{{Slug: "a", Aggregation: Sum, Value: "body.absent"}}, map[string]string{}, 0,
		},
		"a missing dimension is left out": {
			[]Meter{{Slug: "a", Aggregation: Count, GroupBy: map[string]string{"x": "consumer.username", "y": "service.name", "q": "request.querystring.format"}}},
			map[string]string{"r1/kong.meter": `{"q":"csv","value":1}`},
			0,
		},
		"a negative value is counted and not published":   {[]Meter{{Slug: "a", Aggregation: Sum, Value: "body.negative"}}, map[string]string{}, 1},
		"a text is not a number":                          {[]Meter{{Slug: "a", Aggregation: Sum, Value: "body.text"}}, map[string]string{}, 1},
		"a text can be counted as unique":                 {[]Meter{{Slug: "a", Aggregation: UniqueCount, Value: "body.text"}}, map[string]string{"r1/kong.meter": `{"value":"7"}`}, 0},
		"a text that is too long is not cut to another's": {[]Meter{{Slug: "a", Aggregation: UniqueCount, Value: "request.headers['x-long']"}}, map[string]string{}, 1},
		"a large double stays a double":                   {[]Meter{{Slug: "a", Aggregation: Max, Value: "body.huge"}}, map[string]string{"r1/kong.meter": `{"value":1e+308}`}, 0},
		"a header with dashes, and a repeated one joined": {[]Meter{{Slug: "a", Aggregation: Count, GroupBy: map[string]string{"tenant": "request.headers['x-tenant-id']", "two": `request.headers["x-two"]`}}}, map[string]string{"r1/kong.meter": `{"tenant":"t-1","two":"a, b","value":1}`}, 0},
		"the last upstream status of several tries":       {[]Meter{{Slug: "a", Aggregation: Count, GroupBy: map[string]string{"s": "status(upstream_status)", "c": "status_class(upstream_status)", "n": "size(tries)"}}}, map[string]string{"r1/kong.meter": `{"c":"2xx","n":2,"s":200,"value":1}`}, 0},
		"meters of one event type become one event": {
			[]Meter{
				{Slug: "b", EventType: "e", Aggregation: Max, Value: "latencies.request", ValueProperty: "ms", GroupBy: map[string]string{"route": "route.name"}},
				{Slug: "a", EventType: "e", Aggregation: Sum, Value: "response.size", ValueProperty: "bytes", GroupBy: map[string]string{"route": "route.name", "format": "request.querystring.format"}},
				{Slug: "c", EventType: "e", Aggregation: Sum, Filter: "has(consumer.id)", Value: "response.size", ValueProperty: "known", GroupBy: map[string]string{"consumer": "consumer.id"}},
			},
			map[string]string{"r1/e": `{"bytes":2000,"format":"csv","ms":7,"route":"export"}`},
			0,
		},
		"one event for each row, and none for a row without a value": {
			[]Meter{{Slug: "a", EventType: "e", Aggregation: Sum, ForEach: "body.list", Value: "each.n", GroupBy: map[string]string{"sku": "each.sku", "route": "route.name"}}},
			map[string]string{"r1/e/0": `{"route":"export","sku":"a","value":2}`, "r1/e/1": `{"route":"export","sku":"b","value":3}`},
			0,
		},
		"rows that are plain values": {
			[]Meter{{Slug: "a", EventType: "e", Aggregation: Count, ForEach: "route.tags", GroupBy: map[string]string{"tag": "each"}}},
			map[string]string{"r1/e/0": `{"tag":"x","value":1}`},
			0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, r := evaluate(t, Settings{Meters: test.meters}, long, func(o *Observation) { o.Body = body })
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if r.MeterErrors != test.errors {
				t.Errorf("%d meter errors, want %d", r.MeterErrors, test.errors)
			}
		})
	}
	t.Run("a long dimension is cut and counted, and stays UTF-8", func(t *testing.T) {
		got, r := evaluate(t, Settings{Meters: []Meter{{Slug: "a", Aggregation: Count, GroupBy: map[string]string{"l": "request.headers['x-long']"}}}}, long, nil)
		if r.DimensionsTruncated != 1 || got["r1/kong.meter"] != `{"l":"`+strings.Repeat("ä", 128)+`","value":1}` {
			t.Error(r.DimensionsTruncated, got)
		}
	})
	t.Run("an object is no dimension", func(t *testing.T) {
		got, r := evaluate(t, Settings{Meters: []Meter{{Slug: "a", Aggregation: Count, GroupBy: map[string]string{"l": "request.headers"}}}}, long, nil)
		if r.DimensionErrors != 1 || got["r1/kong.meter"] != `{"value":1}` {
			t.Error(r.DimensionErrors, got)
		}
	})
}

func TestContradictionsAreReportedAndTheRestIsMetered(t *testing.T) {
	p, err := Compile(Settings{
		Meters: []Meter{
			{Slug: "one", EventType: "e", Aggregation: Sum, Value: "response.size", ValueProperty: "v"},
			{Slug: "two", EventType: "e", Aggregation: Sum, Value: "request.size", ValueProperty: "v"},
			{Slug: "three", EventType: "e", Aggregation: Count, ForEach: "tries"},
			{Slug: "four", Aggregation: Sum},
			{Slug: "five", Aggregation: Count, Filter: "response.status + 300"},
			{Slug: "six", Aggregation: Count, GroupBy: map[string]string{"a": "each.x"}},
			{Slug: "one", Aggregation: Count},
			{Slug: "Seven", Aggregation: "TOTAL"},
		},
		SubjectSources: []SubjectSource{{"cookie", "id"}},
		Attributes:     []Attribute{{"header", "x-v", "v"}, {"query", "team", "team"}, {"body", "x", "x"}},
	})
	if err == nil {
		t.Fatal("no problem reported")
	}
	for _, want := range []string{
		`meter "two": value: gives "v" of event type "e" another meaning than meter "one" does`,
		`meter "three": for_each: "tries" differs from "", which meter "one" of event type "e" has`,
		`meter "four": value: aggregation SUM needs one`,
		`meter "five": filter: the expression "response.status + 300" is not true or false`,
		`meter "six": group_by.a: each has a meaning only with for_each`,
		`meter "one": slug: another meter has it`,
		`meter "Seven": slug: "Seven"`,
		`aggregation: "TOTAL"`,
		`subject.sources[1]: look_up_value_in "cookie"`,
		`attributes[1]: event_property_name "v": meter "one" of event type "e" uses it`,
		`attributes[3]: source "body"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not reported: %s\n%v", want, err)
		}
	}
	o, err := p.Observe(`{"request":{"id":"r","size":1,"querystring":{"team":"blue"},"headers":{"x-v":"999"}},"response":{"size":5}}`)
	if err != nil {
		t.Fatal(err)
	}
	r := p.Events(o)
	if len(r.Events) != 1 || string(r.Events[0].Data) != `{"team":"blue","v":5}` {
		t.Errorf("got %+v", r.Events)
	}
}

func TestSubject(t *testing.T) {
	log := func(members string) string {
		return `{"request":{"id":"r","headers":{"x-customer":"from-header"}}` + members + `}`
	}
	for name, test := range map[string]struct {
		sources []SubjectSource
		log     string
		want    string
		missing bool
	}{
		"the first source that has a value":    {defaultSources, log(`,"consumer":{"id":"c-id","username":"u"}`), "u", false},
		"an empty value is none":               {defaultSources, log(`,"consumer":{"id":"c-id","custom_id":"","username":null}`), "c-id", false},
		"the credential when no consumer":      {defaultSources, log(`,"authenticated_entity":{"id":"cred"}`), "cred", false},
		"nobody":                               {defaultSources, log(``), AnonymousSubject, true},
		"a header whatever its case":           {[]SubjectSource{{"header", "X-Customer"}}, log(``), "from-header", false},
		"a number is taken as written":         {[]SubjectSource{{"consumer", "id"}}, log(`,"consumer":{"id":42}`), "42", false},
		"an object names nobody":               {[]SubjectSource{{"consumer", "id"}}, log(`,"consumer":{"id":{}}`), AnonymousSubject, true},
		"a value too long for a key is none":   {[]SubjectSource{{"consumer", "id"}}, log(`,"consumer":{"id":"` + strings.Repeat("x", 257) + `"}`), AnonymousSubject, true},
		"nor does text that is not UTF-8":      {[]SubjectSource{{"consumer", "id"}}, log(",\"consumer\":{\"id\":\"a\xffb\"}"), AnonymousSubject, true},
		"what no attribute may hold is U+FFFD": {[]SubjectSource{{"consumer", "id"}}, log(`,"consumer":{"id":"a\u0000\u007f\u0085\uffffb\"é\\"}`), "a" + strings.Repeat("\ufffd", 4) + "b\"é\\", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := evaluate(t, Settings{Meters: []Meter{APIRequests()}, SubjectSources: test.sources}, test.log, nil)
			if len(r.Events) != 1 || r.Events[0].Subject != test.want || r.SubjectMissing != test.missing {
				t.Errorf("subject %q, missing %v", r.Events[0].Subject, r.SubjectMissing)
			}
		})
	}
	_, r := evaluate(t, Settings{Meters: []Meter{APIRequests()}, SubjectSources: defaultSources, OnMissing: MissingDrop}, log(``), nil)
	if len(r.Events) != 0 || !r.SubjectMissing {
		t.Error("drop keeps an exchange without a customer")
	}
}

func TestOutcome(t *testing.T) {
	for name, test := range map[string]struct {
		log  string
		want Outcome
	}{
		"an answer of the upstream":        {`{"source":"upstream","response":{"status":200},"upstream_status":"200"}`, OutcomeCompleted},
		"a client's mistake is completed":  {`{"source":"upstream","response":{"status":429},"upstream_status":"429"}`, OutcomeCompleted},
		"a buffered answer":                {`{"source":"upstream","response":{"status":200},"upstream_status":200}`, OutcomeCompleted},
		"an error of the upstream":         {`{"source":"upstream","response":{"status":503},"upstream_status":"503"}`, OutcomeUpstreamError},
		"an upstream that cannot be asked": {`{"source":"kong","response":{"status":502},"upstream_status":"502","tries":[{}]}`, OutcomeUpstreamError},
		"an upstream that does not answer": {`{"source":"kong","response":{"status":504},"upstream_status":"504","tries":[{}]}`, OutcomeTimeout},
		"the same, buffered":               {`{"source":"kong","response":{"status":502},"upstream_status":"","tries":[{},{}]}`, OutcomeUpstreamError},
		"a timeout, buffered":              {`{"source":"kong","response":{"status":504},"upstream_status":"","tries":[{}]}`, OutcomeTimeout},
		"a body that is cut, buffered":     {`{"source":"kong","response":{"status":200},"upstream_status":"","tries":[{}]}`, OutcomeUpstreamError},
		"a client that does not wait":      {`{"source":"upstream","response":{"status":499},"upstream_status":"-","tries":[{}]}`, OutcomeClientAbort},
		"a client that stops in its body":  {`{"source":"upstream","response":{"status":400},"upstream_status":""}`, OutcomeClientAbort},
		"a status 499 of the upstream's":   {`{"source":"upstream","response":{"status":499},"upstream_status":"499","tries":[{}]}`, OutcomeCompleted},
		"a rejected credential":            {`{"source":"kong","response":{"status":401},"upstream_status":"","tries":{}}`, OutcomeRejected},
		"no route":                         {`{"source":"kong","response":{"status":404}}`, OutcomeRejected},
	} {
		_, r := evaluate(t, Settings{Meters: []Meter{{Slug: "a", Aggregation: Count, GroupBy: map[string]string{"o": "outcome"}}}}, test.log, nil)
		if got, want := string(r.Events[0].Data), fmt.Sprintf(`{"o":"%s","value":1}`, test.want); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestWithoutARequestIDTheIDIsAHashThatMemberOrderDoesNotChange(t *testing.T) {
	settings := Settings{Meters: []Meter{APIRequests()}}
	ids := map[string]bool{}
	for _, log := range []string{
		`{"request":{"method":"GET","size":1},"tries":[{"balancer_start_ns":1.5e18}],"started_at":5}`,
		`{"started_at":5,"tries":[{"balancer_start_ns":1.5e18}],"request":{"size":1,"method":"GET"}}`,
		`{"started_at":5,"tries":[{"balancer_start_ns":1.6e18}],"request":{"size":1,"method":"GET"}}`,
	} {
		got, r := evaluate(t, settings, log, nil)
		if !r.NoRequestID {
			t.Error("not counted")
		}
		maps.Copy(ids, map[string]bool{slices.Collect(maps.Keys(got))[0]: true})
	}
	if len(ids) != 2 {
		t.Errorf("want two ids, got %v", ids)
	}
}

// TestAnEventIsWhatItsMetersSayTogether holds many random sets of meters that do not contradict each other to the rule of merging:
// an event type's data is the union of what each of its meters would have said alone, whatever their order, and the same each time.
func TestAnEventIsWhatItsMetersSayTogether(t *testing.T) {
	values := map[string]string{
		"bytes": "response.size", "ms": "latencies.request * 2", "rows": "body.rows", "none": "body.nothing", "bad": "body.neg", "text": "body.text",
		"tries": "size(tries)", "credits": "double(request.headers['x-credits'])", "raw": "latencies.request",
	}
	dimensions := map[string]string{
		"route": "route.name", "tenant": "lower(request.headers['x-tenant-id'])", "service": "service.name", "two": "request.headers['x-two']", "failed": "request.method + 1",
	}
	filters := []string{"", "response.status < 300", "route.name != 'orders'", "has(consumer.id)", "route.name == 'orders'", "service.name == 'x'", "request.method < 1"}
	names := slices.Sorted(maps.Keys(values))
	shape := func(o *Observation) { o.Body = []byte(exampleBody) }
	merged, several := 0, 0
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 1))
		meters := []Meter{APIRequests()}
		for i := range 2 + random.IntN(7) {
			name := names[random.IntN(len(names))]
			m := Meter{
				Slug: fmt.Sprintf("m%d", i), EventType: fmt.Sprintf("e%d", random.IntN(2)), Aggregation: Sum, Value: values[name], ValueProperty: name,
				Filter: filters[random.IntN(len(filters))], GroupBy: map[string]string{},
			}
			for _, d := range slices.Sorted(maps.Keys(dimensions)) {
				if random.IntN(2) == 0 {
					m.GroupBy[d] = dimensions[d]
				}
			}
			meters = append(meters, m)
		}
		alone := map[string]map[string]json.RawMessage{} // by event id
		for _, m := range meters {
			one, _ := evaluate(t, Settings{Meters: []Meter{m}}, exampleLog, shape)
			for id, data := range one {
				if alone[id] == nil {
					alone[id] = map[string]json.RawMessage{}
				} else {
					several++
				}
				into := alone[id] // it adds to what is there
				if err := json.Unmarshal([]byte(data), &into); err != nil {
					t.Fatal(err)
				}
			}
		}
		first, _ := evaluate(t, Settings{Meters: meters}, exampleLog, shape)
		together := map[string]map[string]json.RawMessage{}
		for id, data := range first {
			var members map[string]json.RawMessage
			if err := json.Unmarshal([]byte(data), &members); err != nil {
				t.Fatal(err)
			}
			together[id] = members
			merged++
		}
		if diff := cmp.Diff(alone, together); diff != "" {
			t.Fatalf("seed %d: %+v\n(-alone +together)\n%s", seed, meters, diff)
		}
		random.Shuffle(len(meters), func(i, j int) { meters[i], meters[j] = meters[j], meters[i] })
		second, _ := evaluate(t, Settings{Meters: meters}, exampleLog, shape)
		if diff := cmp.Diff(first, second); diff != "" {
			t.Fatalf("seed %d: the order matters: %s", seed, diff)
		}
	}
	if merged < 200 || several < 50 {
		t.Errorf("%d events, %d of several meters: this tests too little", merged, several)
	}
}

func TestTheOrderOfMetersNeverMatters(t *testing.T) {
	meters := []Meter{
		APIRequests(), AITokenUsage(), AICalls(),
		{Slug: "x", EventType: "e", Aggregation: Sum, Value: "response.size", ValueProperty: "x", GroupBy: map[string]string{"route": "route.name"}},
		{Slug: "y", EventType: "e", Aggregation: Max, Value: "latencies.request", ValueProperty: "y", GroupBy: map[string]string{"route": "route.name", "status": "response.status"}},
	}
	log, llm := serialized(t, "buffered"), &LLM{Provider: "openai", UsageStatus: UsageFinal, UsageSource: SourceBody}
	llm.Usage.Set(InputTokens, 3)
	llm.Usage.Set(OutputTokens, 4)
	want, _ := evaluate(t, Settings{Meters: meters}, log, func(o *Observation) { o.LLM = llm })
	for range 50 {
		rand.Shuffle(len(meters), func(i, j int) { meters[i], meters[j] = meters[j], meters[i] })
		got, _ := evaluate(t, Settings{Meters: meters}, log, func(o *Observation) { o.LLM = llm })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestWhatIsNotAnObjectIsRefused(t *testing.T) {
	p, _ := Compile(Settings{Meters: []Meter{APIRequests()}})
	for _, log := range []string{"", "null", "[]", `"x"`, `{"a":`, `{"a":1}}`, strings.Repeat("{", 1<<20), strings.Repeat("[", 10<<20), `{"a":` + strings.Repeat("[", 1001) + strings.Repeat("]", 1001) + "}"} {
		if _, err := p.Observe(log); err == nil {
			t.Errorf("%.20q is taken", log)
		}
	}
}

func TestABodyThatNestsTooDeepIsNotRead(t *testing.T) {
	got, _ := evaluate(t, Settings{Meters: []Meter{APIRequests(), {Slug: "a", Aggregation: Sum, Value: "body.n"}}}, `{"request":{"id":"r"}}`, func(o *Observation) {
		o.Body = []byte(`{"n":1,"a":` + strings.Repeat("[", 10<<20))
	})
	if len(got) != 1 {
		t.Errorf("got %v", got)
	}
}

func TestAMemberThatAnotherPluginAddsToTheLogIsNotReadForOurs(t *testing.T) {
	got, _ := evaluate(t, Settings{Meters: []Meter{AITokenUsage(), AICalls(), APIRequests()}, SubjectSources: defaultSources},
		`{"llm":{"usage_status":"final","tokens":[{"type":"input","tokens":999}]},"outcome":"timeout","subject":"x","source":"upstream","request":{"id":"r"},"response":{"status":200}}`, nil)
	want := map[string]string{"r/kong.api_request": `{"outcome":"completed","request_id":"r","response_source":"upstream","status":200,"status_class":"2xx","value":1}`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheStructuredEventIsReadable(t *testing.T) {
	e := Event{
		ID: "r/kong.meter", Source: "/kong/a/b", Type: "kong.meter", Subject: "line\nbreak \"quoted\" \\ \x01 \xff é", Time: FormatTime(time.UnixMilli(1795428218594)),
		Sequence: "1-000000000001", RecordedTime: FormatTime(time.UnixMilli(1795428218700)), Data: []byte(`{"value":1}`),
	}
	want := `{"specversion":"1.0","id":"r/kong.meter","source":"/kong/a/b","type":"kong.meter","subject":"line\nbreak \"quoted\" \\ \u0001 ` + "\ufffd" + ` é",` +
		`"time":"2026-11-23T10:03:38.594Z","datacontenttype":"application/json","partitionkey":"line\nbreak \"quoted\" \\ \u0001 ` + "\ufffd" + ` é",` +
		`"sequence":"1-000000000001","recordedtime":"2026-11-23T10:03:38.700Z","data":{"value":1}}`
	if diff := cmp.Diff(want, string(e.AppendStructured(nil))); diff != "" {
		t.Error(diff)
	}
}

func TestATraceParentIsTakenOnlyInW3CForm(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for s, want := range map[string]string{
		good: good, "": "", strings.ToUpper(good): "", good[:54] + "\n": "", good + "0": "",
		"ff" + good[2:]: "", "01" + good[2:]: "01" + good[2:],
		"00-" + strings.Repeat("-", 32) + good[35:]: "", // dashes where digits belong
		"00-" + strings.Repeat("0", 32) + good[35:]: "", good[:36] + strings.Repeat("0", 16) + "-01": "",
	} {
		if got := traceParent(s); got != want {
			t.Errorf("%q: got %q", s, got)
		}
	}
}

// FuzzObserve feeds any log to the presets: no panic, and every event is JSON in UTF-8.
func FuzzObserve(f *testing.F) {
	f.Add(serialized(f, "plain"))
	f.Add(serialized(f, "ai_proxy"))
	f.Add("{\"request\":{\"id\":\"\xff\",\"headers\":{\"a\":[\"\\ud800\",{}]}},\"started_at\":1e300}")
	p, err := Compile(Settings{
		Meters:         []Meter{APIRequests(), AITokenUsage(), AICalls(), {Slug: "a", EventType: "e", Aggregation: Count, ForEach: "tries", GroupBy: map[string]string{"x": "each.ip", "y": "each"}}},
		SubjectSources: defaultSources, Attributes: []Attribute{{"header", "a", "a"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, log string) {
		o, err := p.Observe(log)
		if err != nil {
			return
		}
		o.InferOutcome()
		o.LLM = &LLM{Model: log, UsageStatus: UsageMissing}
		r := p.Events(o)
		r.SetTime(time.Unix(0, 0))
		for _, e := range r.Events {
			if b := e.AppendStructured(nil); !json.Valid(b) || !utf8.Valid(b) {
				t.Errorf("not JSON in UTF-8: %q", b)
			}
		}
	})
}

func TestResponseHeadersThatWereAskedForAreKnown(t *testing.T) {
	p, err := Compile(Settings{Headers: []string{"x-prompt-tokens", "x-twice"}})
	if err != nil {
		t.Fatal(err)
	}
	o, err := p.Observe(`{"response":{"headers":{"x-prompt-tokens":"11","x-twice":["1","2"],"x-other":"3"}}}`)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"x-prompt-tokens": "11", "x-twice": "", "x-other": "", "x-missing": ""} {
		if got := o.ResponseHeader(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// fourKilobytes is Kong's log of a browser's request that came through a proxy.
func fourKilobytes(t testing.TB) string {
	const agent = `"user-agent":"`
	headers := `"sec-ch-ua":"\"Chromium\";v=\"142\", \"Google Chrome\";v=\"142\", \"Not_A Brand\";v=\"99\"","sec-ch-ua-mobile":"?0","sec-ch-ua-platform":"\"Linux\"",` +
		`"sec-fetch-dest":"empty","sec-fetch-mode":"cors","sec-fetch-site":"same-origin","accept-language":"en-GB,en;q=0.9,de;q=0.8","accept-encoding":"gzip, deflate, br, zstd",` +
		`"authorization":"REDACTED","content-type":"application/json","origin":"https://shop.example.com","referer":"https://shop.example.com/orders?page=2&sort=created_at",` +
		`"x-forwarded-for":"203.0.113.7, 10.0.0.1","x-forwarded-proto":"https","x-forwarded-host":"api.example.com","x-forwarded-port":"443","x-real-ip":"203.0.113.7",` +
		`"x-tenant-id":"tenant-0042","x-request-id":"2f1c9a44-7d2e-4b0f-9a2b-0f6a4f6b1c11","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","tracestate":"vendor=opaque",` +
		`"cookie":"session=` + strings.Repeat("0123456789abcdef", 66) + `",`
	s := strings.Replace(serialized(t, "authenticated"), agent, headers+agent, 1)
	if len(s) < 4000 || len(s) > 4300 {
		t.Fatalf("%d bytes", len(s))
	}
	return s
}

func BenchmarkObserveToEvents(b *testing.B) {
	p, err := Compile(Settings{Meters: []Meter{APIRequests(), AITokenUsage(), AICalls()}, SubjectSources: defaultSources, Source: "/kong/a/b"})
	if err != nil {
		b.Fatal(err)
	}
	log := serialized(b, "authenticated")
	llm := &LLM{Provider: "openai", Operation: "chat", Model: "gpt-x", UsageStatus: UsageFinal, UsageSource: SourceBody}
	llm.Usage.Set(InputTokens, 11)
	llm.Usage.Set(OutputTokens, 22)
	llm.Usage.Set(TotalTokens, 33)
	for name, l := range map[string]*LLM{"api": nil, "api 4 KB": nil, "llm": llm} {
		b.Run(name, func(b *testing.B) {
			log := log
			if name == "api 4 KB" {
				log = fourKilobytes(b)
			}
			b.SetBytes(int64(len(log)))
			b.ReportAllocs()
			var r Result
			for b.Loop() {
				o, err := p.Observe(log)
				if err != nil {
					b.Fatal(err)
				}
				o.InferOutcome()
				o.LLM = l
				r.Reset()
				p.Evaluate(o, &r)
				for i := range r.Events {
					_ = r.Events[i].AppendStructured(nil)
				}
			}
		})
	}
}
