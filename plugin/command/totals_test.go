package command

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func parsedEvent(t *testing.T, id, eventType, data string) event {
	t.Helper()
	e, ok := parseEvent([]byte(`{"specversion":"1.0","id":"` + id + `","source":"/kong/a/b","type":"` + eventType +
		`","subject":"cust-1","time":"2026-11-23T10:03:38.594Z","data":` + data + `}`))
	if !ok {
		t.Fatalf("%s is no event", data)
	}
	return e
}

func TestTotalsFoldEachEventOnceAsItsMeterDeclares(t *testing.T) {
	sums := newTotals(map[[2]string]string{
		{"acme.traffic", "ms"}: "MAX", {"acme.traffic", "fastest"}: "MIN", {"acme.traffic", "mean"}: "AVG", {"acme.traffic", "last"}: "LATEST",
	})
	for _, e := range []event{
		parsedEvent(t, "1", "acme.traffic", `{"bytes":1.5,"ms":5,"fastest":5,"mean":2,"last":5,"route":"r"}`),
		parsedEvent(t, "2", "acme.traffic", `{"bytes":2,"ms":9,"fastest":9,"mean":5,"last":9}`),
		parsedEvent(t, "3", "acme.traffic", `{"ms":7,"fastest":7,"mean":5,"last":7}`),
		parsedEvent(t, "3", "acme.traffic", `{"ms":7,"fastest":7,"mean":5,"last":7}`), // delivered again
		parsedEvent(t, "4", "kong.api_request", `{"value":1,"status_class":"2xx"}`),
		parsedEvent(t, "5/0", "kong.llm_request", `{"tokens":11,"type":"input","model":"gpt-x"}`),
		parsedEvent(t, "5/1", "kong.llm_request", `{"tokens":22,"type":"output","model":"gpt-x"}`),
		parsedEvent(t, "5", "kong.llm_usage", `{"usage_status":"final","model":"gpt-x"}`),
	} {
		sums.add(e)
	}
	if sums.duplicates != 1 {
		t.Errorf("%d duplicates, want 1", sums.duplicates)
	}
	var out strings.Builder
	if err := sums.print(&out); err != nil {
		t.Fatal(err)
	}
	want := `EVENT TYPE        CUSTOMER  MODEL  WHAT                EVENTS  TOTAL
acme.traffic      cust-1    -      bytes               2       3.5
                  cust-1    -      fastest             3       5 min
                  cust-1    -      last                3       7 latest
                  cust-1    -      mean                3       4 avg
                  cust-1    -      ms                  3       9 max
kong.api_request  cust-1    -      requests 2xx        1       1
kong.llm_request  cust-1    gpt-x  input tokens        1       11
                  cust-1    gpt-x  output tokens       1       22
kong.llm_usage    cust-1    gpt-x  calls, usage final  1       1
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsNoEventIsRefused(t *testing.T) {
	for _, value := range []string{``, `{`, `[]`, `{}`, `{"specversion":"0.3","id":"1","data":{}}`, `{"specversion":"1.0","id":"1","data":[]}`, `{"specversion":"1.0","data":{}}`} {
		if _, ok := parseEvent([]byte(value)); ok {
			t.Errorf("%s is taken for an event", value)
		}
	}
}

func TestALineSaysWhatHappened(t *testing.T) {
	for data, want := range map[[2]string]string{
		{"kong.api_request", `{"request_method":"GET","status":404,"outcome":"rejected","duration_ms":0}`}: "10:03:38.594  kong.api_request  cust-1      GET  (no route) 404 rejected, 0 ms",
		{"kong.llm_usage", `{"request_model":"gpt-x","stream":true,"usage_status":"missing"}`}:             "10:03:38.594  kong.llm_usage    cust-1      gpt-x, streamed: usage missing, ? in, ? out",
		{"kong.llm_usage", `{"model":"gpt-x","usage_status":"final","input_tokens":0,"output_tokens":2}`}:  "10:03:38.594  kong.llm_usage    cust-1      gpt-x: usage final, 0 in, 2 out",
		{"acme.traffic", `{"bytes":12,"route":"orders"}`}:                                                  "10:03:38.594  acme.traffic      cust-1      bytes=12 route=orders",
		{"kong.llm_request", `{"tokens":11,"type":"cache_read","model":"gpt-x"}`}:                          "10:03:38.594  kong.llm_request  cust-1         11 cache_read tokens of gpt-x",
	} {
		if got := parsedEvent(t, "1", data[0], data[1]).line(); got != want {
			t.Errorf("%s\n got %q\nwant %q", data[1], got, want)
		}
	}
}
