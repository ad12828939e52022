package command

import (
	"encoding/json"
	"fmt"

	"kafka-metering/meter"
)

// line is a JSON object whose members keep their order.
type line struct{ b []byte }

func (l *line) add(name string, value any) {
	v, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("bug: %s is no JSON: %v", name, err))
	}
	if len(l.b) > 0 {
		l.b = append(l.b, ',')
	}
	l.b = append(append(append(l.b, '"'), name...), `":`...)
	l.b = append(l.b, v...)
}

func (l *line) addText(name, value string) {
	if value != "" {
		l.add(name, value)
	}
}

// end returns the whole line.
func (l *line) end() []byte { return append(append([]byte{'{'}, l.b...), '}', '\n') }

// otherNames are what collections of recorded responses call a quantity beside our name for it.
var otherNames = map[meter.Quantity][]string{
	meter.ToolUseInputTokens:             {"tool_use_prompt_tokens"},
	meter.AcceptedPredictionOutputTokens: {"accepted_prediction_tokens"},
	meter.RejectedPredictionOutputTokens: {"rejected_prediction_tokens"},
	meter.SourcesUsed:                    {"num_sources_used"},
	meter.ServerToolsUsed:                {"num_server_side_tools_used"},
	meter.Answers:                        {"responses", "lines"},
}

// addLLM adds what is known of a call. What is not known, and what was not declared, is absent.
func (l *line) addLLM(llm *meter.LLM, api string) {
	l.addText("provider", llm.Provider)
	l.addText("api", api)
	l.addText("operation", llm.Operation)
	l.addText("request_model", llm.RequestModel)
	l.addText("model", llm.Model)
	if llm.Stream != nil {
		l.add("stream", *llm.Stream)
	}
	for _, q := range meter.Quantities() {
		n, declared := llm.Usage.Get(q)
		if !declared {
			continue
		}
		l.add(q.String(), n)
		for _, name := range otherNames[q] {
			l.add(name, n)
		}
	}
	for _, a := range meter.Amounts() {
		if x, declared := llm.Usage.Amount(a); declared {
			l.add(a.String(), x)
		}
	}
	l.addText("finish_reason", llm.FinishReason)
	l.addText("response_id", llm.ResponseID)
	status := llm.UsageStatus
	if status == "" {
		status = meter.UsageMissing
	}
	l.add("usage_status", string(status))
	l.addText("usage_source", string(llm.UsageSource))
	l.addText("usage_contradiction", llm.Usage.Contradiction())
	l.addText("tokenizer", llm.Tokenizer)
}
