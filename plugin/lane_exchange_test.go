package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kafka-metering/meter"
	"kafka-metering/plugin/lane"
)

func TestOutcomeIsWhatTheFrontSaw(t *testing.T) {
	whole := lane.Exchange{Delivered: true, HasBody: true, Ended: true}
	for name, test := range map[string]struct {
		logged meter.Outcome
		status int
		change func(*lane.Exchange)
		want   meter.Outcome
	}{
		"all went well":                                {meter.OutcomeCompleted, 200, nil, meter.OutcomeCompleted},
		"no body at all":                               {meter.OutcomeCompleted, 204, func(x *lane.Exchange) { x.HasBody, x.Ended = false, false }, meter.OutcomeCompleted},
		"the client went away":                         {meter.OutcomeCompleted, 200, func(x *lane.Exchange) { x.Delivered, x.Ended = false, false }, meter.OutcomeClientAbort},
		"the client went away when all had come":       {meter.OutcomeCompleted, 200, func(x *lane.Exchange) { x.Delivered = false }, meter.OutcomeClientAbort},
		"the client went away before there was any":    {meter.OutcomeCompleted, 499, func(x *lane.Exchange) { *x = lane.Exchange{} }, meter.OutcomeClientAbort},
		"the client went away before the upstream's":   {meter.OutcomeRejected, 499, func(x *lane.Exchange) { *x = lane.Exchange{} }, meter.OutcomeClientAbort},
		"the upstream broke off":                       {meter.OutcomeCompleted, 200, func(x *lane.Exchange) { x.Ended = false }, meter.OutcomeUpstreamError},
		"the upstream fell silent":                     {meter.OutcomeCompleted, 200, func(x *lane.Exchange) { x.Ended, x.Stalled = false, true }, meter.OutcomeTimeout},
		"the upstream was slow and came to an end":     {meter.OutcomeCompleted, 200, func(x *lane.Exchange) { x.Stalled = true }, meter.OutcomeCompleted},
		"the upstream failed":                          {meter.OutcomeUpstreamError, 502, func(x *lane.Exchange) { x.HasBody, x.Ended = false, false }, meter.OutcomeUpstreamError},
		"the upstream failed and the client went away": {meter.OutcomeUpstreamError, 500, func(x *lane.Exchange) { x.Delivered = false }, meter.OutcomeUpstreamError},
		"the upstream did not answer":                  {meter.OutcomeTimeout, 504, func(x *lane.Exchange) { x.HasBody, x.Ended = false, false }, meter.OutcomeTimeout},
		"Kong answered":                                {meter.OutcomeRejected, 401, func(x *lane.Exchange) { x.HasBody, x.Ended = false, false }, meter.OutcomeRejected},
		"Kong answered and the client did not wait":    {meter.OutcomeRejected, 401, func(x *lane.Exchange) { *x = lane.Exchange{} }, meter.OutcomeRejected},
	} {
		t.Run(name, func(t *testing.T) {
			x := whole
			if test.change != nil {
				test.change(&x)
			}
			if got := outcomeOf(test.logged, test.status, &x); got != test.want {
				t.Errorf("the outcome is %s, want %s", got, test.want)
			}
		})
	}
}

func TestTheRequestSaysWhatWasAskedFor(t *testing.T) {
	yes := true
	for body, want := range map[string]asked{
		`{"model":"gpt-4o","stream":true,"messages":[{"model":"other"}]}`:                     {model: "gpt-4o", stream: &yes},
		`{"messages":[{"content":"\"model\":\"x\""}],"metadata":{"model":"x","stream":true}}`: {},
		`{"model":7,"stream":"true"}`: {},
		`{"model":"gpt-4o"`:           {},
		`not json`:                    {},
		``:                            {},
		`{"model":"` + strings.Repeat("m", 300) + `"}`: {},
	} {
		if diff := cmp.Diff(want, askedOf([]byte(body)), cmp.AllowUnexported(asked{})); diff != "" {
			t.Errorf("%.60s:\n%s", body, diff)
		}
	}
}

// TestOnAbortSaysWhatIsBilledOfACutAnswer has streams that declare as they go, and one that declares nothing and is estimated, cut by
// their client or whole.
func TestOnAbortSaysWhatIsBilledOfACutAnswer(t *testing.T) {
	const (
		declares = `data: {"id":"c","object":"chat.completion.chunk","model":"gpt-4o","choices":[{"delta":{"content":"Hello there."}}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}` + "\n\n"
		silent   = `data: {"id":"c","object":"chat.completion.chunk","model":"gpt-4o","choices":[{"delta":{"content":"Hello there."}}]}` + "\n\n"
	)
	for name, test := range map[string]struct {
		policy, body string
		cut          bool
		status       string
		tokens       bool
	}{
		"cut, reported is billed":  {abortBillReported, declares, true, "partial", true},
		"cut, nothing is billed":   {abortBillNothing, declares, true, "missing", false},
		"cut, an estimate":         {abortBillReported, silent, true, "estimated", true},
		"cut, no estimate either":  {abortBillNothing, silent, true, "missing", false},
		"whole, whatever the rule": {abortBillNothing, declares + "data: [DONE]\n\n", false, "final", true},
		"whole and estimated, too": {abortBillNothing, silent + "data: [DONE]\n\n", false, "estimated", true},
		"reported is the default":  {"", declares, true, "partial", true},
	} {
		t.Run(name, func(t *testing.T) {
			p, l := laneProcess(t)
			w := dialLane(t, l.prefix, "w", 0)
			policy := ""
			if test.policy != "" {
				policy = `"on_abort":"` + test.policy + `",`
			}
			w.register(1, `{"meter_api_requests":false,"meter_ai_token_usage":false,"llm":{`+policy+`"estimate":true}}`)
			x := plain(1)
			x.Log = []byte(`{"request":{"id":"` + requestID(1) + `","method":"POST"},"upstream_uri":"/v1/chat/completions","response":{"status":200,"headers":{"content-type":"text/event-stream"}},"source":"upstream","started_at":1795428217672}`)
			x.Tapped, x.Type, x.Head, x.Delivered, x.Ended = true, []byte("text/event-stream"), []byte(test.body), !test.cut, !test.cut
			if got := w.ask(batch(1, false, nil, x)); got != "OK 1" {
				t.Fatal(got)
			}
			e := p.spooled(t)[0]
			if got := e.Get("data.usage_status").Str; got != test.status || e.Get("data.output_tokens").Exists() != test.tokens {
				t.Errorf("got %s", e.Get("data"))
			}
		})
	}
}
