package extract

import (
	"bytes"

	"kafka-metering/meter"
)

// openAIChat is OpenAI's chat completions and the dialects of its many compatible servers.
//
//   - https://platform.openai.com/docs/api-reference/chat/object: usage, at the top level.
//   - https://platform.openai.com/docs/api-reference/chat-streaming/streaming: usage is null in every chunk but an extra
//     last one, and only there with stream_options.include_usage. Mistral, DeepSeek, Together and others put it on the
//     last chunk with content, unasked; Perplexity, Databricks and vLLM (continuous_usage_stats) on every chunk,
//     cumulative. So the last one counts.
//   - https://console.groq.com/docs/api-reference#chat-create: x_groq.usage on the last chunk, the same numbers again.
//   - https://api-docs.deepseek.com/api/create-chat-completion: prompt_cache_hit_tokens.
//   - https://docs.mistral.ai/api: num_cached_tokens; Moonshot and Together: cached_tokens; Databricks and Vercel:
//     Anthropic's names for the cache. All of them are inside prompt_tokens.
var openAIChat = format{
	operation: "chat",
	marker:    `"usage"`,
	roots:     []string{"usage", "x_groq.usage"},
	counts: []countRule{
		{"prompt_tokens", meter.InputTokens},
		{"completion_tokens", meter.OutputTokens},
		{"total_tokens", meter.TotalTokens},
		{"prompt_tokens_details.cached_tokens", meter.CacheReadInputTokens},
		{"prompt_token_details.cached_tokens", meter.CacheReadInputTokens},
		{"prompt_cache_hit_tokens", meter.CacheReadInputTokens},
		{"num_cached_tokens", meter.CacheReadInputTokens},
		{"cached_tokens", meter.CacheReadInputTokens},
		{"cache_read_input_tokens", meter.CacheReadInputTokens},
		{"prompt_tokens_details.cache_write_tokens", meter.CacheWriteInputTokens},
		{"cache_creation_input_tokens", meter.CacheWriteInputTokens},
		{"prompt_tokens_details.audio_tokens", meter.AudioInputTokens},
		{"prompt_tokens_details.image_tokens", meter.ImageInputTokens},
		{"prompt_tokens_details.video_tokens", meter.VideoInputTokens},
		{"prompt_tokens_details.text_tokens", meter.TextInputTokens},
		{"completion_tokens_details.reasoning_tokens", meter.ReasoningOutputTokens},
		{"completion_tokens_details.audio_tokens", meter.AudioOutputTokens},
		{"completion_tokens_details.image_tokens", meter.ImageOutputTokens},
		{"completion_tokens_details.text_tokens", meter.TextOutputTokens},
		{"completion_tokens_details.accepted_prediction_tokens", meter.AcceptedPredictionOutputTokens},
		{"completion_tokens_details.rejected_prediction_tokens", meter.RejectedPredictionOutputTokens},
		{"num_sources_used", meter.SourcesUsed},
	},
	texts: []textRule{
		{"model", slotModel},
		{"id", slotID},
		{"choices[].finish_reason", slotFinish},
	},
	lateEnd: true,
	read:    readOpenAI,
	ends:    endsOpenAI,
	settle:  settleOpenAI,
}.compile()

func readOpenAI(c *collector) {
	for root := range c.format.roots {
		if u, ok := c.counts(root); !ok || !u.Empty() {
			c.replace(&u, ok)
			return
		}
	}
}

// endsOpenAI knows the last event of a stream, which is no JSON.
func endsOpenAI(_ *collector, data []byte) bool {
	return string(bytes.TrimSpace(data)) == "[DONE]"
}

// settleOpenAI includes what two providers leave out of prompt_tokens or completion_tokens. The total shows it: it is the
// sum only with that part. Any other total that is not the sum stays a contradiction.
//
//   - xAI (https://docs.x.ai/docs/guides/reasoning): reasoning_tokens stand beside completion_tokens.
//   - Mistral (Voxtral): audio_tokens stand beside prompt_tokens.
func settleOpenAI(u *meter.Usage) {
	total, hasTotal := u.Get(meter.TotalTokens)
	input, hasInput := u.Get(meter.InputTokens)
	output, hasOutput := u.Get(meter.OutputTokens)
	missing := total - input - output
	if !hasTotal || !hasInput || !hasOutput || missing <= 0 {
		return
	}
	reasoning, _ := u.Get(meter.ReasoningOutputTokens)
	audio, _ := u.Get(meter.AudioInputTokens)
	switch {
	case missing == reasoning && missing != audio:
		u.Set(meter.OutputTokens, output+reasoning)
	case missing == audio && missing != reasoning:
		u.Set(meter.InputTokens, input+audio)
	}
}
