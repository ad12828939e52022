package extract

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEachStepIsExplained(t *testing.T) {
	for name, c := range map[string]struct {
		r    *Response
		want []string
	}{
		"a path and numbers": {
			chatCall(`{"choices":[],"usage":{"prompt_tokens":3,"cost":0.5}}`),
			[]string{
				"request: path at /v1/chat/completions: chat_completions",
				"message 1: input_tokens at usage.prompt_tokens: 3",
				"message 1: cost_usd at usage.cost: 0.5",
			},
		},
		"a value that is no count": {
			chatCall(`{"choices":[],"usage":{"prompt_tokens":"3"}}`),
			[]string{
				"request: path at /v1/chat/completions: chat_completions",
				`message 1: not a count at usage.prompt_tokens: "3"`,
			},
		},
		"numbers at the top": {
			&Response{Method: "POST", Body: []byte(`{"inputTextTokenCount":5,"results":[{"tokenCount":2},{"tokenCount":3}]}`), Seen: true, Complete: true},
			[]string{
				"message 1: shape at inputTextTokenCount: invoke_titan",
				"message 1: input_tokens at inputTextTokenCount: 5",
				"message 1: output_tokens at results: 5",
			},
		},
	} {
		var got []string
		c.r.Explain = func(f Finding) { got = append(got, f.String()) }
		_, _ = Extract(c.r)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
