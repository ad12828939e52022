package extract

import "kafka-metering/meter"

// watsonx is IBM watsonx.ai's generation, embeddings and rerank (https://cloud.ibm.com/apidocs/watsonx-ai#text-generation).
// In a stream the first event alone declares the input, which is zero in the others, and the output counts up. Its chat
// speaks OpenAI's dialect.
var watsonx = format{
	api:       "watsonx",
	operation: "text_completion",
	markers:   []string{`"input_token_count"`, `"generated_token_count"`},
	shapes: []shape{
		{[]sign{{"results[].generated_token_count", ""}}, ""},
		{[]sign{{"model_id", `"`}, {"input_token_count", ""}, {"results[].embedding", "["}}, "embeddings"},
		{[]sign{{"model_id", `"`}, {"input_token_count", ""}, {"results[].score", ""}}, "rerank"},
	},
	texts: []textRule{
		{"model_id", slotModel},
		{"results[].stop_reason", slotFinish},
	},
	roots:  []string{""},
	counts: []countRule{{"input_token_count", meter.InputTokens}},
	lists: []listRule{{path: "results", counts: []countRule{
		{"input_token_count", meter.InputTokens},
		{"generated_token_count", meter.OutputTokens},
	}}},
	native:  "watsonx",
	merging: peaks,
}.compile()
