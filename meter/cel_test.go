package meter

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// exampleLog and exampleBody are what the expressions of the tests read.
const exampleLog = `{"request":{"id":"r1","method":"POST","uri":"/v1/export?format=csv","headers":{"x-tenant-id":"T-1","x-two":["a","b"],"x-credits":"12.5","user-agent":"curl/8"},"querystring":{"format":"csv"},"size":10},` +
	`"response":{"status":200,"size":2000,"headers":{"x-cost":"3"}},"latencies":{"request":7},"started_at":1795428218594,"source":"upstream",` +
	`"route":{"name":"export","tags":["x","paid"]},"tries":[{"ip":"10.0.0.1"},{"ip":"10.0.0.2"}],"upstream_status":"502, 200","service":null,"consumer":{"username":"alice","id":"c-1"}}`

const exampleBody = `{"rows":250,"neg":-1,"huge":1e308,"text":"7","bad":1e999,"list":[{"sku":"a","n":2,"ok":true},{"sku":"b","n":3},{"sku":"c","n":null}],"nil":null,` +
	`"by-kind":{"in":1,"out":2},"list":[],"nested":[[1,2],[3]]}`

// value evaluates one expression as a dimension; "-" is a dimension that is left out, "!" one that fails.
func value(t *testing.T, source string) string {
	t.Helper()
	p, err := Compile(Settings{Meters: []Meter{{Slug: "m", Aggregation: Count, GroupBy: map[string]string{"x": source}}}})
	if err != nil {
		t.Fatalf("%s: %v", source, err)
	}
	o, err := p.Observe(exampleLog)
	if err != nil {
		t.Fatal(err)
	}
	o.Body = []byte(exampleBody)
	o.InferOutcome()
	r := p.Events(o)
	if len(r.Events) != 1 {
		t.Fatalf("%s: %d events", source, len(r.Events))
	}
	var data struct {
		X json.RawMessage `json:"x"`
	}
	if err := json.Unmarshal(r.Events[0].Data, &data); err != nil {
		t.Fatal(err)
	}
	switch {
	case data.X != nil:
		return string(data.X)
	case r.DimensionErrors > 0:
		return "!"
	default:
		return "-"
	}
}

func TestExpressions(t *testing.T) {
	for source, want := range map[string]string{
		// Numbers are one kind.
		"response.size * 2":      "4000",
		"body.rows * 0.01":       "2.5",
		"7 / 2":                  "3.5",
		"0.1 + 0.2":              "0.3",
		"1 / 3":                  "0.333333333333333",
		"response.status / 100":  "2",
		"body.rows % 7":          "5",
		"-body.rows":             "-250",
		"size(route.tags) * 2":   "4",
		"size('héllo') + 1":      "6",
		"int(body.rows / 7) + 1": "36",
		"double(request.headers['x-credits']) * 2":        "25",
		"math.ceil(body.rows / 100)":                      "3",
		"math.greatest(body.rows, 300, 7)":                "300",
		"body.rows / 0":                                   "!",
		"body.bad + 1":                                    "!",
		"double('NaN')":                                   "!",
		"9007199254740993":                                "9007199254740992",
		"1 == 1.0":                                        "true",
		"response.status in [200, 201]":                   "true",
		"response.status == '200'":                        "false",
		"body.text == 7":                                  "false",
		"response.status >= 200 && response.status < 300": "true",
		"response.status < 300 ? 'ok' : 'failed'":         `"ok"`,
		"response.status < 300.5":                         "true",
		"[10, 20, 30][size(route.tags) - 1]":              "20",
		"[10, 20, 30][1]":                                 "20",
		"body.list[0].sku":                                `"a"`,
		"body.list[size(body.list) - 1].sku":              `"c"`,
		"body.nested[0][1] + body.nested[1][0]":           "5",
		"route.tags.exists_one(t, t == 'paid')":           "true",
		"body.list.filter(r, has(r.n)).map(r, r.n)":       `"2, 3"`,
		"sum(body.list.filter(r, has(r.n)).map(r, r.n))":  "5",
		"sum([])":                                           "0",
		"body.list.all(r, r.sku < 'd')":                     "true",
		"body.list.map(r, r.sku).join('/')":                 `"a/b/c"`,
		"cel.bind(x, body.rows + 1, x * x)":                 "63001",
		"body['by-kind'].map(k, body['by-kind'][k])":        `"1, 2"`,
		"body['by-kind']['in'] + body['by-kind'].out":       "3",
		"size(body['by-kind'])":                             "2",
		"body['by-kind'] == {'in': 1, 'out': 2}":            "true",
		"body.nested == [[1, 2], [3]]":                      "true",
		"[1, 2] in body.nested":                             "true",
		"{'csv': 1, 'json': 2}[request.querystring.format]": "1",
		"{'a': {'b': 2}}.a.b":                               "2",

		"5 % 2.5":                      "0",
		"-5 % 3":                       "-2",
		"5 % 0":                        "!",
		"0 / 0":                        "!",
		"response.size > 5 ? 1 : null": "1",
		"response.size < 5 ? 1 : null": "-",

		// Times.
		"timestamp(started_at / 1000).getHours()":                                     "10",
		"timestamp(started_at / 1000).getHours('Europe/Berlin')":                      "11",
		"timestamp(int(started_at / 1000)).getDayOfWeek() in [0, 6] ? 'end' : 'week'": `"week"`,
		"string(timestamp(started_at / 1000))":                                        `"2026-11-23T10:03:38.594Z"`,
		"timestamp(started_at)":                                                       "!",
		"timestamp('2026-11-23T10:00:00Z') < timestamp(started_at / 1000)":            "true",

		// What is not there.
		"service.name + '!'":                             "-",
		"consumer.custom_id == 'x'":                      "-",
		"body.nil == null":                               "-",
		"has(body.nil)":                                  "false",
		"has(service.name) ? service.name : 'none'":      `"none"`,
		"has(consumer.username)":                         "true",
		"has(request.headers['x-tenant-id'])":            "true",
		"has(request.headers['x-nobody'])":               "false",
		"!has(request.headers['X-Nobody'])":              "true",
		"'x-tenant-id' in request.headers":               "true",
		"has(body.list[0].ok)":                           "true",
		"has(body.list[1].ok)":                           "false",
		"has(body['by-kind'][request.method])":           "false",
		"body.list[7].sku":                               "-",
		"body.list[0].nothing":                           "-",
		"body['by-kind'][request.method]":                "-",
		"consumer.nobody == 1 || response.status == 200": "true",
		"consumer.nobody == 1 && response.status == 500": "false",

		"request.headers[?'x-plan'].orValue('free')":                 "\"free\"",
		"request.headers[?'X-Tenant-Id'].orValue('none')":            "\"T-1\"",
		"request.?headers.?nobody.orValue('none')":                   "\"none\"",
		"consumer.?custom_id.or(consumer.?username).orValue('none')": "\"alice\"",
		"service.?name":                                      "-",
		"consumer.?username":                                 "\"alice\"",
		"body.list[0].?ok.orValue(false)":                    "true",
		"body.list[1].?ok.orValue(false)":                    "false",
		"body.list.map(r, r.?n.orValue(0))":                  "\"2, 3, 0\"",
		"body.?list[0].sku":                                  "\"a\"",
		"body.?nobody[0].sku":                                "-",
		"{'csv': 1}[?request.querystring.format].orValue(5)": "1",
		"{'xml': 1}[?request.querystring.format].orValue(5)": "5",
		"llm.?model.optMap(m, m + '!').orValue('no model')":  "\"no model\"",
		"'X-Tenant-Id' in request.headers":                   "true",
		"'X-Nobody' in request.headers":                      "false",

		// Texts.
		"request.headers['X-Tenant-Id']":                             `"T-1"`,
		"lower(request.headers['x-tenant-id'])":                      `"t-1"`,
		"request.headers['x-two']":                                   `"a, b"`,
		"request.headers['x-two'][1]":                                `"b"`,
		"request.headers['x-two'].join(',')":                         `"a,b"`,
		"route.tags.join()":                                          `"xpaid"`,
		"body.list.map(r, r.ok).join()":                              "-",
		"[dyn(1)].join()":                                            "!",
		"type(request.headers['x-two']) == list":                     "true",
		"type(request.headers['x-tenant-id']) == string":             "true",
		"request.uri.replace('/', '.')":                              `".v1.export?format=csv"`,
		"request.uri.replace('/', '', 1)":                            `"v1/export?format=csv"`,
		"request.uri.replace('/', '', -1)":                           `"v1export?format=csv"`,
		"'ab'.replace('', '-')":                                      `"-a-b-"`,
		"extract(request.uri, '^/([^/]+)/')":                         `"v1"`,
		"extract(request.uri, 'format=(json)')":                      "-",
		"extract(request.headers['user-agent'], '^[a-z]+')":          `"curl"`,
		"request.uri.matches('^/v[0-9]+/')":                          "true",
		"matches(request.uri, 'xml')":                                "false",
		"request.uri.startsWith('/v1')":                              "true",
		"request.uri.split('?')[0]":                                  `"/v1/export"`,
		"request.uri.substring(1, 3)":                                `"v1"`,
		"request.uri.substring(request.uri.indexOf('/', 1) + 1, 10)": `"export"`,
		"request.method + ' ' + route.name":                          `"POST export"`,
		"string(response.status)":                                    `"200"`,
		"hash(consumer.id, 'pepper')":                                `"5863f9a71578c37e0de99acb5f4e2c01"`,
		"hash(consumer.id, 'pepper') == hash(consumer.id, 'salt')":   "false",
		"status(upstream_status) + 1":                                "201",
		"status_class(upstream_status) == '2xx'":                     "true",
		"status_class('nothing')":                                    "-",
		"lower(response.status)":                                     "!",
		"request.method + 1":                                         "!",
		"outcome == 'completed' ? 1 : 0":                             "1",
		"true":                                                       "true",
		"null":                                                       "-",
	} {
		if got := value(t, source); got != want {
			t.Errorf("%s is %s, want %s", source, got, want)
		}
	}
}

// TestAPlainPathIsTheSameInCEL evaluates each path as it stands and inside an expression that CEL must evaluate.
func TestAPlainPathIsTheSameInCEL(t *testing.T) {
	for _, path := range []string{
		"response.status", "request.headers['x-tenant-id']", "request.headers['X-TENANT-ID']", "consumer.username", "service.name", "nothing.at.all",
		"body.rows", "body.text", "body.nil", "outcome", "size(tries)", "size(consumer.username)", "has(service)", "has(consumer.id)", "status(upstream_status)",
		"status_class(upstream_status)", "body.list", "request.headers",
	} {
		plain, cel := value(t, path), value(t, "dyn("+path+")")
		if plain != cel {
			t.Errorf("%s is %s, in CEL %s", path, plain, cel)
		}
	}
}

func TestWhatIsWrongInAnExpressionIsSaidWithItsPlace(t *testing.T) {
	for _, test := range []struct {
		meter Meter
		want  string
		at    int
	}{
		{Meter{Filter: "response.status <"}, "the expression ends too early", 17},
		{Meter{Filter: "response.status = 200"}, "= is written == here", 16},
		{Meter{Filter: "response.status == 200 and true"}, "and is written && here", 23},
		{Meter{Filter: "not true"}, "not is written ! here", 4},
		{Meter{Filter: "response.status == 200 true"}, "true is not expected here", 23},
		{Meter{Filter: "$x"}, "there is no $ in CEL", 0},
		{Meter{Aggregation: Sum, Value: "1 + max(response.size, 5)"}, "there is no function max, did you mean math.greatest?", 4},
		{Meter{Aggregation: Sum, Value: "math.rond(response.size)"}, "there is no function math.rond, did you mean math.round?", 0},
		{Meter{Aggregation: Sum, Value: "'a' + 1"}, "+ does not take (text, number)", 4},
		{Meter{Aggregation: Sum, Value: "true ? 'a' : 1"}, "two results of one kind, not (true or false, text, number)", 5},
		{Meter{Aggregation: Sum, Value: "[1].sum()"}, "there is no (list).sum()", 4},
		{Meter{Filter: "extract(request.uri) == 'a'"}, "takes two arguments", 0},
		{Meter{Filter: "lowr(route.name) == 'x'"}, "there is no function lowr, did you mean lower?", 0},
		{Meter{Filter: "route.name"}, "", 0},
		{Meter{Filter: "'yes'"}, "is not true or false", -1},
		{Meter{Filter: "response.status + 1"}, "is not true or false", -1},
		{Meter{Filter: "request.headers.x-team == 'a'"}, "request.headers['x-team']", 17},
		{Meter{Filter: "request.headers.x-team-id == 'a'"}, "request.headers['x-team-id']", 22},
		{Meter{Filter: "request.uri.matches(request.querystring.re)"}, "a regular expression must be written out", 39},
		{Meter{Filter: "request.uri.matches('(')"}, "missing closing )", 20},
		{Meter{Filter: "each.x == 1"}, "each has a meaning only with for_each", 0},
		{Meter{Filter: "has(1 + 1)"}, "has() takes a path", 6},
		{Meter{Filter: "\n\n  'é' == 'é' && lowr('x') == 'x'"}, "there is no function lowr, did you mean lower?", 20},
		{Meter{Filter: "Message{a: 1}.a == 1"}, "there are no messages here", 7},
		{Meter{Filter: strings.Repeat("(", 80) + "true" + strings.Repeat(")", 80)}, "recursion", 0},
		{Meter{Filter: strings.Repeat("true && ", 2000) + "true"}, "size exceeds limit", 0},
		{Meter{Filter: " "}, "the expression is empty", 0},
		{Meter{Aggregation: Sum, Value: "'a' + route.name"}, "is not a number", -1},
		{Meter{Aggregation: Sum, Value: "response.status == 200"}, "is not a number", -1},
		{Meter{ForEach: "body.rows + 1"}, "is not a list", -1},
		{Meter{ForEach: "size(body.list)"}, "is not a list", -1},
		{Meter{GroupBy: map[string]string{"a": "b'bytes'"}}, "is a bytes", 0},
		{Meter{EventType: "kong.metering_gap"}, "about the metering itself", -1},
	} {
		m := test.meter
		m.Slug = "m"
		if m.Aggregation == "" {
			m.Aggregation = Count
		}
		_, err := Compile(Settings{Meters: []Meter{m}})
		if test.want == "" {
			if err != nil {
				t.Errorf("%+v: %v", test.meter, err)
			}
			continue
		}
		problem, ok := errors.AsType[*Problem](err)
		if !ok || !strings.Contains(err.Error(), test.want) || problem.Offset != test.at {
			t.Errorf("%.200q:\ngot  %v, at %d\nwant %s, at %d", fmt.Sprintf("%+v", test.meter), err, problem.Offset, test.want, test.at)
		}
	}
}

// TestAFailureTellsNothingOfTheExchange has expressions fail over a value that no log may hold.
func TestAFailureTellsNothingOfTheExchange(t *testing.T) {
	for _, source := range []string{
		"double(consumer.id)", "timestamp(consumer.id)", "duration(consumer.id)", "bool(consumer.id)", "int(consumer.id)", "consumer.id + 1", "consumer.id < 1",
		"consumer.id ? 1 : 2", "body.list[consumer.id]", "sum([consumer.id])", "math.ceil(consumer.id)", "-consumer.id", "consumer.id.getHours()", "[1][int(consumer.id)]",
	} {
		_, r := evaluate(t, Settings{Meters: []Meter{{Slug: "m", Aggregation: Sum, Value: "true ? dyn(" + source + ") : 0"}}},
			`{"request":{"id":"r"},"consumer":{"id":"planted-secret"}}`, func(o *Observation) { o.Body = []byte(exampleBody) })
		if r.Failure == nil || r.ExpressionErrors != 1 || strings.Contains(r.Failure.Error(), "planted") {
			t.Errorf("%s: %v, %d errors", source, r.Failure, r.ExpressionErrors)
		}
	}
}

// TestAHostileExchangeHoldsNobody has expressions that are cheap for the exchanges that they were written for, and exchanges
// that make them dear: they are given up and counted, and the other meters see nothing of it.
func TestAHostileExchangeHoldsNobody(t *testing.T) {
	const rows = 200_000
	body := []byte(`{"l":[` + strings.Repeat("1,", rows) + `1],"short":[` + strings.Repeat("1,", 1000) + `1],"s":"` + strings.Repeat("ab", 400_000) + `","long":"` + strings.Repeat("ab", 600_000) + `"}`)
	for name, m := range map[string]Meter{
		"a loop in a loop in a loop": {Filter: "body.l.exists(a, body.l.exists(b, body.l.exists(c, a + b + c > 3)))"},
		"a list that doubles":        {Filter: "cel.bind(a, body.l, cel.bind(b, a + a, cel.bind(c, b + b, cel.bind(d, c + c, size(d) > 1e9))))"},
		"a text that doubles":        {Filter: "cel.bind(a, body.s + body.s, cel.bind(b, a + a, cel.bind(c, b + b, cel.bind(d, c + c, cel.bind(e, d + d, cel.bind(f, e + e, size(f) > 1e9))))))"},
		"a regular expression":       {Filter: "body.s.matches('(a|b|ab)*(a|b|ab)*(a|b|ab)*c$')"},
		"an extraction":              {Filter: "extract(body.s, '(" + strings.Repeat("(a|b|ab)*", 60) + ")c$') == 'a'"},
		"a large regular expression": {Filter: "body.s.matches('" + strings.Repeat("(a|b|ab)*", 60) + "c$')"},
		"a text that grows":          {Filter: "size(request.method" + strings.Repeat(".replace('P', '"+strings.Repeat("P", 1000)+"')", 5) + ") > 0"},
		"a constant that grows":      {Filter: "has(request.id) && size('P'" + strings.Repeat(".replace('P', '"+strings.Repeat("P", 1000)+"')", 5) + ") > 0"},
		"a text that is added up":    {Filter: "size(body.s" + strings.Repeat(" + body.s", 60) + ") > 0"},
		"a text that is too long":    {Filter: "body.long + 'a' == 'a'"},
		"a list that is joined":      {Filter: "size(body.short.map(x, '" + strings.Repeat("a", 3000) + "').join('" + strings.Repeat("b", 3000) + "')) > 0"},
		"time zones":                 {Filter: "body.l.all(x, timestamp(x).getHours('Europe/Berlin') < 25)"},
		"in a value":                 {Aggregation: Sum, Value: "sum(body.l.map(x, sum(body.l)))"},
		"in a list":                  {ForEach: "body.l.map(x, body.l)"},
	} {
		m.Slug, m.EventType = "m", "e"
		if m.Aggregation == "" {
			m.Aggregation = Count
		}
		start := time.Now()
		got, r := evaluate(t, Settings{Meters: []Meter{m, APIRequests()}}, exampleLog, func(o *Observation) { o.Body = body })
		if took := time.Since(start); took > 5*time.Second { // unbounded they take more, or all memory
			t.Errorf("%s takes %v", name, took)
		}
		if len(got) != 1 || r.ExpressionsTooCostly != 1 {
			t.Errorf("%s: %d events, %d given up, %d failed", name, len(got), r.ExpressionsTooCostly, r.ExpressionErrors)
		}
	}
}

// TestWhatAllExpressionsOfAnExchangeCostIsBounded has many that each stay below the limit of one.
func TestWhatAllExpressionsOfAnExchangeCostIsBounded(t *testing.T) {
	var meters []Meter
	for i := range 50 {
		meters = append(meters, Meter{Slug: fmt.Sprintf("m%d", i), EventType: fmt.Sprintf("e%d", i), Aggregation: Count, Filter: "body.l.all(x, x == 1)"})
	}
	_, r := evaluate(t, Settings{Meters: meters}, exampleLog, func(o *Observation) { o.Body = []byte(`{"l":[` + strings.Repeat("1,", 20_000) + `1]}`) })
	if r.ExpressionsTooCostly == 0 || len(r.Events) == 0 || r.ExpressionsTooCostly+len(r.Events) != 50 {
		t.Errorf("%d events, %d given up", len(r.Events), r.ExpressionsTooCostly)
	}
}

func TestRowsBehindTheThousandthAreCounted(t *testing.T) {
	m := Meter{Slug: "m", Aggregation: Count, ForEach: "body.l", GroupBy: map[string]string{"n": "each"}}
	got, r := evaluate(t, Settings{Meters: []Meter{m}}, exampleLog, func(o *Observation) { o.Body = []byte(`{"l":[` + strings.Repeat("1,", 1233) + `1]}`) })
	if len(got) != 1000 || r.RowsSkipped != 234 {
		t.Errorf("%d events, %d rows skipped", len(got), r.RowsSkipped)
	}
}

func TestARowThatIsNullHasNothing(t *testing.T) {
	m := Meter{Slug: "m", EventType: "e", Aggregation: Count, ForEach: "body.l", GroupBy: map[string]string{"n": "each", "x": "each.x", "y": "string(each)"}}
	got, r := evaluate(t, Settings{Meters: []Meter{m}}, exampleLog, func(o *Observation) { o.Body = []byte(`{"l":[null, 7]}`) })
	want := map[string]string{"r1/e/0": `{"value":1}`, "r1/e/1": `{"n":7,"value":1,"y":"7"}`}
	if diff := cmp.Diff(want, got); diff != "" || r.DimensionErrors > 0 {
		t.Errorf("%d errors, %s", r.DimensionErrors, diff)
	}
}

func TestRowsCanBeChosenAndComputed(t *testing.T) {
	got, _ := evaluate(t, Settings{Meters: []Meter{{
		Slug: "m", EventType: "e", Aggregation: Sum, ForEach: "body.list.filter(r, has(r.n))", Value: "each.n * response.status",
		GroupBy: map[string]string{"sku": "each.sku + '@' + route.name"},
	}}}, exampleLog, func(o *Observation) { o.Body = []byte(exampleBody) })
	if diff := cmp.Diff(map[string]string{"r1/e/0": `{"sku":"a@export","value":400}`, "r1/e/1": `{"sku":"b@export","value":600}`}, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzExpression compiles any expression and evaluates it: no panic, and whatever comes of it is JSON in UTF-8.
func FuzzExpression(f *testing.F) {
	for _, source := range []string{
		"request.headers[?'x'].orValue('a')", "a.?b.c.optMap(x, x + 1)", "timestamp(started_at / 1000).getHours('Europe/Berlin')", "route.tags.join(',').replace('a', 'bb') % 3", "'X' in request.headers ? 1 : null",
		"response.size * 2", "has(a.b['c'])", "body.list.map(r, r.n)[0]", "cel.bind(x, 1, x)", "lower('A') + extract(request.uri, '(.)')", "{'a': [1]}.a[0]",
		"math.greatest(1, 2)", "body.list.filter(r, r.ok == true)", "1 % 0", "b'a'", "timestamp('2026-01-01T00:00:00Z')", "duration('1h')", "type(1)",
		"'a'.replace('a', 'b', 1)", "dyn([1, 2])", "[[1]][0][0]", "each", "-9223372036854775808", "1u", "a.?b", "x ? y : z", "hash(1, '')",
	} {
		f.Add(source)
	}
	f.Fuzz(func(t *testing.T, source string) {
		p, err := Compile(Settings{Meters: []Meter{
			{Slug: "f", EventType: "f", Aggregation: Count, Filter: source},
			{Slug: "v", EventType: "v", Aggregation: Sum, Value: source, GroupBy: map[string]string{"d": source}},
			{Slug: "l", EventType: "l", Aggregation: Count, ForEach: source, GroupBy: map[string]string{"d": "each"}},
		}})
		for _, problem := range Problems(err) {
			if problem.Error() == "" || problem.Offset > len(source) || problem.Offset >= 0 && problem.Offset < len(source) && !utf8.RuneStart(source[problem.Offset]) && utf8.ValidString(source) {
				t.Errorf("%q: %v, at %d", source, problem, problem.Offset)
			}
		}
		o, err := p.Observe(exampleLog)
		if err != nil {
			t.Fatal(err)
		}
		o.Body = []byte(exampleBody)
		for _, e := range p.Events(o).Events {
			if b := e.AppendStructured(nil); !json.Valid(b) || !utf8.Valid(b) {
				t.Errorf("%q: not JSON in UTF-8: %q", source, b)
			}
		}
	})
}

// twentyMeters is a configuration of custom meters such as a platform team has after a year.
func twentyMeters() []Meter {
	var meters []Meter
	filters := []string{
		"response.status < 300", "response.status < 500 && route.name == 'export'", "request.method in ['POST', 'PUT']", "has(consumer.id) && request.size > 5", "",
	}
	values := []string{"response.size", "response.size * 0.001", "latencies.request", "size(tries)"}
	for i := range 20 {
		meters = append(meters, Meter{
			Slug: fmt.Sprintf("m%d", i), EventType: fmt.Sprintf("acme.e%d", i%7), Aggregation: Sum, Filter: filters[i%len(filters)],
			Value: values[i%len(values)], ValueProperty: fmt.Sprintf("v%d", i),
			GroupBy: map[string]string{"tenant": "request.headers['x-tenant-id']", "route": "route.name", "format": "lower(request.querystring.format)"},
		})
	}
	rand.Shuffle(len(meters), func(i, j int) { meters[i], meters[j] = meters[j], meters[i] })
	return meters
}

func BenchmarkExpressions(b *testing.B) {
	for name, source := range map[string]string{
		"filter": "response.status < 300", "and": "response.status < 500 && route.name == 'export'", "product": "response.size * 0.001", "loop": "route.tags.exists(t, t == 'paid')",
		"regexp": "request.uri.matches('^/v[0-9]+/')", "plain": "response.status",
	} {
		b.Run(name, func(b *testing.B) {
			p, err := Compile(Settings{Meters: []Meter{{Slug: "m", Aggregation: Count, GroupBy: map[string]string{"x": source}}}})
			if err != nil {
				b.Fatal(err)
			}
			o, err := p.Observe(exampleLog)
			if err != nil {
				b.Fatal(err)
			}
			x := evaluation{values: o.values}
			e := &p.types[0].members[1].expr
			b.ReportAllocs()
			for b.Loop() {
				x.cost = 0
				if raw, err := e.eval(&x); raw == "" || err != nil {
					b.Fatal(raw, err)
				}
			}
		})
	}
}

func BenchmarkTwentyMeters(b *testing.B) {
	p, err := Compile(Settings{Meters: twentyMeters(), SubjectSources: defaultSources, Source: "/kong/a/b"})
	if err != nil {
		b.Fatal(err)
	}
	log := fourKilobytes(b)
	b.ReportAllocs()
	for b.Loop() {
		o, err := p.Observe(log)
		if err != nil {
			b.Fatal(err)
		}
		o.InferOutcome()
		if r := p.Events(o); len(r.Events) == 0 || r.ExpressionErrors > 0 {
			b.Fatal(r)
		}
	}
}

func BenchmarkCompileFiftyMeters(b *testing.B) {
	var meters []Meter
	for i := range 50 {
		m := twentyMeters()[i%20]
		m.Slug, m.EventType = fmt.Sprintf("m%d", i), fmt.Sprintf("e%d", i)
		meters = append(meters, m)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(Settings{Meters: meters}); err != nil {
			b.Fatal(err)
		}
	}
}
