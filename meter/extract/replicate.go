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
	native: "aleph_alpha",
}.compile()

// deepgram is Deepgram's transcription of recorded audio
// (https://developers.deepgram.com/reference/speech-to-text/listen-pre-recorded), which is paid by duration.
var deepgram = format{
	api:       "listen",
	operation: "transcription",
	markers:   []string{`"duration"`},
	shapes:    []shape{{[]sign{{"metadata.duration", ""}, {"metadata.request_id", `"`}, {"results", "{"}}, ""}},
	texts:     []textRule{{"metadata.request_id", slotID}},
	roots:     []string{"metadata"},
	amounts:   []amountRule{{"duration", meter.AudioSeconds}},
	native:    "deepgram",
}.compile()
