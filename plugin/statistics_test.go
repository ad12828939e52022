package main

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"kafka-metering/plugin/lane"
)

// TestKongsStatisticsStandInOnlyWhereTheBodyCannotBeRead hands streams over that declare no usage, with what ai-proxy has logged: of
// one that was read to its end Kong's guess is none, and of one that was cut it is an estimate, or none.
func TestKongsStatisticsStandInOnlyWhereTheBodyCannotBeRead(t *testing.T) {
	const chunk = "data: {\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"hello\"}}],\"usage\":null}\n\n"
	for policy, want := range map[string]map[string]string{
		abortBillReported: {"completed": "missing", "client_abort": "estimated 2", "upstream_error": "missing"},
		abortBillNothing:  {"completed": "missing", "client_abort": "missing", "upstream_error": "missing"},
	} {
		p, l := laneProcess(t)
		w := dialLane(t, l.prefix, "w", 0)
		w.register(1, `{"meter_api_requests":false,"meter_ai_token_usage":false,"llm":{"on_abort":"`+policy+`"}}`)
		exchange := func(number int64, body string, delivered, ended bool) lane.Exchange {
			return lane.Exchange{
				Config: 1, Number: number, Delivered: delivered, HasBody: true, Ended: ended, Tapped: true, Type: []byte("text/event-stream"), Head: []byte(body),
				Log: fmt.Appendf(nil, `{"request":{"id":"%032x","method":"POST"},"upstream_uri":"/v1/chat/completions","tries":[{}],"upstream_status":"200","response":{"status":200},`+
					`"source":"upstream","started_at":1795428217672,"ai":{"proxy":{"meta":{"provider_name":"openai"},"usage":{"prompt_tokens":2,"completion_tokens":0}}}}`, number),
			}
		}
		if got := w.ask(batch(1, false, nil, exchange(1, chunk+"data: [DONE]\n\n", true, true), exchange(2, chunk, false, false), exchange(3, chunk, true, false))); got != "OK 1" {
			t.Fatal(got)
		}
		got := map[string]string{}
		for _, e := range p.spooled(t) {
			d := e.Get("data")
			text := d.Get("usage_status").Str
			if n := d.Get("total_tokens"); n.Exists() {
				text += " " + n.Raw
			}
			got[d.Get("outcome").Str] = text
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", policy, got, want)
		}
	}
}

// TestKongsStatisticsOfStreamsAreEstimates has what ai-proxy logs where nobody sees a body: of an answer its counts, of a stream what
// it takes them for, of a failure nothing.
func TestKongsStatisticsOfStreamsAreEstimates(t *testing.T) {
	for name, c := range map[string]struct {
		contentType, config string
		status              int
		want                string
	}{
		"an answer":             {"application/json", `{}`, 200, "openai final 5"},
		"a stream":              {"text/event-stream; charset=utf-8", `{}`, 200, "openai estimated 5"},
		"a stream, by its mode": {"", `{}`, 200, "openai estimated 5"},
		"a failure":             {"application/json", `{}`, 429, "openai missing "},
		"another provider":      {"application/json", `{"llm":{"provider":"groq"}}`, 200, "groq final 5"},
	} {
		p := testProcess(t)
		in, sink := testInstance(t, p, c.config)
		log := fmt.Appendf(nil, `{"request":{"id":"%032x","method":"POST"},"upstream_uri":"/v1/chat/completions","tries":[{}],"upstream_status":"%d","response":{"status":%d,"headers":{"content-type":%q}},
			"source":"upstream","started_at":1795428217672,"ai":{"proxy":{"meta":{"provider_name":"openai","request_mode":%q},"usage":{"prompt_tokens":2,"completion_tokens":3}}}}`,
			1, c.status, c.status, c.contentType, map[bool]string{true: "stream", false: "oneshot"}[strings.Contains(name, "mode")])
		in.handle(saved{log: log}, p.ledger.open())
		calls := 0
		for _, r := range sink.records {
			e := gjson.ParseBytes(r.Value)
			if d := e.Get("data"); e.Get("type").Str == "kong.llm_usage" {
				calls++
				if got := d.Get("provider").Str + " " + d.Get("usage_status").Str + " " + d.Get("total_tokens").Raw; got != c.want {
					t.Errorf("%s: %s, want %s", name, got, c.want)
				}
			}
		}
		if calls != 1 {
			t.Errorf("%s: %d calls", name, calls)
		}
	}
}
