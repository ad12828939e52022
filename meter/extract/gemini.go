package extract

import "kafka-metering/meter"

// geminiCounts are the members of UsageMetadata (https://ai.google.dev/api/generate-content#UsageMetadata):
// promptTokenCount includes cached content and leaves out the results of tools; candidatesTokenCount leaves out the
// thoughts. Members whose count is zero are left out. Proxies written with Google's Python types send snake case.
var geminiCounts = []countRule{
	{"promptTokenCount", meter.InputTokens},
	{"prompt_token_count", meter.InputTokens},
	{"candidatesTokenCount", meter.OutputTokens},
	{"candidates_token_count", meter.OutputTokens},
	{"responseTokenCount", meter.OutputTokens}, // Live API
	{"response_token_count", meter.OutputTokens},
	{"totalTokenCount", meter.TotalTokens},
	{"total_token_count", meter.TotalTokens},
	{"cachedContentTokenCount", meter.CacheReadInputTokens},
	{"cached_content_token_count", meter.CacheReadInputTokens},
	{"thoughtsTokenCount", meter.ReasoningOutputTokens},
	{"thoughts_token_count", meter.ReasoningOutputTokens},
	{"toolUsePromptTokenCount", meter.ToolUseInputTokens},
	{"tool_use_prompt_token_count", meter.ToolUseInputTokens},
}

// geminiLists are the counts by kind of content. Embeddings spell the input's in the singular.
var geminiLists = []listRule{
	{path: "promptTokensDetails", name: "modality", named: inputModality, counts: []countRule{{path: "tokenCount"}}},
	{path: "promptTokenDetails", name: "modality", named: inputModality, counts: []countRule{{path: "tokenCount"}}},
	{path: "candidatesTokensDetails", name: "modality", named: outputModality, counts: []countRule{{path: "tokenCount"}}},
	{path: "responseTokensDetails", name: "modality", named: outputModality, counts: []countRule{{path: "tokenCount"}}},
	{path: "prompt_tokens_details", name: "modality", named: inputModality, counts: []countRule{{path: "token_count"}}},
	{path: "candidates_tokens_details", name: "modality", named: outputModality, counts: []countRule{{path: "token_count"}}},
}

// geminiContent is generateContent and embedContent of the Gemini API and of Vertex AI
// (https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest/v1/GenerateContentResponse).
//
// streamGenerateContent sends server-sent events with alt=sse and one JSON array without. usageMetadata is in every
// message and cumulative, and its numbers may go down: the last one with numbers counts, not the largest.
var geminiContent = format{
	api:       "generate_content",
	operation: "generate_content",
	markers:   []string{`"usageMetadata"`, `"usage_metadata"`},
	shapes: []shape{
		{[]sign{{"modelVersion", `"`}, {"usageMetadata", "{"}}, ""},
		{[]sign{{"modelVersion", `"`}, {"candidates[].content", ""}}, ""},
		{[]sign{{"usageMetadata.promptTokenCount", ""}, {"candidates[].content", ""}}, ""},
		{[]sign{{"usageMetadata.totalTokenCount", ""}, {"candidates[].content", ""}}, ""},
		{[]sign{{"usage_metadata.total_token_count", ""}, {"candidates[].content", ""}}, ""},
		{[]sign{{"response.usageMetadata.totalTokenCount", ""}, {"response.candidates[].content", ""}}, ""},
		{[]sign{{"embedding.values", "["}, {"usageMetadata", "{"}}, "embeddings"},
		{[]sign{{"embeddings[].values", "["}, {"usageMetadata", "{"}}, "embeddings"},
	},
	texts: []textRule{
		{"modelVersion", slotModel},
		{"model_version", slotModel},
		{"response.modelVersion", slotModel},
		{"responseId", slotID},
		{"response_id", slotID},
		{"response.responseId", slotID},
		{"candidates[].finishReason", slotFinish},
		{"candidates[].finish_reason", slotFinish},
		{"response.candidates[].finishReason", slotFinish},
	},
	roots:    []string{"usageMetadata", "response.usageMetadata", "usage_metadata"},
	counts:   geminiCounts,
	lists:    geminiLists,
	delivers: delivery{list: "candidates", paths: []string{"content.parts[].text"}},
	arrays:   arrayStream,
	native:   "google",
	models:   "gemini",
	settle:   settleGemini,
}.compile()

// geminiLive is the Live API, whose WebSocket messages come one for each line
// (https://ai.google.dev/api/live#messages): usageMetadata is that of one turn. Its total leaves out the thoughts.
var geminiLive = format{
	api:       "live",
	operation: "generate_content",
	markers:   []string{`"usageMetadata"`},
	shapes: []shape{
		{[]sign{{"setupComplete", "{"}}, ""},
		{[]sign{{"serverContent", "{"}}, ""},
	},
	roots:   []string{"usageMetadata"},
	counts:  geminiCounts,
	lists:   geminiLists,
	merging: sums,
	settle:  settleGemini,
}.compile()

// interactions is the Gemini API's Interactions (https://ai.google.dev/api/interactions-api), also of Vertex AI, whose
// reference spells the usage in camel case: a document, or a stream whose last event, interaction.completed, holds it. Any
// event can have the usage so far in its metadata
// (https://googleapis.github.io/js-genai/release_docs/types/gaos_models_interactions_stream-metadata.StreamMetadata.html).
var interactions = format{
	api:       "interactions",
	operation: "generate_content",
	markers:   []string{`"usage"`, `"total_usage"`},
	shapes: []shape{
		{[]sign{{"object", "interaction"}}, ""},
		{[]sign{{"event_type", "interaction.*"}}, ""},
		{[]sign{{"usage.total_input_tokens", ""}, {"usage.total_tokens", ""}}, ""},
	},
	texts: []textRule{
		{"model", slotModel},
		{"interaction.model", slotModel},
		{"id", slotID},
		{"interaction.id", slotID},
		{"status", slotFinish},
		{"interaction.status", slotFinish},
		{"event_type", slotType},
	},
	roots: []string{"usage", "interaction.usage", "metadata.total_usage", "metadata.usage"},
	counts: []countRule{
		{"total_input_tokens", meter.InputTokens},
		{"total_output_tokens", meter.OutputTokens},
		{"total_tokens", meter.TotalTokens},
		{"total_cached_tokens", meter.CacheReadInputTokens},
		{"total_thought_tokens", meter.ReasoningOutputTokens},
		{"total_reasoning_tokens", meter.ReasoningOutputTokens}, // its first name
		{"total_tool_use_tokens", meter.ToolUseInputTokens},
		{"totalInputTokens", meter.InputTokens},
		{"totalOutputTokens", meter.OutputTokens},
		{"totalTokens", meter.TotalTokens},
		{"totalCachedTokens", meter.CacheReadInputTokens},
		{"totalThoughtTokens", meter.ReasoningOutputTokens},
		{"totalToolUseTokens", meter.ToolUseInputTokens},
	},
	lists: []listRule{
		{path: "input_tokens_by_modality", name: "modality", named: inputModality, counts: []countRule{{path: "tokens"}}},
		{path: "output_tokens_by_modality", name: "modality", named: outputModality, counts: []countRule{{path: "tokens"}}},
		{path: "inputTokensByModality", name: "modality", named: inputModality, counts: []countRule{{path: "tokens"}}},
		{path: "outputTokensByModality", name: "modality", named: outputModality, counts: []countRule{{path: "tokens"}}},
		{path: "grounding_tool_count", name: "type", named: groundingTool, counts: []countRule{{path: "count"}}},
		{path: "groundingToolCount", name: "type", named: groundingTool, counts: []countRule{{path: "count"}}},
	},
	native: "google",
	models: "gemini",
	read:   readInteractions,
	ends:   endsOpenAI,
	settle: settleGemini,
}.compile()

// readInteractions knows that the usage in an event before the last one is not the whole.
func readInteractions(c *Reader) {
	settled, kind := c.settled, c.texts[slotType]
	c.readRoots()
	if len(kind) > 0 && !is(kind, "interaction.completed") && !is(kind, "interaction.complete") {
		c.settled = settled
	}
	if is(c.texts[slotFinish], "in_progress") {
		c.texts[slotFinish] = nil
	}
}

// groundingTool says which tool it was: maps and retrieval are no searches of the web.
func groundingTool(name []byte) (meter.Quantity, bool) {
	return meter.WebSearchRequests, is(name, "google_search")
}

// settleGemini includes the results of tools in the input and the thoughts in the output: totalTokenCount is the sum of
// all four.
func settleGemini(u *meter.Usage, _ string) {
	include(u, meter.InputTokens, meter.ToolUseInputTokens)
	include(u, meter.OutputTokens, meter.ReasoningOutputTokens)
}

// modalities are the names and, in streams that were written by a protobuf library, the numbers of
// https://ai.google.dev/api/generate-content#Modality. Interactions spell them in lower case.
var modalities = []struct {
	name, lower   string
	number        int64
	input, output meter.Quantity
}{
	{"TEXT", "text", 1, meter.TextInputTokens, meter.TextOutputTokens},
	{"IMAGE", "image", 2, meter.ImageInputTokens, meter.ImageOutputTokens},
	{"VIDEO", "video", 3, meter.VideoInputTokens, meter.VideoOutputTokens},
	{"AUDIO", "audio", 4, meter.AudioInputTokens, meter.AudioOutputTokens},
	{"DOCUMENT", "document", 5, meter.DocumentInputTokens, meter.DocumentOutputTokens},
}

func inputModality(name []byte) (meter.Quantity, bool) {
	i, ok := modality(name)
	return modalities[i].input, ok
}

func outputModality(name []byte) (meter.Quantity, bool) {
	i, ok := modality(name)
	return modalities[i].output, ok
}

func modality(name []byte) (int, bool) {
	number, _ := count(name)
	for i, m := range modalities {
		if is(name, m.name) || is(name, m.lower) || number == m.number {
			return i, true
		}
	}
	return 0, false
}
