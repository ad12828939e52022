package extract

import (
	"bytes"

	"kafka-metering/meter"
)

// cohereChat is Cohere's API: chat, generate, embed, rerank, classify, of both versions.
//
//   - https://docs.cohere.com/v2/reference/chat: usage.tokens is everything that the model processed, usage.billed_units
//     what is invoiced. The two differ: prompts that Cohere adds are not billed.
//   - https://docs.cohere.com/reference/chat-stream: in version 2 the event message-end holds delta.usage, in version 1
//     the last line of NDJSON, stream-end, holds response.meta.
//   - https://docs.cohere.com/v1/reference/generate, embed, rerank: meta.billed_units alone.
var cohereChat = format{
	api:       "cohere",
	operation: "chat",
	markers:   []string{`"billed_units"`, `"tokens"`},
	shapes: []shape{
		{[]sign{{"meta.billed_units.search_units", ""}, {"results", "["}}, "rerank"},
		{[]sign{{"meta.billed_units", "{"}, {"embeddings", ""}}, "embeddings"},
		{[]sign{{"meta.billed_units", "{"}, {"generations", "["}}, "text_completion"},
		{[]sign{{"meta.billed_units", "{"}, {"classifications", "["}}, "classification"},
		{[]sign{{"meta.billed_units", "{"}}, ""},
		{[]sign{{"meta.api_version.version", ""}, {"id", `"`}}, ""},
		{[]sign{{"usage.billed_units", "{"}}, ""},
		{[]sign{{"usage.tokens", "{"}}, ""},
		{[]sign{{"event_type", `"`}, {"is_finished", ""}}, ""},
		{[]sign{{"is_finished", ""}, {"text", `"`}}, "text_completion"},
		{[]sign{{"type", "message-start"}, {"delta.message.role", `"`}}, ""},
	},
	texts: []textRule{
		{"response_id", slotID},
		{"response.response_id", slotID},
		{"generation_id", slotID},
		{"id", slotID},
		{"finish_reason", slotFinish},
		{"delta.finish_reason", slotFinish},
		{"event_type", slotType},
		{"type", slotType},
	},
	roots: []string{"usage", "delta.usage", "meta", "response.meta"},
	counts: []countRule{
		{"tokens.input_tokens", meter.InputTokens},
		{"tokens.output_tokens", meter.OutputTokens},
		{"tokens.image_tokens", meter.ImageInputTokens},
		{"tokens.reasoning_tokens", meter.ReasoningOutputTokens},
		{"cached_tokens", meter.CacheReadInputTokens},
		{"billed_units.input_tokens", meter.BilledInputTokens},
		{"billed_units.output_tokens", meter.BilledOutputTokens},
		{"billed_units.images", meter.BilledImages},
		{"billed_units.image_tokens", meter.ImageInputTokens},
		{"billed_units.search_units", meter.SearchUnits},
		{"billed_units.classifications", meter.Classifications},
	},
	delivers: delivery{paths: []string{
		"delta.message.content.text", "delta.message.content.thinking", "delta.message.tool_calls.function.arguments", "text",
	}},
	native: "cohere",
	models: "command",
	// Bedrock's documents do not mention meta.tokens, which counts the prompts that Cohere adds; Bedrock counts, and
	// invoices, what Cohere would bill.
	bedrock: bedrockWins,
	ends:    endsCohere,
	settle:  settleCohere,
}.compile()

// endsCohere knows a stream's last event.
func endsCohere(c *Reader, data []byte) bool {
	if !bytes.Contains(data, []byte("stream-end")) && !bytes.Contains(data, []byte("message-end")) || c.parse(data) != nil {
		return false
	}
	return is(c.texts[slotType], "stream-end") || is(c.texts[slotType], "message-end")
}

// settleCohere takes what is billed for what was processed where nothing else is declared.
func settleCohere(u *meter.Usage, _ string) {
	_, hasInput := u.Get(meter.InputTokens)
	_, hasOutput := u.Get(meter.OutputTokens)
	if hasInput || hasOutput {
		return
	}
	n, hasInput := u.Get(meter.BilledInputTokens)
	if hasInput {
		u.Set(meter.InputTokens, n)
	}
	if n, ok := u.Get(meter.BilledOutputTokens); ok {
		u.Set(meter.OutputTokens, n)
	}
	if !hasInput {
		include(u, meter.InputTokens, meter.ImageInputTokens) // an embedding of images alone
	}
}
