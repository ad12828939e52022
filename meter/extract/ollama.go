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
		{"prompt_eval_cached_count", meter.CacheReadInputTokens}, // of prompt_eval_count, since 2026
	},
	delivers: delivery{paths: []string{"message.content", "message.thinking", "response"}},
	ends:     endsOllama,
}.compile()

// endsOllama knows a stream's last line.
func endsOllama(c *Reader, data []byte) bool {
	return bytes.Contains(data, []byte(`"done":true`)) && c.parse(data) == nil && string(c.texts[slotFlag]) == "true"
}
