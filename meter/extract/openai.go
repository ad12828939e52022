package extract

import (
	"bytes"
	"math/bits"
	"slices"

	"kafka-metering/meter"
)

// openAICounts are the names that OpenAI's APIs and their many dialects have for usage. All parts are inside the input
// or the output.
//
//   - Chat completions, completions, embeddings (https://platform.openai.com/docs/api-reference/chat/object): prompt_tokens,
//     completion_tokens. Responses, images, transcriptions, realtime
//     (https://platform.openai.com/docs/api-reference/responses/object): input_tokens, output_tokens.
//   - https://api-docs.deepseek.com/api/create-chat-completion: prompt_cache_hit_tokens.
//   - https://docs.mistral.ai/api: num_cached_tokens, and connector_tokens of conversations; Moonshot and Together:
//     cached_tokens; Databricks and Vercel: Anthropic's names for the cache.
//   - https://docs.perplexity.ai/api-reference/chat-completions-post: citation_tokens, reasoning_tokens, num_search_queries.
//   - https://docs.x.ai/docs/api-reference: num_sources_used.
//   - https://docs.voyageai.com/reference/multimodal-embeddings-api: image_pixels, video_pixels.
//   - https://openrouter.ai/docs/use-cases/usage-accounting: server_tool_use.web_search_requests;
//     https://openrouter.ai/docs/agent-sdk/typescript/api-reference/operations/creatererankusage: search_units.
//   - https://help.aliyun.com/zh/model-studio (DashScope): image_tokens, audio_tokens and video_tokens of what was sent,
//     image_count, characters; https://www.volcengine.com/docs/82379 (Volcengine): generated_images.
//   - https://docs.pinecone.io/reference/api/latest/inference/rerank: rerank_units.
//   - https://console.upstage.ai/docs/capabilities/digitize/document-parsing: pages.
var openAICounts = slices.Concat(
	[]countRule{
		{"prompt_tokens", meter.InputTokens},
		{"input_tokens", meter.InputTokens},
		{"completion_tokens", meter.OutputTokens},
		{"output_tokens", meter.OutputTokens},
		{"total_tokens", meter.TotalTokens},
	},
	below(openAIInputDetails, "prompt_tokens_details", "input_tokens_details", "prompt_token_details", "input_token_details"),
	below(openAIOutputDetails, "completion_tokens_details", "output_tokens_details", "completion_token_details", "output_token_details"),
	[]countRule{
		{"prompt_cache_hit_tokens", meter.CacheReadInputTokens},
		{"num_cached_tokens", meter.CacheReadInputTokens},
		{"cached_tokens", meter.CacheReadInputTokens},
		{"cache_read_input_tokens", meter.CacheReadInputTokens},
		{"cache_creation_input_tokens", meter.CacheWriteInputTokens},
		{"cache_creation.ephemeral_5m_input_tokens", meter.CacheWrite5mInputTokens},
		{"cache_creation.ephemeral_1h_input_tokens", meter.CacheWrite1hInputTokens},
		{"connector_tokens", meter.ToolUseInputTokens},
		{"audio_tokens", meter.AudioInputTokens},
		{"image_tokens", meter.ImageInputTokens},
		{"video_tokens", meter.VideoInputTokens},
		{"text_tokens", meter.TextInputTokens},
		{"reasoning_tokens", meter.ReasoningOutputTokens},
		{"citation_tokens", meter.CitationTokens},
		{"num_search_queries", meter.SearchQueries},
		{"num_sources_used", meter.SourcesUsed},
		{"num_server_side_tools_used", meter.ServerToolsUsed},
		{"server_tool_use.web_search_requests", meter.WebSearchRequests},
		{"server_tool_use_details.web_search_requests", meter.WebSearchRequests},
		{"server_tool_use.web_fetch_requests", meter.WebFetchRequests},
		{"server_tool_use_details.web_fetch_requests", meter.WebFetchRequests},
		{"search_units", meter.SearchUnits},
		{"rerank_units", meter.SearchUnits},
		{"pages_processed", meter.PagesProcessed},
		{"pages", meter.PagesProcessed},
		{"characters", meter.BillableCharacters},
		{"image_count", meter.BilledImages},
		{"generated_images", meter.BilledImages},
		{"image_pixels", meter.ImagePixels},
		{"video_pixels", meter.VideoPixels},
	},
)

// openAIInputDetails and openAIOutputDetails are the parts of the input and of the output. The object that holds them is
// spelled in the singular by transcriptions, realtime, assistants and Writer.
//
//   - What was written to the cache: cache_write_tokens; cache_creation_input_tokens of DashScope
//     (https://help.aliyun.com/zh/model-studio/context-cache), and of Perplexity's responses beside cache_read_input_tokens
//     (https://docs.perplexity.ai/api-reference); cache_creation_tokens of LiteLLM
//     (https://docs.litellm.ai/docs/completion/prompt_caching), cached_creation_tokens of New API.
var (
	openAIInputDetails = []countRule{
		{"cached_tokens", meter.CacheReadInputTokens},
		{"cache_read_input_tokens", meter.CacheReadInputTokens},
		{"cache_write_tokens", meter.CacheWriteInputTokens},
		{"cache_creation_input_tokens", meter.CacheWriteInputTokens},
		{"cache_creation_tokens", meter.CacheWriteInputTokens},
		{"cached_creation_tokens", meter.CacheWriteInputTokens},
		{"cache_creation.ephemeral_5m_input_tokens", meter.CacheWrite5mInputTokens},
		{"cache_creation.ephemeral_1h_input_tokens", meter.CacheWrite1hInputTokens},
		{"cache_creation_token_details.ephemeral_5m_input_tokens", meter.CacheWrite5mInputTokens},
		{"cache_creation_token_details.ephemeral_1h_input_tokens", meter.CacheWrite1hInputTokens},
		{"audio_tokens", meter.AudioInputTokens},
		{"image_tokens", meter.ImageInputTokens},
		{"video_tokens", meter.VideoInputTokens},
		{"text_tokens", meter.TextInputTokens},
	}
	openAIOutputDetails = []countRule{
		{"reasoning_tokens", meter.ReasoningOutputTokens},
		{"audio_tokens", meter.AudioOutputTokens},
		{"image_tokens", meter.ImageOutputTokens},
		{"video_tokens", meter.VideoOutputTokens},
		{"text_tokens", meter.TextOutputTokens},
		{"accepted_prediction_tokens", meter.AcceptedPredictionOutputTokens},
		{"rejected_prediction_tokens", meter.RejectedPredictionOutputTokens},
	}
)

// below returns rules for what stands below each of several paths.
func below(rules []countRule, paths ...string) (all []countRule) {
	for _, path := range paths {
		for _, r := range rules {
			all = append(all, countRule{path + "." + r.path, r.quantity})
		}
	}
	return all
}

// openAIAmounts are the measures beside them.
//
//   - https://openrouter.ai/docs/use-cases/usage-accounting and Vercel: cost; Perplexity: cost.total_cost; xAI:
//     cost_in_usd_ticks; https://deepinfra.com/docs: estimated_cost.
//   - https://platform.openai.com/docs/api-reference/audio/json-object: seconds, of models that are paid by duration;
//     Mistral: prompt_audio_seconds.
var openAIAmounts = []amountRule{
	{"cost", meter.CostUSD},
	{"cost.total_cost", meter.CostUSD},
	{"estimated_cost", meter.CostUSD},
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
//   - https://docs.mistral.ai/api/#tag/beta.conversations: a conversation's answer, whose stream ends with
//     conversation.response.done.
//   - https://developers.cloudflare.com/workers-ai/: result.usage.
//   - https://docs.mistral.ai/api/#tag/ocr: usage_info.
//   - https://platform.openai.com/docs/api-reference/runs: in a stream, a step's usage comes before that of the run,
//     which includes it.
//   - https://help.aliyun.com/zh/model-studio/qwen-api-reference (DashScope): output, request_id and usage; of an
//     application (https://help.aliyun.com/zh/model-studio/call-application-through-api) usage.models, one for each model
//     that it called.
var openAIChat = format{
	api:       "openai",
	operation: "chat",
	markers:   []string{`"usage"`, `"usage_info"`},
	shapes: []shape{
		{[]sign{{"object", "chat.completion*"}}, "chat"},
		{[]sign{{"object", "text_completion*"}}, "text_completion"},
		{[]sign{{"object", "thread.run"}}, "chat"},
		{[]sign{{"object", "rerank"}, {"results", "["}}, "rerank"},
		{[]sign{{"object", "conversation.response"}}, "chat"},
		{[]sign{{"type", "conversation.response.*"}}, "chat"},
		{[]sign{{"choices[].message.role", `"`}}, "chat"},
		{[]sign{{"choices[].delta", "{"}}, "chat"},
		{[]sign{{"choices[].text", `"`}, {"model", `"`}}, "text_completion"},
		{[]sign{{"data[].embedding", ""}, {"model", `"`}}, "embeddings"},
		{[]sign{{"data[].embedding", ""}, {"usage.total_tokens", ""}}, "embeddings"},
		{[]sign{{"data[].data[].embedding", ""}, {"usage.total_tokens", ""}}, "embeddings"},
		{[]sign{{"data[].embeddings", ""}, {"usage.total_tokens", ""}}, "embeddings"},
		{[]sign{{"data.embedding", ""}, {"usage.total_tokens", ""}}, "embeddings"},
		{[]sign{{"data[].relevance_score", ""}, {"usage.total_tokens", ""}}, "rerank"},
		{[]sign{{"results[].relevance_score", ""}, {"usage", "{"}}, "rerank"},
		{[]sign{{"data[].object", "classification"}, {"usage.total_tokens", ""}}, "classification"},
		{[]sign{{"data[].score", ""}, {"usage.rerank_units", ""}}, "rerank"},
		{[]sign{{"data[].prediction", ""}, {"usage.total_tokens", ""}}, "classification"},
		{[]sign{{"data[].b64_json", `"`}, {"created", ""}}, "image_generation"},
		{[]sign{{"data[].url", `"`}, {"created", ""}, {"usage.input_tokens", ""}, {"usage.total_tokens", ""}}, "image_generation"},
		{[]sign{{"data", "["}, {"usage.cost_in_usd_ticks", ""}}, "image_generation"},
		{[]sign{{"type", "image_generation.*"}}, "image_generation"},
		{[]sign{{"type", "image_edit.*"}}, "image_generation"},
		{[]sign{{"type", "transcript.text.*"}}, "transcription"},
		{[]sign{{"type", "transcription.*"}}, "transcription"},
		{[]sign{{"type", "speech.audio.*"}}, "speech"},
		{[]sign{{"text", `"`}, {"usage.seconds", ""}}, "transcription"},
		{[]sign{{"text", `"`}, {"duration", ""}, {"task", "trans*"}}, "transcription"},
		{[]sign{{"text", `"`}, {"duration", ""}, {"segments", "["}}, "transcription"},
		{[]sign{{"text", `"`}, {"usage.input_tokens", ""}, {"usage.total_tokens", ""}}, "transcription"},
		{[]sign{{"text", `"`}, {"usage.prompt_audio_seconds", ""}}, "transcription"},
		{[]sign{{"pages", "["}, {"usage_info.pages_processed", ""}}, "ocr"},
		{[]sign{{"usage.prompt_tokens", ""}, {"usage.total_tokens", ""}}, ""},
		{[]sign{{"result.usage.prompt_tokens", ""}, {"result.data", "["}, {"result.shape", "["}}, "embeddings"},
		{[]sign{{"result.usage.prompt_tokens", ""}, {"result.usage.total_tokens", ""}}, ""},
		{[]sign{{"result.usage.input_tokens", ""}, {"result.usage.total_tokens", ""}, {"success", ""}}, ""},
		{[]sign{{"output", "{"}, {"request_id", `"`}, {"usage.input_tokens", ""}}, ""},
		{[]sign{{"output", "{"}, {"request_id", `"`}, {"usage.total_tokens", ""}}, ""},
		{[]sign{{"output", "{"}, {"request_id", `"`}, {"usage.models", "["}}, ""},
		{[]sign{{"output", "{"}, {"request_id", `"`}, {"usage.image_count", ""}}, "image_generation"},
		{[]sign{{"output", "{"}, {"request_id", `"`}, {"usage.characters", ""}}, "speech"},
		{[]sign{{"output", "{"}, {"request_id", `"`}, {"usage.seconds", ""}}, "transcription"},
		{[]sign{{"usage.prompt_tokens", ""}, {"usage.completion_tokens", ""}}, ""},
		{[]sign{{"usage.input_tokens", ""}, {"usage.output_tokens", ""}, {"model", `"`}}, ""},
		{[]sign{{"usage.total_tokens", ""}, {"model", `"`}}, ""},
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
		{"response.choices[].finish_reason", slotFinish}, // of Perplexity's asynchronous calls, once they are done
		{"object", slotType},
		{"type", slotType},
		{"duration", slotFlag},
	},
	roots:   []string{"usage", "x_groq.usage", "choices[].usage", "result.usage", "usage_info", "response.usage"},
	counts:  openAICounts,
	amounts: openAIAmounts,
	lists:   []listRule{{path: "models", counts: []countRule{{"input_tokens", meter.InputTokens}, {"output_tokens", meter.OutputTokens}}}},
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
	switch kind := c.texts[slotType]; {
	case bytes.HasPrefix(kind, []byte(`"thread`)) && !is(kind, "thread.run"): // a thread, a message, a step
		c.texts[slotID] = nil // the run's is the answer's
		return                // the run's usage includes a step's
	case is(kind, "transcript.text.segment"):
		c.texts[slotID] = nil // one of many
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

// besides are the parts that some providers leave out of prompt_tokens or completion_tokens.
//
//   - xAI (https://docs.x.ai/docs/guides/reasoning): reasoning_tokens stand beside completion_tokens.
//   - Mistral (Voxtral): audio_tokens stand beside prompt_tokens; in conversations
//     (https://docs.mistral.ai/agents/connectors/websearch) connector_tokens do.
//   - Portkey (https://portkey.ai/docs/integrations/llms/anthropic/prompt-caching): what Anthropic's cache holds does.
var besides = [...]struct {
	whole    meter.Quantity
	parts    []meter.Quantity
	provider string
}{
	{meter.OutputTokens, []meter.Quantity{meter.ReasoningOutputTokens}, "xai"},
	{meter.InputTokens, []meter.Quantity{meter.AudioInputTokens}, "mistral"},
	{meter.InputTokens, []meter.Quantity{meter.ToolUseInputTokens}, "mistral"},
	{meter.InputTokens, []meter.Quantity{meter.CacheReadInputTokens, meter.CacheWriteInputTokens}, "portkey"},
}

// allBesides is the set of them, one bit for each.
const allBesides = 1<<len(besides) - 1

// besidesOf returns those of a provider.
func besidesOf(provider string) (set uint) {
	for i, b := range besides {
		if b.provider == provider {
			set |= 1 << i
		}
	}
	return set
}

// settleOpenAI includes the parts that are left out. The total shows which: it is the sum only with them, and with no
// others, or with no others that this provider leaves out. Any other total that is not the sum stays a contradiction.
func settleOpenAI(u *meter.Usage, provider string) {
	if !includeBesides(u, besidesOf(provider)) {
		includeBesides(u, allBesides)
	}
}

// includeBesides includes the one set of the candidates with which the total is the sum, and reports whether there is one.
func includeBesides(u *meter.Usage, candidates uint) bool {
	total, hasTotal := u.Get(meter.TotalTokens)
	input, hasInput := u.Get(meter.InputTokens)
	output, hasOutput := u.Get(meter.OutputTokens)
	missing := total - input - output
	if !hasTotal || !hasInput || !hasOutput || missing <= 0 {
		return false
	}
	var (
		left  [len(besides)]int64 // what each of them amounts to
		found uint                // the set of them that is missing
		sets  int
	)
	for i, b := range besides {
		for _, part := range b.parts {
			n, _ := u.Get(part)
			left[i] += n
		}
	}
	for set := uint(1); set <= allBesides; set++ {
		sum, empty := int64(0), set&^candidates != 0
		for rest := set; rest != 0; rest &= rest - 1 {
			n := left[bits.TrailingZeros(rest)]
			sum, empty = sum+n, empty || n == 0
		}
		if sum == missing && !empty {
			found, sets = set, sets+1
		}
	}
	if sets != 1 {
		return false
	}
	for ; found != 0; found &= found - 1 {
		i := bits.TrailingZeros(found)
		whole, _ := u.Get(besides[i].whole)
		u.Set(besides[i].whole, whole+left[i])
	}
	return true
}
