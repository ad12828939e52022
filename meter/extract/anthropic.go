package extract

import (
	"bytes"

	"kafka-metering/meter"
)

// anthropicCounts are the members of Anthropic's usage (https://docs.anthropic.com/en/api/messages). input_tokens leaves
// out what was read from and written to the cache (https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching).
var anthropicCounts = []countRule{
	{"input_tokens", meter.InputTokens},
	{"output_tokens", meter.OutputTokens},
	{"cache_read_input_tokens", meter.CacheReadInputTokens},
	{"cache_creation_input_tokens", meter.CacheWriteInputTokens},
	{"cache_creation.ephemeral_5m_input_tokens", meter.CacheWrite5mInputTokens},
	{"cache_creation.ephemeral_1h_input_tokens", meter.CacheWrite1hInputTokens},
	{"output_tokens_details.thinking_tokens", meter.ReasoningOutputTokens},
	{"server_tool_use.web_search_requests", meter.WebSearchRequests},
	{"server_tool_use.web_fetch_requests", meter.WebFetchRequests},
}

// anthropicLists are the rounds of an answer (https://docs.anthropic.com/en/docs/build-with-claude/compaction): those that
// are no messages, of compaction, advisor and fallback, are not in the numbers at the top.
var anthropicLists = []listRule{{path: "iterations", counts: []countRule{
	{"input_tokens", meter.IterationsInputTokens},
	{"cache_read_input_tokens", meter.IterationsInputTokens},
	{"cache_creation_input_tokens", meter.IterationsInputTokens},
	{"output_tokens", meter.IterationsOutputTokens},
}}}

// anthropicMessages is Anthropic's messages, also behind Vertex AI's rawPredict and Bedrock's InvokeModel.
//
// In a stream (https://docs.anthropic.com/en/docs/build-with-claude/streaming) message_start holds the first usage, with a
// placeholder for the output; message_delta holds the last, cumulative one, with some or all of the members. So its
// members go over the first one's, and nothing is added up.
var anthropicMessages = format{
	api:       "messages",
	operation: "chat",
	markers:   []string{`"usage"`},
	shapes: []shape{
		{[]sign{{"type", "message"}, {"role", "assistant"}, {"model", `"`}}, ""},
		{[]sign{{"type", "message_start"}, {"message.usage", "{"}}, ""},
		{[]sign{{"type", "message_start"}, {"message.role", "assistant"}}, ""}, // compatible servers leave the usage out
	},
	texts: []textRule{
		{"type", slotType},
		{"model", slotModel},
		{"message.model", slotModel},
		{"id", slotID},
		{"message.id", slotID},
		{"stop_reason", slotFinish},
		{"delta.stop_reason", slotFinish},
	},
	roots:  []string{"usage", "message.usage"},
	counts: anthropicCounts,
	// OpenRouter's (https://openrouter.ai/docs/api-reference/anthropic-messages).
	amounts: []amountRule{{"cost", meter.CostUSD}},
	lists:   anthropicLists,
	delivers: delivery{paths: []string{
		"delta.text", "delta.thinking", "delta.partial_json", "content_block.name",
	}},
	native:  "anthropic",
	models:  "claude",
	merging: overlays,
	read:    readAnthropic,
	ends:    endsAnthropic,
	begins:  beginsAnthropic,
	settle:  settleAnthropic,
}.compile()

const (
	anthropicTop   = iota // usage
	anthropicStart        // message.usage
)

func readAnthropic(c *Reader) {
	root, last := anthropicTop, true
	switch kind := c.texts[slotType]; {
	case is(kind, "message"), len(kind) == 0 && !c.streamed:
	case is(kind, "message_start"):
		root, last = anthropicStart, false
	case is(kind, "message_delta"):
	default:
		return
	}
	u, ok := c.usage(root)
	_, output := u.Get(meter.OutputTokens)
	settled, damaged, lost := c.settled, c.damaged, c.lost
	c.merge(u, ok)
	if !output || !last {
		c.settled, c.damaged, c.lost = settled, damaged, lost
	}
}

// endsAnthropic knows a stream's last event, {"type":"message_stop"}, to which Bedrock adds its metrics.
func endsAnthropic(c *Reader, data []byte) bool {
	const longest = 1 << 10
	return len(data) <= longest && bytes.Contains(data, []byte("message_stop")) && c.parse(data) == nil &&
		is(c.texts[slotType], "message_stop")
}

func beginsAnthropic(c *Reader, data []byte) bool {
	return bytes.Contains(data, []byte("message_start")) && c.parse(data) == nil && is(c.texts[slotType], "message_start")
}

// settleAnthropic includes the cached tokens in the input, as OpenTelemetry asks for this provider. What was written to
// the cache is the sum of its parts where these are all there is of it. Rounds that say no more than the message are left
// out.
func settleAnthropic(u *meter.Usage, _ string) {
	if _, declared := u.Get(meter.CacheWriteInputTokens); !declared {
		include(u, meter.CacheWriteInputTokens, meter.CacheWrite5mInputTokens)
		include(u, meter.CacheWriteInputTokens, meter.CacheWrite1hInputTokens)
	}
	include(u, meter.InputTokens, meter.CacheReadInputTokens)
	include(u, meter.InputTokens, meter.CacheWriteInputTokens)
	input, _ := u.Get(meter.InputTokens)
	output, _ := u.Get(meter.OutputTokens)
	allInput, _ := u.Get(meter.IterationsInputTokens)
	allOutput, _ := u.Get(meter.IterationsOutputTokens)
	if allInput == input && allOutput == output {
		u.Clear(meter.IterationsInputTokens)
		u.Clear(meter.IterationsOutputTokens)
	}
}

// anthropicComplete is Anthropic's text completions, which declare no usage
// (https://docs.anthropic.com/en/api/complete).
var anthropicComplete = format{
	api:       "complete",
	operation: "text_completion",
	markers:   []string{`"stop_reason"`},
	shapes:    []shape{{[]sign{{"type", "completion"}, {"completion", `"`}}, ""}},
	texts: []textRule{
		{"model", slotModel},
		{"id", slotID},
		{"stop_reason", slotFinish},
	},
	native: "anthropic",
	models: "claude",
}.compile()
