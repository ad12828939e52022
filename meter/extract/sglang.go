package extract

import "kafka-metering/meter"

// sgLang is SGLang's own generation endpoint (https://docs.sglang.ai/basic_usage/native_api.html): a document, or a stream
// whose events repeat the numbers as they are so far. cached_tokens are part of the prompt's. Several prompts get an array
// of answers.
var sgLang = format{
	api:       "sglang_generate",
	operation: "text_completion",
	markers:   []string{`"meta_info"`},
	shapes:    []shape{{[]sign{{"meta_info.prompt_tokens", ""}, {"meta_info.completion_tokens", ""}}, ""}},
	texts: []textRule{
		{"meta_info.id", slotID},
		{"meta_info.finish_reason.type", slotFinish},
	},
	roots: []string{"meta_info"},
	counts: []countRule{
		{"prompt_tokens", meter.InputTokens},
		{"completion_tokens", meter.OutputTokens},
		{"cached_tokens", meter.CacheReadInputTokens},
	},
	arrays: arrayOfAnswers,
	ends:   endsOpenAI,
}.compile()
