package extract

import "kafka-metering/meter"

// tokenCount is what endpoints answer that count the tokens of a request which is not made. Nothing is consumed: the number
// is never usage.
//
//   - https://docs.anthropic.com/en/api/messages-count-tokens and
//     https://platform.openai.com/docs/api-reference/responses/input-tokens: input_tokens.
//   - https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_CountTokens.html: inputTokens.
//   - https://ai.google.dev/api/tokens: totalTokens.
var tokenCount = format{
	api:     "count_tokens",
	markers: []string{`"input_tokens"`, `"inputTokens"`, `"totalTokens"`},
	roots:   []string{""},
	counts: []countRule{
		{"input_tokens", meter.InputTokens},
		{"inputTokens", meter.InputTokens},
		{"totalTokens", meter.InputTokens},
	},
}.compile()

// Counted returns the number that a counting endpoint has answered, once the reader is closed. [Extract] calls such an
// exchange no LLM call.
func (c *Reader) Counted() (n int64, ok bool) {
	if c.format != tokenCount || c.bad || c.junk {
		return 0, false
	}
	return c.declared.Get(meter.InputTokens)
}

// apis are the names of what openAIChat reads, by operation.
var apis = map[string]string{
	"chat":             "chat_completions",
	"text_completion":  "completions",
	"embeddings":       "embeddings",
	"image_generation": "images",
	"transcription":    "audio_transcriptions",
	"speech":           "audio_speech",
	"moderation":       "moderations",
	"rerank":           "rerank",
	"ocr":              "ocr",
}

// API returns the name of the API whose rules the response was read by, or "".
func (c *Reader) API() string {
	switch {
	case c.format == nil:
		return ""
	case c.format == openAIChat && apis[c.llm.Operation] != "":
		return apis[c.llm.Operation]
	default:
		return c.format.api
	}
}
