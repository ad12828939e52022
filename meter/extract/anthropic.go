package extract

import (
	"bytes"

	"kafka-metering/meter"
)

// anthropicMessages is Anthropic's messages, also behind Vertex AI's rawPredict.
//
//   - https://docs.anthropic.com/en/api/messages: usage, at the top level; input_tokens leaves out what was read from and
//     written to the cache (https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching).
//   - https://docs.anthropic.com/en/docs/build-with-claude/streaming: message_start holds the first usage, with a
//     placeholder for the output; message_delta holds the last, cumulative one, with some or all of the members. So its
//     members go over the first one's, and nothing is added up.
//
// usage.iterations repeats the numbers by round and is not read: the top level is what the message itself took.
var anthropicMessages = format{
	operation: "chat",
	marker:    `"usage"`,
	roots:     []string{"usage", "message.usage"},
	counts: []countRule{
		{"input_tokens", meter.InputTokens},
		{"output_tokens", meter.OutputTokens},
		{"cache_read_input_tokens", meter.CacheReadInputTokens},
		{"cache_creation_input_tokens", meter.CacheWriteInputTokens},
		{"cache_creation.ephemeral_5m_input_tokens", meter.CacheWrite5mInputTokens},
		{"cache_creation.ephemeral_1h_input_tokens", meter.CacheWrite1hInputTokens},
		{"output_tokens_details.thinking_tokens", meter.ReasoningOutputTokens},
		{"server_tool_use.web_search_requests", meter.WebSearchRequests},
		{"server_tool_use.web_fetch_requests", meter.WebFetchRequests},
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
	native: "anthropic",
	models: "claude",
	read:   readAnthropic,
	ends:   endsAnthropic,
	settle: settleAnthropic,
}.compile()

const (
	anthropicTop   = iota // usage
	anthropicStart        // message.usage
)

func readAnthropic(c *collector) {
	root, last := anthropicTop, true
	switch kind := c.values[slotType]; {
	case !c.streamed && is(kind, "message"):
	case c.streamed && is(kind, "message_start"):
		root, last = anthropicStart, false
	case c.streamed && is(kind, "message_delta"):
	default:
		return
	}
	u, ok := c.counts(root)
	if !ok {
		c.bad = true // for good: what it goes over or under is not known any more
		return
	}
	c.declared.Overlay(&u)
	if _, output := u.Get(meter.OutputTokens); output && last {
		c.settled, c.damaged, c.lost = true, false, false
	}
}

// endsAnthropic knows a stream's last event, {"type":"message_stop"}.
func endsAnthropic(c *collector, data []byte) bool {
	const start = len(`{ "type": "message_stop"`)
	return bytes.Contains(data[:min(len(data), start)], []byte("message_stop")) && c.parse(data) == nil &&
		is(c.values[slotType], "message_stop")
}

// settleAnthropic includes the cached tokens in the input, as OpenTelemetry asks for this provider.
func settleAnthropic(u *meter.Usage) {
	include(u, meter.InputTokens, meter.CacheReadInputTokens)
	include(u, meter.InputTokens, meter.CacheWriteInputTokens)
}
