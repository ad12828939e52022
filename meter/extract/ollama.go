package extract

import (
	"bytes"

	"kafka-metering/meter"
)

// ollama is Ollama's own API (https://github.com/ollama/ollama/blob/main/docs/api.md): chat, generate, embed. A stream is
// NDJSON, and its last line, "done": true, holds the counts. prompt_eval_count is left out when the prompt was cached.
var ollama = format{
	api:       "ollama",
	operation: "chat",
	markers:   []string{`"eval_count"`, `"prompt_eval_count"`},
	shapes: []shape{
		{[]sign{{"done", ""}, {"message.role", `"`}, {"model", `"`}}, "chat"},
		{[]sign{{"done", ""}, {"response", `"`}, {"model", `"`}}, "text_completion"},
		{[]sign{{"embeddings", "["}, {"model", `"`}, {"total_duration", ""}}, "embeddings"},
		{[]sign{{"embeddings", "["}, {"model", `"`}, {"prompt_eval_count", ""}}, "embeddings"},
	},
	texts: []textRule{
		{"model", slotModel},
		{"done_reason", slotFinish},
		{"done", slotFlag},
	},
	roots: []string{""},
	counts: []countRule{
		{"prompt_eval_count", meter.InputTokens},
		{"eval_count", meter.OutputTokens},
	},
	delivers: delivery{paths: []string{"message.content", "message.thinking", "response"}},
	ends:     endsOllama,
}.compile()

// endsOllama knows a stream's last line.
func endsOllama(c *Reader, data []byte) bool {
	return bytes.Contains(data, []byte(`"done":true`)) && c.parse(data) == nil && string(c.texts[slotFlag]) == "true"
}

// llamaServer is llama.cpp's own completion endpoint
// (https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md): tokens_evaluated is the whole prompt.
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
	},
}.compile()

// lmStudio is LM Studio's own chat endpoint (https://lmstudio.ai/docs/developer/rest/chat): a document, or a stream whose
// last event, chat.end, holds it.
var lmStudio = format{
	api:       "lm_studio",
	operation: "chat",
	markers:   []string{`"stats"`},
	shapes: []shape{
		{[]sign{{"stats.total_output_tokens", ""}}, ""},
		{[]sign{{"result.stats.total_output_tokens", ""}}, ""},
		{[]sign{{"type", "chat.start"}, {"model_instance_id", `"`}}, ""},
	},
	texts: []textRule{
		{"model_instance_id", slotModel},
		{"result.model_instance_id", slotModel},
		{"response_id", slotID},
		{"result.response_id", slotID},
	},
	roots: []string{"stats", "result.stats"},
	counts: []countRule{
		{"input_tokens", meter.InputTokens},
		{"total_output_tokens", meter.OutputTokens},
		{"reasoning_output_tokens", meter.ReasoningOutputTokens},
	},
}.compile()
