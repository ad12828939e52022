package extract

import "kafka-metering/meter"

// llamaServer is llama.cpp's own completion endpoint
// (https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md): tokens_evaluated is the whole
// prompt. Only the last event of a stream has them. Several prompts get an array of answers.
var llamaServer = format{
	api:       "llama_server",
	operation: "text_completion",
	markers:   []string{`"tokens_predicted"`},
	shapes:    []shape{{[]sign{{"tokens_predicted", ""}, {"tokens_evaluated", ""}}, ""}},
	texts: []textRule{
		{"model", slotModel},
		{"stop_type", slotFinish},
	},
	roots: []string{""},
	counts: []countRule{
		{"tokens_evaluated", meter.InputTokens},
		{"tokens_predicted", meter.OutputTokens},
		{"timings.cache_n", meter.CacheReadInputTokens},
	},
	arrays: arrayOfAnswers,
}.compile()
