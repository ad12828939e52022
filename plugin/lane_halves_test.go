package main

import (
	"fmt"
	"testing"

	"kafka-metering/plugin/lane"
)

// TestABodyThatIsWholeInTwoHalvesIsReadAsAWhole hands over what a worker keeps of a body between half of max_body_bytes and all of it:
// a head, a tail and nothing between.
func TestABodyThatIsWholeInTwoHalvesIsReadAsAWhole(t *testing.T) {
	const body = `{"id":"c1","object":"chat.completion","model":"m","choices":[{"message":{"content":"hello"}}],"usage":{"prompt_tokens":11,"completion_tokens":22,"total_tokens":33}}`
	p, l := laneProcess(t)
	w := dialLane(t, l.prefix, "w", 0)
	w.register(1, `{"meter_api_requests":false,"meter_ai_token_usage":false}`)
	x := lane.Exchange{
		Config: 1, Number: 1, Delivered: true, HasBody: true, Ended: true, Tapped: true, Type: []byte("application/json"),
		Head: []byte(body[:80]), Tail: []byte(body[80:]),
		Log: fmt.Appendf(nil, `{"request":{"id":"%032x","method":"POST"},"upstream_uri":"/v1/chat/completions","tries":[{}],"upstream_status":"200","response":{"status":200},`+
			`"source":"upstream","started_at":1795428217672}`, 1),
	}
	if got := w.ask(batch(1, false, nil, x)); got != "OK 1" {
		t.Fatal(got)
	}
	calls := p.spooled(t)
	if len(calls) != 1 {
		t.Fatal(calls)
	}
	if d := calls[0].Get("data"); d.Get("usage_status").Str != "final" || d.Get("total_tokens").Int() != 33 {
		t.Errorf("got %s", d.Raw)
	}
}
