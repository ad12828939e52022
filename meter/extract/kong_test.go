package extract

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKongsOwnStatisticsAreReadAndLabelled(t *testing.T) {
	final := map[string]float64{"input_tokens": 10, "output_tokens": 23, "total_tokens": 33}
	for name, c := range map[string]struct {
		ai   string
		want report
		ok   bool
	}{
		"of Kong 3.7 and newer": {
			`{"proxy":{"meta":{"provider_name":"openai","request_model":"gpt-4o","response_model":"gpt-4o-2024-08-06","request_mode":"oneshot"},
				"usage":{"prompt_tokens":10,"completion_tokens":23,"total_tokens":33,"cost":0.1}}}`,
			report{
				Provider: "openai", RequestModel: "gpt-4o", Model: "gpt-4o-2024-08-06", Stream: new(false), Usage: final,
				UsageStatus: "final", UsageSource: "ai_proxy",
			},
			true,
		},
		"of older ones": {
			`{"ai-proxy":{"meta":{"provider_name":"gemini","request_mode":"stream"},"usage":{"prompt_tokens":10,"completion_tokens":23}}}`,
			report{Provider: "google", Stream: new(true), Usage: final, UsageStatus: "final", UsageSource: "ai_proxy"},
			true,
		},
		"without a mode": {
			`{"ai-proxy-advanced":{"meta":{"provider_name":"cohere"}}}`,
			report{Provider: "cohere", UsageStatus: "missing"},
			true,
		},
		"with numbers that are no counts": {
			`{"proxy":{"meta":{"provider_name":"openai"},"usage":{"prompt_tokens":-1,"completion_tokens":23}}}`,
			report{Provider: "openai", UsageStatus: "missing"},
			true,
		},
		"of another plugin": {`{"ai-rate-limiting-advanced":{"usage":{"prompt_tokens":1}}}`, report{}, false},
		"that are none":     {`{}`, report{}, false},
		"that are broken":   {`{"proxy":`, report{}, false},
	} {
		llm, ok := FromAIProxy([]byte(c.ai))
		if diff := cmp.Diff(c.want, reportOf(llm, nil)); ok != c.ok || ok && diff != "" {
			t.Errorf("%s: %v %s", name, ok, diff)
		}
	}
}
