package extract

// Results of batches: one line for each request, with its whole answer. They consume their sum.

// batch is OpenAI's, also Azure's and Mistral's (https://platform.openai.com/docs/api-reference/batch/request-output).
var batch = format{
	api:       "batch",
	operation: "chat",
	markers:   []string{`"usage"`},
	shapes:    []shape{{[]sign{{"custom_id", ""}, {"response.body", "{"}}, ""}},
	texts:     []textRule{{"response.body.model", slotModel}},
	roots:     []string{"response.body.usage"},
	counts:    openAICounts,
	amounts:   openAIAmounts,
	merging:   sums,
	settle:    settleOpenAI,
}.compile()

// anthropicBatch is Anthropic's (https://docs.anthropic.com/en/api/retrieving-message-batch-results).
var anthropicBatch = format{
	api:       "batch",
	operation: "chat",
	markers:   []string{`"usage"`},
	shapes:    []shape{{[]sign{{"custom_id", ""}, {"result.type", ""}}, ""}},
	texts:     []textRule{{"result.message.model", slotModel}},
	roots:     []string{"result.message.usage"},
	counts:    anthropicCounts,
	lists:     anthropicLists,
	native:    "anthropic",
	models:    "claude",
	merging:   sums,
	settle:    settleAnthropic,
}.compile()

// geminiBatch is Gemini's (https://ai.google.dev/gemini-api/docs/batch-api).
var geminiBatch = format{
	api:       "batch",
	operation: "generate_content",
	markers:   []string{`"usageMetadata"`},
	shapes: []shape{
		{[]sign{{"key", ""}, {"response.usageMetadata", "{"}}, ""},
		{[]sign{{"request", "{"}, {"response.usageMetadata", "{"}}, ""},
	},
	texts:   []textRule{{"response.modelVersion", slotModel}},
	roots:   []string{"response.usageMetadata"},
	counts:  geminiCounts,
	lists:   geminiLists,
	native:  "google",
	models:  "gemini",
	merging: sums,
	settle:  settleGemini,
}.compile()
