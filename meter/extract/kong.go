package extract

import (
	"kafka-metering/meter"
	"kafka-metering/meter/scan"
)

// aiPlugins are the members of ai that hold the statistics of the proxied call, in order of preference: proxy since Kong
// 3.7, ai-proxy before.
var aiPlugins = []string{"proxy", "ai-proxy", "ai-proxy-advanced"}

const (
	aiProvider = iota
	aiRequestModel
	aiResponseModel
	aiMode
	aiInput
	aiOutput
	aiTotal
	numAI
)

var aiShape = func() *scan.Shape {
	s := new(scan.Shape)
	for i, plugin := range aiPlugins {
		for _, t := range []textRule{
			{"meta.provider_name", aiProvider},
			{"meta.request_model", aiRequestModel},
			{"meta.response_model", aiResponseModel},
			{"meta.request_mode", aiMode},
			{"usage.prompt_tokens", aiInput},
			{"usage.completion_tokens", aiOutput},
			{"usage.total_tokens", aiTotal},
		} {
			s.Add(plugin+"."+t.path, i*numAI+t.slot)
		}
	}
	return s
}()

// aiProviders maps ai-proxy's provider names to ours where they differ.
var aiProviders = map[string]string{"gemini": "google"}

// aiUnspecified stands where Kong does not know a name.
const aiUnspecified = "UNSPECIFIED"

// FromAIProxy reads the statistics that Kong's ai-proxy writes into the serialized log with logging.log_statistics
// (https://developer.konghq.com/plugins/ai-proxy/, "Log format"). ai is the raw JSON of the log's ai member. ok is false
// when ai-proxy had no part in the exchange.
//
// The numbers are Kong's, and marked as such: they leave out cached and reasoning tokens, and those of streams can be
// wrong (measured on Kong 3.9.3). So they stand in where the body cannot be read, and never go over it. Numbers that are
// no counts, and none at all, give a call whose usage is missing.
func FromAIProxy(ai []byte) (_ meter.LLM, ok bool) {
	var values [numAI * 3][]byte
	var s scan.Scanner[[]byte]
	if s.Scan(ai, aiShape, values[:]) != nil {
		return meter.LLM{}, false
	}
	for i := range aiPlugins {
		v := values[i*numAI:][:numAI]
		if llm, ok := fromAIPlugin(v); ok {
			return llm, true
		}
	}
	return meter.LLM{}, false
}

func fromAIPlugin(v [][]byte) (_ meter.LLM, ok bool) {
	for _, raw := range v {
		ok = ok || raw != nil
	}
	llm := meter.LLM{
		Provider:     text(v[aiProvider]),
		RequestModel: text(v[aiRequestModel]),
		Model:        text(v[aiResponseModel]),
		UsageStatus:  meter.UsageMissing,
	}
	if mode := text(v[aiMode]); mode != "" {
		llm.Stream = new(mode == "stream")
	}
	if llm.Provider == aiUnspecified {
		llm.Provider = ""
	}
	if llm.RequestModel == aiUnspecified {
		llm.RequestModel = ""
	}
	if provider, ok := aiProviders[llm.Provider]; ok {
		llm.Provider = provider
	}
	var u meter.Usage
	for slot, q := range map[int]meter.Quantity{aiInput: meter.InputTokens, aiOutput: meter.OutputTokens, aiTotal: meter.TotalTokens} {
		if v[slot] == nil {
			continue
		}
		n, valid := count(v[slot])
		if !valid {
			return llm, ok
		}
		u.Set(q, n)
	}
	if u.Empty() {
		return llm, ok
	}
	complement(&u)
	llm.Usage, llm.UsageStatus, llm.UsageSource = u, meter.UsageFinal, meter.SourceAIProxy
	return llm, ok
}
