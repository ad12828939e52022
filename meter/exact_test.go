package meter

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

const exactLog = `{"request":{"id":"r1","method":"GET","size":1234567,"headers":{"x-a":"1"},"querystring":{"debug":true}},"response":{"status":200,"size":1234567,"headers":{}},"started_at":1700000000123,"source":"upstream"}`

// metered returns the events of an exchange with a body, and what else became of it.
func metered(t *testing.T, body string, meters ...Meter) Result {
	t.Helper()
	p, err := Compile(Settings{Meters: meters, SubjectSources: defaultSources, Source: "/kong/x/y"})
	if err != nil {
		t.Fatal(err)
	}
	o, err := p.Observe(exactLog)
	if err != nil {
		t.Fatal(err)
	}
	o.InferOutcome()
	o.Body = []byte(body)
	r := p.Events(o)
	for _, e := range r.Events {
		if !json.Valid(e.Data) {
			t.Errorf("an event's data are no JSON: %s", e.Data)
		}
	}
	return r
}

// TestADimensionIsWhatTheExchangeSays has values that are easily changed on their way.
func TestADimensionIsWhatTheExchangeSays(t *testing.T) {
	const body = "\ufeff" + `{"id":9007199254740993,"long":1234567890123456789,"o":{"a":null,"a":5,"b":null},"l":[{"a":null,"a":5}],"t":"` + "a" + `"}`
	for expression, want := range map[string]string{
		"body.id":                    `9007199254740993`,
		"body.long":                  `1234567890123456789`,
		"string(response.size)":      `"1234567"`,
		"string(0.1)":                `"0.1"`,
		"string(true)":               `"true"`,
		"string(21.0)":               `"21"`,
		"string(1e21)":               `"1000000000000000000000"`,
		"has(body.o.a)":              `false`,
		"body.l.map(r, has(r.a))[0]": `false`,
		"size(body.o)":               `0`,
		"size(body.o) + 0":           `0`,
		"size(body.l)":               `1`,
	} {
		r := metered(t, body, Meter{Slug: "a", Aggregation: Count, GroupBy: map[string]string{"d": expression}})
		if len(r.Events) != 1 || !strings.Contains(string(r.Events[0].Data), `"d":`+want) {
			t.Errorf("%s: got %s, want %s", expression, r.Events[0].Data, want)
		}
	}
}

func TestAnIDThatIsNoNumberIsNoUniqueValue(t *testing.T) {
	for id, applies := range map[string]bool{"1e999": false, "-1e999": false, "7": true, "1e3": true, `"7"`: true, "true": true, "null": false, "[7]": false} {
		r := metered(t, `{"id":`+id+`}`, Meter{Slug: "u", Aggregation: UniqueCount, Value: "body.id", GroupBy: map[string]string{"m": "request.method"}})
		if got := len(r.Events) == 1; got != applies {
			t.Errorf("%s: %d events, %d values invalid", id, len(r.Events), r.MeterErrors)
		}
	}
}

func TestADimensionIsCutBetweenCharacters(t *testing.T) {
	r := metered(t, `{"x":"a`+strings.Repeat("é", 200)+`"}`, Meter{Slug: "a", Aggregation: Count, GroupBy: map[string]string{"d": "body.x"}})
	if got := string(r.Events[0].Data); strings.Contains(got, "\ufffd") || !strings.Contains(got, `"a`+strings.Repeat("é", 127)+`"`) {
		t.Errorf("got %s", got)
	}
}

// TestWhatALoopCostsGrowsWithItsList has bodies of some thousands of rows, which are no attack.
func TestWhatALoopCostsGrowsWithItsList(t *testing.T) {
	for _, value := range []string{"sum(body.items.map(i, i.q))", "size(body.items.filter(i, i.q > 0))"} {
		for rows, applies := range map[int]bool{5000: true, 40_000: false} {
			body := `{"items":[` + strings.Repeat(`{"q":1,"sku":"a"},`, rows-1) + `{"q":1,"sku":"a"}]}`
			r := metered(t, body, Meter{Slug: "a", Aggregation: Sum, Value: value})
			if got := len(r.Events) == 1; got != applies || !got && r.ExpressionsTooCostly != 1 {
				t.Errorf("%s of %d rows: %d events, %d too costly", value, rows, len(r.Events), r.ExpressionsTooCostly)
			}
		}
	}
}

// TestACostlyMeterTakesNothingFromOthers spends what all expressions of an exchange may cost on one of them.
func TestACostlyMeterTakesNothingFromOthers(t *testing.T) {
	rows := make([]string, 400)
	for i := range rows {
		rows[i] = fmt.Sprintf(`{"id":%d,"items":[%s1]}`, i, strings.Repeat("1,", 800))
	}
	r := metered(t, `{"orders":[`+strings.Join(rows, ",")+`]}`,
		Meter{Slug: "a", EventType: "acme.a", Aggregation: Sum, ForEach: "body.orders", Value: "sum(each.items.map(x, x * 2))"},
		Meter{Slug: "b", EventType: "acme.b", Aggregation: Count, Filter: "lower(request.method) == 'get'"},
		Meter{Slug: "c", EventType: "acme.c", Aggregation: Count, GroupBy: map[string]string{"plan": "lower(request.headers[?'x-plan'].orValue('free'))"}})
	others := map[string]string{}
	for _, e := range r.Events {
		if e.Type != "acme.a" {
			others[e.Type] = string(e.Data)
		}
	}
	if r.ExpressionsTooCostly == 0 || len(others) != 2 || !strings.Contains(others["acme.c"], `"plan":"free"`) {
		t.Errorf("%d expressions too costly, others have %v", r.ExpressionsTooCostly, others)
	}
}

// TestRowsSpendNoMoreThanTheirExpressionsMay has rows for each of which an expression would be cheap, when the budget is spent.
func TestRowsSpendNoMoreThanTheirExpressionsMay(t *testing.T) {
	const rows, expressions = 1000, 20
	meters := make([]Meter, expressions)
	for i := range meters {
		meters[i] = Meter{
			Slug: fmt.Sprintf("m%d", i), EventType: fmt.Sprintf("acme.e%d", i), Aggregation: Sum,
			ForEach: "body.l", Value: "sum(each.map(x, x * 2))",
		}
	}
	row := "[" + strings.Repeat("1,", 99) + "1]"
	r := metered(t, `{"l":[`+strings.Repeat(row+",", rows-1)+row+`]}`, meters...)
	if most := uint64(maxExchangeCost + maxCost + expressions*2*maxSmallCost); r.x.cost > most || r.x.cost < maxExchangeCost {
		t.Errorf("all of it has cost %d, want some %d, at most %d", r.x.cost, maxExchangeCost, most)
	}
}

// TestAMemberThatIsNullIsAbsent compares the members that the Lua front sends with the whole log.
func TestAMemberThatIsNullIsAbsent(t *testing.T) {
	p, err := Compile(Settings{Meters: []Meter{{Slug: "m", Aggregation: Count, Filter: "!has(consumer.custom_id)"}}})
	if err != nil {
		t.Fatal(err)
	}
	paths, _ := p.LogPaths()
	members := make([][]byte, len(paths))
	for i, keys := range paths {
		switch strings.Join(keys, ".") {
		case "request.id":
			members[i] = []byte(`"r1"`)
		case "consumer.custom_id":
			members[i] = []byte("null")
		}
	}
	var o Observation
	if err := p.Excerpt(paths).Observe(&o, members); err != nil {
		t.Fatal(err)
	}
	if n := len(p.Events(&o).Events); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}

func TestANameThatIsNotUTF8NamesNobody(t *testing.T) {
	p, err := Compile(Settings{Meters: []Meter{APIRequests()}, SubjectSources: []SubjectSource{{"header", "x-customer"}}})
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]string{"m\xfcller": AnonymousSubject, "müller": "müller"} {
		o, err := p.Observe(`{"request":{"id":"r1","headers":{"x-customer":"` + raw + `"}},"response":{"status":200}}`)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Events(o).Events[0].Subject; got != want {
			t.Errorf("%q is billed as %q", raw, got)
		}
	}
}

// TestAReplayBillsWhoWasBilled has headers whose names look like secrets': one for the customer, and one for a dimension, which is not known any more.
func TestAReplayBillsWhoWasBilled(t *testing.T) {
	meters := []Meter{{Slug: "m", Aggregation: Count, GroupBy: map[string]string{"session": "request.headers['x-session']", "method": "request.method"}}}
	p, err := Compile(Settings{Meters: meters, SubjectSources: []SubjectSource{{"header", "x-authenticated-userid"}}})
	if err != nil {
		t.Fatal(err)
	}
	o, err := p.Observe(`{"request":{"id":"r1","headers":{"x-authenticated-userid":"alice","x-session":"s"},"method":"GET"},"response":{"status":200}}`)
	if err != nil {
		t.Fatal(err)
	}
	o.InferOutcome()
	document := string(p.Document(o))
	if !strings.Contains(document, Redacted) {
		t.Fatalf("the header is in the document: %s", document)
	}
	again, err := p.Replay(document)
	if err != nil {
		t.Fatal(err)
	}
	e := p.Events(again).Events[0]
	if e.Subject != "alice" || string(e.Data) != `{"value":1,"method":"GET"}` && string(e.Data) != `{"method":"GET","value":1}` {
		t.Errorf("%q is billed for %s", e.Subject, e.Data)
	}
}
