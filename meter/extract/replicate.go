package extract

import "kafka-metering/meter"

// replicate is Replicate's predictions (https://replicate.com/docs/reference/http#predictions.get): metrics, once a
// prediction of a language model has ended.
var replicate = format{
	api:       "predictions",
	operation: "text_completion",
	markers:   []string{`"metrics"`},
	shapes:    []shape{{[]sign{{"urls.get", `"`}, {"status", `"`}, {"input", "{"}}, ""}},
	texts: []textRule{
		{"model", slotModel},
		{"id", slotID},
		{"status", slotFinish},
	},
	roots: []string{"metrics"},
	counts: []countRule{
		{"input_token_count", meter.InputTokens},
		{"output_token_count", meter.OutputTokens},
		{"token_input_count", meter.InputTokens},
		{"token_output_count", meter.OutputTokens},
	},
	native: "replicate",
}.compile()
