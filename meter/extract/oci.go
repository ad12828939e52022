package extract

import "kafka-metering/meter"

// oci is Oracle's Generative AI service
// (https://docs.oracle.com/en-us/iaas/api/#/en/generative-ai-inference/20231130/datatypes/Usage), whichever the format of
// the answer in it is; in a stream the answer stands alone, and its last event has the usage. The parts are inside the
// prompt's and the completion's tokens.
var oci = format{
	api:       "oci",
	operation: "chat",
	markers:   []string{`"usage"`},
	shapes: []shape{
		{[]sign{{"chatResponse", "{"}, {"modelId", `"`}}, ""},
		{[]sign{{"usage.promptTokens", ""}, {"usage.totalTokens", ""}, {"embeddings", "["}}, "embeddings"},
		{[]sign{{"usage.promptTokens", ""}, {"usage.totalTokens", ""}}, ""},
	},
	texts: []textRule{
		{"modelId", slotModel},
		{"id", slotID},
		{"chatResponse.finishReason", slotFinish},
		{"chatResponse.choices[].finishReason", slotFinish},
		{"finishReason", slotFinish},
	},
	roots: []string{"chatResponse.usage", "usage"},
	counts: []countRule{
		{"promptTokens", meter.InputTokens},
		{"completionTokens", meter.OutputTokens},
		{"totalTokens", meter.TotalTokens},
		{"promptTokensDetails.cachedTokens", meter.CacheReadInputTokens},
		{"completionTokensDetails.reasoningTokens", meter.ReasoningOutputTokens},
		{"completionTokensDetails.acceptedPredictionTokens", meter.AcceptedPredictionOutputTokens},
		{"completionTokensDetails.rejectedPredictionTokens", meter.RejectedPredictionOutputTokens},
	},
	native: "oci",
}.compile()
