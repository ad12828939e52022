package meter

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestAResultThatIsUsedAgainIsAsGoodAsNew evaluates exchanges of several programs, one after the other, into one result, as the
// plugin does: nothing of one may be in the next.
func TestAResultThatIsUsedAgainIsAsGoodAsNew(t *testing.T) {
	llm := &LLM{Provider: "openai", Operation: "chat", Model: "gpt-x", UsageStatus: UsageFinal, UsageSource: SourceBody}
	llm.Usage.Set(InputTokens, 11)
	llm.Usage.Set(OutputTokens, 22)
	presets := []Meter{APIRequests(), AITokenUsage(), AICalls()}
	rows := Meter{
		Slug: "rows", EventType: "rows", Aggregation: Sum, ForEach: "tries", Value: "each.n", ValueProperty: "n",
		Filter: "each.n != 2", GroupBy: map[string]string{"ip": "each.ip", "all": "each"},
	}
	list := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `{"n":%d,"ip":"10.0.0.%d"},`, i, i)
		}
		return `{"request":{"id":"aa"},"started_at":1795428217672,"tries":[` + strings.TrimSuffix(b.String(), ",") + "]}"
	}
	cases := []struct {
		meters  []Meter
		missing OnMissing
		log     string
		llm     *LLM
	}{
		{presets, "", serialized(t, "authenticated"), llm},
		{presets, "", serialized(t, "plain"), nil},
		{[]Meter{rows}, "", list(maxRows + 3), nil},
		{[]Meter{rows}, "", list(2), nil},
		{[]Meter{rows, APIRequests()}, "", `{"tries":[{"ip":{}},null,{"n":-1},{"n":5,"ip":"` + strings.Repeat("x", 2*maxText) + `"}]}`, nil},
		{presets, MissingDrop, `{"request":{"id":"bb"}}`, nil},
		{[]Meter{{Slug: "a", EventType: "e", Aggregation: Sum, Value: "request.size * 2.5", ValueProperty: "v"}}, "", serialized(t, "plain"), nil},
		{[]Meter{{Slug: "none", EventType: "e", Aggregation: Count, Filter: "response.status == 1"}}, "", serialized(t, "plain"), nil},
	}
	var again Result
	for round := range 3 {
		for i, c := range cases {
			p, _ := Compile(Settings{Meters: c.meters, SubjectSources: defaultSources, OnMissing: c.missing, Source: "/kong/a/b"})
			observe := func() *Observation {
				o, err := p.Observe(c.log)
				if err != nil {
					t.Fatal(err)
				}
				o.InferOutcome()
				o.LLM = c.llm
				return o
			}
			want := p.Events(observe())
			again.Reset()
			p.Evaluate(observe(), &again)
			if diff := cmp.Diff(want, again, cmpopts.IgnoreUnexported(Result{}), cmpopts.EquateEmpty(),
				cmp.Transformer("text", func(e error) string { return fmt.Sprint(e) })); diff != "" {
				t.Errorf("round %d, case %d: (-new +used again):\n%s", round, i, diff)
			}
		}
	}
}
