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
