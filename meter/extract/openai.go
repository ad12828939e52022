package extract

import (
	"bytes"

	"kafka-metering/meter"
)

// openAICounts are the names that OpenAI's APIs and their many dialects have for usage. All parts are inside the input
// or the output.
//
//   - Chat completions, completions, embeddings (https://platform.openai.com/docs/api-reference/chat/object): prompt_tokens,
//     completion_tokens. Responses, images, transcriptions, realtime
//     (https://platform.openai.com/docs/api-reference/responses/object): input_tokens, output_tokens. Their details are
//     spelled in the singular by transcriptions, realtime, assistants and Writer.
//   - https://api-docs.deepseek.com/api/create-chat-completion: prompt_cache_hit_tokens.
//   - https://docs.mistral.ai/api: num_cached_tokens; Moonshot and Together: cached_tokens; Databricks and Vercel:
//     Anthropic's names for the cache.
//   - https://docs.perplexity.ai/api-reference/chat-completions-post: citation_tokens, reasoning_tokens, num_search_queries.
//   - https://docs.x.ai/docs/api-reference: num_sources_used.
//   - https://docs.voyageai.com/reference/multimodal-embeddings-api: image_pixels, video_pixels.
//   - https://openrouter.ai/docs/use-cases/usage-accounting: server_tool_use.web_search_requests.
var openAICounts = []countRule{
	{"prompt_tokens", meter.InputTokens},
	{"input_tokens", meter.InputTokens},
	{"completion_tokens", meter.OutputTokens},
	{"output_tokens", meter.OutputTokens},
	{"total_tokens", meter.TotalTokens},
	{"prompt_tokens_details.cached_tokens", meter.CacheReadInputTokens},
	{"input_tokens_details.cached_tokens", meter.CacheReadInputTokens},
	{"prompt_token_details.cached_tokens", meter.CacheReadInputTokens},
	{"input_token_details.cached_tokens", meter.CacheReadInputTokens},
	{"prompt_cache_hit_tokens", meter.CacheReadInputTokens},
	{"num_cached_tokens", meter.CacheReadInputTokens},
	{"cached_tokens", meter.CacheReadInputTokens},
	{"cache_read_input_tokens", meter.CacheReadInputTokens},
	{"prompt_tokens_details.cache_write_tokens", meter.CacheWriteInputTokens},
	{"input_tokens_details.cache_write_tokens", meter.CacheWriteInputTokens},
	{"cache_creation_input_tokens", meter.CacheWriteInputTokens},
	{"prompt_tokens_details.audio_tokens", meter.AudioInputTokens},
	{"input_tokens_details.audio_tokens", meter.AudioInputTokens},
	{"input_token_details.audio_tokens", meter.AudioInputTokens},
	{"prompt_tokens_details.image_tokens", meter.ImageInputTokens},
	{"input_tokens_details.image_tokens", meter.ImageInputTokens},
	{"input_token_details.image_tokens", meter.ImageInputTokens},
	{"prompt_tokens_details.video_tokens", meter.VideoInputTokens},
	{"text_tokens", meter.TextInputTokens},
	{"prompt_tokens_details.text_tokens", meter.TextInputTokens},
	{"input_tokens_details.text_tokens", meter.TextInputTokens},
	{"input_token_details.text_tokens", meter.TextInputTokens},
	{"completion_tokens_details.reasoning_tokens", meter.ReasoningOutputTokens},
	{"output_tokens_details.reasoning_tokens", meter.ReasoningOutputTokens},
	{"completion_token_details.reasoning_tokens", meter.ReasoningOutputTokens},
	{"output_token_details.reasoning_tokens", meter.ReasoningOutputTokens},
	{"reasoning_tokens", meter.ReasoningOutputTokens},
	{"completion_tokens_details.audio_tokens", meter.AudioOutputTokens},
	{"output_tokens_details.audio_tokens", meter.AudioOutputTokens},
	{"output_token_details.audio_tokens", meter.AudioOutputTokens},
	{"completion_tokens_details.image_tokens", meter.ImageOutputTokens},
	{"output_tokens_details.image_tokens", meter.ImageOutputTokens},
	{"completion_tokens_details.text_tokens", meter.TextOutputTokens},
	{"output_tokens_details.text_tokens", meter.TextOutputTokens},
	{"output_token_details.text_tokens", meter.TextOutputTokens},
	{"completion_tokens_details.accepted_prediction_tokens", meter.AcceptedPredictionOutputTokens},
	{"completion_tokens_details.rejected_prediction_tokens", meter.RejectedPredictionOutputTokens},
	{"citation_tokens", meter.CitationTokens},
	{"num_search_queries", meter.SearchQueries},
	{"num_sources_used", meter.SourcesUsed},
	{"num_server_side_tools_used", meter.ServerToolsUsed},
	{"server_tool_use.web_search_requests", meter.WebSearchRequests},
	{"server_tool_use_details.web_search_requests", meter.WebSearchRequests},
	{"pages_processed", meter.PagesProcessed},
	{"image_pixels", meter.ImagePixels},
	{"video_pixels", meter.VideoPixels},
}

// openAIAmounts are the measures beside them.
//
//   - https://openrouter.ai/docs/use-cases/usage-accounting and Vercel: cost; Perplexity: cost.total_cost; xAI:
//     cost_in_usd_ticks.
//   - https://platform.openai.com/docs/api-reference/audio/json-object: seconds, of models that are paid by duration;
//     Mistral: prompt_audio_seconds.
var openAIAmounts = []amountRule{
	{"cost", meter.CostUSD},
	{"cost.total_cost", meter.CostUSD},
	{"cost_in_usd_ticks", meter.CostUSDTicks},
	{"seconds", meter.AudioSeconds},
	{"prompt_audio_seconds", meter.AudioSeconds},
}

// openAIChat is OpenAI's chat completions and everything else that answers with a usage of its kind at the top level:
// completions, embeddings, images, transcriptions, assistants' runs, rerankers, and the dialects of compatible servers.
//
//   - https://platform.openai.com/docs/api-reference/chat-streaming/streaming: usage is null in every chunk but an extra
//     last one, and only there with stream_options.include_usage. Mistral, DeepSeek, Together and others put it on the
//     last chunk with content, unasked; Perplexity, Databricks and vLLM (continuous_usage_stats) on every chunk,
//     cumulative. So the last one counts.
//   - https://console.groq.com/docs/api-reference#chat-create: x_groq.usage on the last chunk, the same numbers again.
//   - https://platform.moonshot.ai/docs/api/chat: choices[].usage in older streams.
//   - https://developers.cloudflare.com/workers-ai/: result.usage.
//   - https://docs.mistral.ai/api/#tag/ocr: usage_info.
//   - https://platform.openai.com/docs/api-reference/runs: in a stream, a step's usage comes before that of the run,
//     which includes it.
//   - https://help.aliyun.com/zh/model-studio/qwen-api-reference (DashScope): output, request_id and usage.
var openAIChat = format{
	api:       "openai",
	operation: "chat",
	markers:   []string{`"usage"`, `"usage_info"`},
	shapes: []shape{
		{[]sign{{"object", "chat.completion*"}}, "chat"},
		{[]sign{{"object", "text_completion*"}}, "text_completion"},
		{[]sign{{"object", "thread.run"}}, "chat"},
		{[]sign{{"object", "rerank"}, {"results", "["}}, "rerank"},
		{[]sign{{"choices[].message.role", `"`}}, "chat"},
		{[]sign{{"choices[].delta", "{"}}, "chat"},
		{[]sign{{"choices[].text", `"`}, {"model", `"`}}, "text_completion"},
		{[]sign{{"data[].embedding", ""}, {"model", `"`}}, "embeddings"},
		{[]sign{{"data[].embedding", ""}, {"usage.total_tokens", ""}}, "embeddings"},
		{[]sign{{"data[].relevance_score", ""}, {"usage.total_tokens", ""}}, "rerank"},
		{[]sign{{"results[].relevance_score", ""}, {"usage.total_tokens", ""}}, "rerank"},
		{[]sign{{"data[].b64_json", `"`}, {"created", ""}}, "image_generation"},
		{[]sign{{"type", "image_generation.*"}}, "image_generation"},
		{[]sign{{"type", "image_edit.*"}}, "image_generation"},
		{[]sign{{"type", "transcript.text.*"}}, "transcription"},
		{[]sign{{"type", "speech.audio.*"}}, "speech"},
		{[]sign{{"text", `"`}, {"usage.type", "duration"}}, "transcription"},
		{[]sign{{"text", `"`}, {"usage.input_tokens", ""}, {"usage.total_tokens", ""}}, "transcription"},
		{[]sign{{"text", `"`}, {"usage.prompt_audio_seconds", ""}}, "transcription"},
		{[]sign{{"pages[].markdown", ""}, {"usage_info.pages_processed", ""}}, "ocr"},
		{[]sign{{"usage.prompt_tokens", ""}, {"usage.total_tokens", ""}}, ""},
		{[]sign{{"result.usage.prompt_tokens", ""}, {"result.usage.total_tokens", ""}}, ""},
		{[]sign{{"output", "{"}, {"request_id", `"`}, {"usage.input_tokens", ""}}, ""},
		{[]sign{{"output", "{"}, {"request_id", `"`}, {"usage.total_tokens", ""}}, ""},
	},
	texts: []textRule{
		{"model", slotModel},
		{"result.model", slotModel},
		{"model_id", slotModel}, // watsonx
		{"id", slotID},
		{"request_id", slotID},
		{"choices[].finish_reason", slotFinish},
		{"output.finish_reason", slotFinish},
		{"output.choices[].finish_reason", slotFinish},
		{"object", slotType},
		{"duration", slotFlag},
	},
	roots:   []string{"usage", "x_groq.usage", "choices[].usage", "result.usage", "usage_info"},
	counts:  openAICounts,
	amounts: openAIAmounts,
	delivers: delivery{list: "choices", paths: []string{
		"delta.content", "delta.reasoning_content", "delta.reasoning", "delta.refusal", "text",
		"delta.tool_calls[].function.name", "delta.tool_calls[].function.arguments",
	}},
	lateEnd: true,
	read:    readOpenAI,
	ends:    endsOpenAI,
	settle:  settleOpenAI,
}.compile()

func readOpenAI(c *Reader) {
	if is(c.texts[slotType], "thread.run.step") || is(c.texts[slotType], "thread.run.step.delta") {
		return // the run's usage includes it
	}
	c.readRoots()
	if c.llm.Operation == "transcription" && c.declared.Empty() && !c.bad {
		// https://platform.openai.com/docs/api-reference/audio/verbose-json-object: older answers have nothing else.
		if seconds, ok := amount(c.texts[slotFlag]); ok {
			c.declared.SetAmount(meter.AudioSeconds, seconds)
			c.settled = true
			c.explainAmount(noRoot, "duration", meter.AudioSeconds, c.texts[slotFlag])
		}
	}
}

// endsOpenAI knows the last event of a stream, which is no JSON.
func endsOpenAI(_ *Reader, data []byte) bool {
	return len(data) <= 8 && string(bytes.TrimSpace(data)) == "[DONE]"
}

// settleOpenAI includes what some providers leave out of prompt_tokens or completion_tokens. The total shows it: it is the
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
