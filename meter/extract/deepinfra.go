package extract

import "kafka-metering/meter"

// deepInfra is DeepInfra's own inference endpoint, of every kind of model (https://deepinfra.com/docs/inference). Its
// others speak OpenAI's dialect.
var deepInfra = format{
	api:       "deepinfra",
	operation: "text_completion",
	markers:   []string{`"inference_status"`},
	shapes: []shape{
		{[]sign{{"inference_status.tokens_input", ""}, {"embeddings", "["}}, "embeddings"},
		{[]sign{{"inference_status.tokens_input", ""}, {"scores", "["}}, "rerank"},
		{[]sign{{"inference_status.tokens_input", ""}}, ""},
	},
	texts: []textRule{
		{"request_id", slotID},
		{"inference_status.status", slotFinish},
	},
	roots: []string{"inference_status"},
	counts: []countRule{
		{"tokens_input", meter.InputTokens},
		{"tokens_generated", meter.OutputTokens},
	},
	amounts: []amountRule{{"cost", meter.CostUSD}},
	native:  "deepinfra",
}.compile()
