package extract_test

import (
	"fmt"

	"kafka-metering/meter"
	"kafka-metering/meter/extract"
)

// Anthropic counts cached tokens beside its input tokens. Normalised, the input includes them.
func ExampleExtract() {
	llm, err := extract.Extract(&extract.Response{
		Method: "POST", Host: "api.anthropic.com", Path: "/v1/messages", Status: 200, ContentType: "application/json",
		Body: []byte(`{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[],"stop_reason":"end_turn",
			"usage":{"input_tokens":4,"cache_creation_input_tokens":11107,"cache_read_input_tokens":2836,"output_tokens":155}}`),
		Seen: true, Complete: true,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(llm.Provider, llm.Model, llm.UsageStatus)
	for _, q := range meter.Quantities() {
		if n, declared := llm.Usage.Get(q); declared {
			fmt.Println(q, n)
		}
	}
	// Output:
	// anthropic claude-sonnet-4-5 final
	// input_tokens 13947
	// output_tokens 155
	// total_tokens 14102
	// cache_read_input_tokens 2836
	// cache_write_input_tokens 11107
}

// A front that sees a body in pieces need not keep it.
func ExampleReader() {
	reader := extract.NewReader(&extract.Response{Method: "POST", Host: "localhost:11434", Path: "/api/chat", Status: 200})
	for _, piece := range []string{
		`{"model":"llama3.2","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"Hi"},"done":false}` + "\n" + `{"mod`,
		`el":"llama3.2","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":""},"done":true,`,
		`"prompt_eval_count":26,"eval_count":282}` + "\n",
	} {
		if _, err := reader.Write([]byte(piece)); err != nil {
			fmt.Println(err)
		}
	}
	llm, err := reader.Close(true)
	input, _ := llm.Usage.Get(meter.InputTokens)
	output, _ := llm.Usage.Get(meter.OutputTokens)
	fmt.Println(llm.Model, input, output, llm.UsageStatus, err)
	// Output: llama3.2 26 282 final <nil>
}
