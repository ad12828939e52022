package extract

import "bytes"

// openAIResponses is OpenAI's Responses API, also of Azure, xAI, OpenRouter, DeepSeek, LM Studio and Bedrock.
//
//   - https://platform.openai.com/docs/api-reference/responses/object: usage, at the top level. tool_usage beside it is
//     what hosted tools consumed, and not read.
//   - https://platform.openai.com/docs/api-reference/responses-streaming: response.usage of the last event, which is
//     response.completed, response.incomplete or response.failed. It is null in the events before.
//   - https://openrouter.ai/docs/api-reference/responses-api/basic-usage: OpenRouter documents response.done instead.
var openAIResponses = format{
	api:       "responses",
	operation: "chat",
	markers:   []string{`"usage"`},
	shapes: []shape{
		{[]sign{{"object", "response"}}, ""},
		{[]sign{{"object", "response.compaction"}}, ""},
		{[]sign{{"response.object", "response"}}, ""},
		{[]sign{{"type", "response.created"}, {"response", "{"}}, ""},
	},
	texts: []textRule{
		{"response.model", slotModel},
		{"model", slotModel},
		{"response.id", slotID},
		{"id", slotID},
		{"response.status", slotFinish},
		{"status", slotFinish},
		{"type", slotType},
	},
	roots:   []string{"response.usage", "usage"},
	counts:  openAICounts,
	amounts: openAIAmounts,
	delivers: delivery{paths: []string{"delta"}, types: []string{
		"response.output_text.", "response.reasoning", "response.refusal.", "response.function_call_arguments.", "response.custom_tool_call_input.",
	}},
	read:   readResponses,
	ends:   endsResponses,
	begins: beginsResponses,
	settle: settleOpenAI,
}.compile()

// responsesSocket is the same over a WebSocket (https://platform.openai.com/docs/guides/websocket-mode): the events of one
// response after the other. A session consumes their sum.
var responsesSocket = func() *format {
	f := *openAIResponses
	f.ends, f.merging = nil, sums
	return &f
}()

// readResponses reads a document, or the last event of a stream. The others repeat the response as it is so far.
func readResponses(c *Reader) {
	if kind := c.texts[slotType]; !c.streamed || isLastResponse(kind) && (c.format.merging != sums || !is(kind, "response.done")) {
		c.readRoots() // a socket's responses add up, so none may count twice
		return
	}
	c.texts[slotFinish] = nil // queued, in_progress
}

func isLastResponse(kind []byte) bool {
	return is(kind, "response.completed") || is(kind, "response.incomplete") || is(kind, "response.failed") || is(kind, "response.done")
}

// endsResponses knows the last event by its type, which stands in front, or at the end where a library has sorted the
// members.
func endsResponses(c *Reader, data []byte) bool {
	if endsOpenAI(c, data) {
		return true
	}
	const edge = 96
	if !hasType(data[:min(len(data), edge)]) && !hasType(data[max(0, len(data)-edge):]) || c.parse(data) != nil || !isLastResponse(c.texts[slotType]) {
		return false
	}
	c.accept()
	return true
}

func beginsResponses(c *Reader, data []byte) bool {
	return bytes.Contains(data, []byte("response.created")) && c.parse(data) == nil && is(c.texts[slotType], "response.created")
}

// hasType reports whether a part of an event holds a type, and not one of those that most events have.
func hasType(part []byte) bool {
	i := bytes.Index(part, []byte(`"response.`))
	return i >= 0 && !bytes.HasPrefix(part[i:], []byte(`"response.output`))
}
