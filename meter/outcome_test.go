package meter

import (
	"fmt"
	"testing"
)

// TestInferOutcome has what Kong 3.9 logs where the outcome is not that of the upstream's answer.
func TestInferOutcome(t *testing.T) {
	p, err := Compile(Settings{Meters: []Meter{APIRequests()}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		source, upstream string
		status, tries    int
		want             Outcome
	}{
		"an answer":                              {"upstream", "200", 200, 1, OutcomeCompleted},
		"an error of the upstream's":             {"upstream", "503", 503, 1, OutcomeUpstreamError},
		"Kong's own":                             {"exit", "", 401, 0, OutcomeRejected},
		"no upstream that answers":               {"error", "", 502, 1, OutcomeUpstreamError},
		"none in time":                           {"error", "504", 504, 1, OutcomeTimeout},
		"a plugin's, in the place of an answer":  {"exit", "200", 402, 1, OutcomeRejected},
		"an error of Kong's, buffering":          {"error", "200", 502, 1, OutcomeUpstreamError},
		"a client that left":                     {"upstream", "200", 499, 1, OutcomeClientAbort},
		"a client that left before":              {"upstream", "-", 499, 1, OutcomeClientAbort},
		"an upstream that says so, for whatever": {"upstream", "499", 499, 1, OutcomeCompleted},
	} {
		tries := ""
		if c.tries > 0 {
			tries = `{"ip":"127.0.0.1"}`
		}
		o, err := p.Observe(fmt.Sprintf(`{"source":%q,"upstream_status":%q,"response":{"status":%d},"tries":[%s]}`, c.source, c.upstream, c.status, tries))
		if err != nil {
			t.Fatal(err)
		}
		if o.InferOutcome(); o.Outcome != c.want {
			t.Errorf("%s: %s, want %s", name, o.Outcome, c.want)
		}
	}
}
