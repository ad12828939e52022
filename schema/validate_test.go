package schema_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kafka-metering/schema"
)

// decode reads the JSON that Kong's Admin API would get.
func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	return config
}

// The wanted messages and defaults were checked against Kong 3.9.3's own schema code.
func TestValidateReportsWhatKongRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		want   []schema.Problem
	}{
		"an empty configuration is complete": {`{}`, nil},
		"a broker's port has a default":      {`{"bootstrap_servers": [{"host": "kafka"}]}`, nil},
		"null stands for unset":              {`{"timeout": null, "meters": null, "topic": null}`, nil},
		"an empty object is an empty list":   {`{"meters": {}, "queue": []}`, nil},
		"a whole number with a point is an integer": {
			`{"timeout": 1e4}`, nil,
		},
		"every wrong field is reported at once, in the schema's order, unknown ones last": {
			`{"nope": 1, "queue": {"max_batch_size": 0, "max_retry_delay": 0.001, "x": null}, "topic": "a b", "dry_run": "yes",
			  "timeout": 1.5, "format": "json", "bootstrap_servers": [{"host": "kafka:9092"}, {"port": 70000}]}`,
			[]schema.Problem{
				{Path: "config.bootstrap_servers[1].host", Message: "must be one host name or address, with its port in the field port"},
				{Path: "config.bootstrap_servers[2].host", Message: "required field missing"},
				{Path: "config.bootstrap_servers[2].port", Message: "value should be between 1 and 65535"},
				{Path: "config.topic", Message: "must be the name of a Kafka topic: up to 249 letters, digits, dots, _ and -"},
				{Path: "config.timeout", Message: "expected an integer"},
				{Path: "config.queue.max_batch_size", Message: "value should be between 1 and 10000"},
				{Path: "config.queue.max_retry_delay", Message: "value should be between 0.01 and 3600"},
				{Path: "config.queue.x", Message: "unknown field"},
				{Path: "config.format", Message: "expected one of: cloudevents_structured, cloudevents_binary"},
				{Path: "config.dry_run", Message: "expected a boolean"},
				{Path: "config.nope", Message: "unknown field"},
			},
		},
		"each type is told": {
			`{"attributes": {"a": 1}, "queue": "x", "topic": 5, "meters": "x", "subject": {"sources": [1]}}`,
			[]schema.Problem{
				{Path: "config.topic", Message: "expected a string"},
				{Path: "config.queue", Message: "expected a record"},
				{Path: "config.subject.sources[1]", Message: "expected a record"},
				{Path: "config.attributes", Message: "expected an array"},
				{Path: "config.meters", Message: "expected an array"},
			},
		},
		"a record cannot be null, an entry of a list neither": {
			`{"queue": null, "meters": [null]}`,
			[]schema.Problem{
				{Path: "config.queue", Message: "required field missing"},
				{Path: "config.meters[1]", Message: "required field missing"},
			},
		},
		"an empty string is too short where nothing else is said": {
			`{"topic": "", "cluster_name": ""}`,
			[]schema.Problem{
				{Path: "config.topic", Message: "must be the name of a Kafka topic: up to 249 letters, digits, dots, _ and -"},
				{Path: "config.cluster_name", Message: "must be up to 255 letters, digits, dots, _, ~ and -: it is part of every event's source"},
			},
		},
		"acks other than all are refused": {
			`{"producer_request_acks": 1}`,
			[]schema.Problem{{Path: "config.producer_request_acks", Message: "expected one of: -1"}},
		},
		"credentials come whole": {
			`{"authentication": {"strategy": "sasl", "mechanism": "PLAIN"}}`,
			[]schema.Problem{{Path: "config.authentication", Message: "all or none of these fields must be set: 'strategy', 'mechanism', 'user', 'password'"}},
		},
		"a vault reference stands for any text": {
			`{"authentication": {"strategy": "sasl", "mechanism": "PLAIN", "user": "{vault://env/u}", "password": "{vault://env/p}"}}`, nil,
		},
		"a client key comes with its certificate": {
			`{"security": {"client_key": "x"}}`,
			[]schema.Problem{{Path: "config.security", Message: "all or none of these fields must be set: 'client_certificate', 'client_key'"}},
		},
		"a COUNT needs no value": {`{"meters": [{"slug": "a", "aggregation": "COUNT"}]}`, nil},
		"a SUM needs a value": {
			`{"meters": [{"slug": "a", "aggregation": "SUM"}, {"slug": "b", "aggregation": "SUM", "value": ""}]}`,
			[]schema.Problem{
				{Path: "config.meters[1].value", Message: "required field missing"},
				{Path: "config.meters[2].value", Message: "length must be at least 1"},
			},
		},
		"filter and for_each may be empty": {
			`{"meters": [{"slug": "a", "aggregation": "SUM", "value": "x", "filter": "", "for_each": ""}]}`, nil,
		},
		"a default within a list cannot be undone with null": {
			`{"meters": [{"slug": "a", "aggregation": "COUNT", "event_type": null}]}`,
			[]schema.Problem{{Path: "config.meters[1].event_type", Message: "required field missing"}},
		},
		"a meter's names are checked": {
			`{"meters": [{"slug": "A-", "aggregation": "FOO", "value": "x", "group_by": {"": "x", "Bad": "x", "ok": ""}}]}`,
			[]schema.Problem{
				{Path: "config.meters[1].slug", Message: "must be up to 63 of a-z, 0-9 and _, a letter first"},
				{Path: "config.meters[1].aggregation", Message: "expected one of: COUNT, SUM, MIN, MAX, AVG, UNIQUE_COUNT, LATEST"},
				{Path: `config.meters[1].group_by[""]`, Message: "must be up to 63 of a-z, 0-9 and _, a letter first"},
				{Path: "config.meters[1].group_by.Bad", Message: "must be up to 63 of a-z, 0-9 and _, a letter first"},
				{Path: "config.meters[1].group_by.ok", Message: "length must be at least 1"},
			},
		},
		"a slug has at most 63 bytes": {
			`{"meters": [{"slug": "a123456789012345678901234567890123456789012345678901234567890123", "aggregation": "COUNT"}]}`,
			[]schema.Problem{{Path: "config.meters[1].slug", Message: "must be up to 63 of a-z, 0-9 and _, a letter first"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := schema.Config().Validate(decode(t, c.config))
			if diff := cmp.Diff(c.want, problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValidateCompletesAsKongDoes(t *testing.T) {
	config := decode(t, `{
		"bootstrap_servers": [{"host": "kafka"}],
		"queue": {"max_batch_size": 7},
		"timeout": null,
		"meters": [{"slug": "a", "aggregation": "SUM", "value": "response.size", "group_by": {"route": "route.name"}}]
	}`)
	got, problems := schema.Config().Validate(config)
	if problems != nil {
		t.Fatal(problems)
	}
	want := map[string]any{
		"bootstrap_servers":     []any{map[string]any{"host": "kafka", "port": int64(9092)}},
		"authentication":        map[string]any{},
		"security":              map[string]any{"ssl": false, "ssl_verify": true},
		"keepalive":             int64(60000),
		"producer_request_acks": int64(-1),
		"producer_request_limits_bytes_per_request": int64(1048576),
		"producer_compression":                      "zstd",
		"queue": map[string]any{
			"max_batch_size": int64(7), "max_coalescing_delay": 0.05, "max_bytes": int64(10737418240), "max_retry_delay": 30.0,
			"when_full": "drop_newest", "max_event_age": 0.0,
		},
		"format": "cloudevents_structured",
		"subject": map[string]any{
			"sources": []any{
				map[string]any{"look_up_value_in": "consumer", "field": "custom_id"},
				map[string]any{"look_up_value_in": "consumer", "field": "username"},
				map[string]any{"look_up_value_in": "consumer", "field": "id"},
				map[string]any{"look_up_value_in": "credential", "field": "id"},
			},
			"on_missing": "anonymous",
		},
		"attributes":           []any{},
		"meter_api_requests":   true,
		"meter_ai_token_usage": true,
		"meter_ai_calls":       true,
		"meters": []any{map[string]any{
			"slug": "a", "event_type": "kong.meter", "aggregation": "SUM", "value": "response.size", "value_property": "value",
			"group_by": map[string]any{"route": "route.name"},
		}},
		"llm":            map[string]any{"provider": "auto", "on_abort": "bill_reported", "estimate": false, "ensure_stream_usage": false},
		"max_body_bytes": int64(1 << 20),
		"dry_run":        false,
		"create_topics":  false,
		"record":         false,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("completed configuration (-want +got):\n%s", diff)
	}
}

func TestValidateGivesEveryCallItsOwnDefaults(t *testing.T) {
	first, _ := schema.Config().Validate(nil)
	first["subject"].(map[string]any)["sources"].([]any)[0].(map[string]any)["field"] = "changed"
	second, _ := schema.Config().Validate(nil)
	if got := second["subject"].(map[string]any)["sources"].([]any)[0].(map[string]any)["field"]; got != "custom_id" {
		t.Errorf("the default became %v", got)
	}
}

func TestValidateTakesNumbersOfAnyGoType(t *testing.T) {
	for _, n := range []any{500, int32(500), int64(500), uint(500), uint32(500), uint64(500), float32(500), 500.0, json.Number("500"), json.Number("5e2")} {
		got, problems := schema.Config().Validate(map[string]any{"timeout": n})
		if problems != nil || got["timeout"] != int64(500) {
			t.Errorf("%T: got %v, %v", n, got["timeout"], problems)
		}
	}
	for _, n := range []any{math.NaN(), math.Inf(1), 1e300, json.Number("x"), "500", true} {
		if _, problems := schema.Config().Validate(map[string]any{"timeout": n}); len(problems) != 1 {
			t.Errorf("%T %v: got problems %v", n, n, problems)
		}
	}
}

func TestSetsLoseTheirRepetitionsAndRecordsCanBeOptional(t *testing.T) {
	f, err := schema.Parse([]byte(`{"type": "record", "fields": [
		{"s": {"type": "set", "elements": {"type": "string"}}},
		{"r": {"type": "record", "required": false, "fields": [{"n": {"type": "number", "gt": 0, "default": 1}}]}}
	]}`))
	if err != nil {
		t.Fatal(err)
	}
	got, problems := f.Validate(map[string]any{"s": []any{"a", "b", "a"}})
	if diff := cmp.Diff(map[string]any{"s": []any{"a", "b"}}, got); diff != "" || problems != nil {
		t.Errorf("(-want +got):\n%s%v", diff, problems)
	}
	got, problems = f.Validate(map[string]any{"r": map[string]any{}})
	if diff := cmp.Diff(map[string]any{"r": map[string]any{"n": 1.0}}, got); diff != "" || problems != nil {
		t.Errorf("(-want +got):\n%s%v", diff, problems)
	}
	_, problems = f.Validate(map[string]any{"r": map[string]any{"n": 0}, "s": "x"})
	want := []schema.Problem{{Path: "config.s", Message: "expected a set"}, {Path: "config.r.n", Message: "value must be greater than 0"}}
	if diff := cmp.Diff(want, problems); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
