package extract

import "kafka-metering/meter"

// alephAlpha is Aleph Alpha's completions (https://docs.aleph-alpha.com/api/complete/).
var alephAlpha = format{
	api:       "aleph_alpha",
	operation: "text_completion",
	markers:   []string{`"num_tokens_prompt_total"`},
	shapes:    []shape{{[]sign{{"num_tokens_prompt_total", ""}}, ""}},
	texts: []textRule{
		{"model_version", slotModel},
		{"completions[].finish_reason", slotFinish},
	},
	roots: []string{""},
	counts: []countRule{
		{"num_tokens_prompt_total", meter.InputTokens},
		{"num_tokens_generated", meter.OutputTokens},
	},
	native: "aleph-alpha",
}.compile()
