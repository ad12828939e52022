package extract

import "kafka-metering/meter"

// vertexPredict is Vertex AI's predict: embeddings
// (https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api), whose tokens are counted for
// each prediction, and the older text models
// (https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text), whose metadata counts them.
var vertexPredict = format{
	api:       "predict",
	operation: "embeddings",
	markers:   []string{`"statistics"`, `"metadata"`},
	shapes: []shape{
		{[]sign{{"predictions[].embeddings.statistics.token_count", ""}}, ""},
		{[]sign{{"predictions", "["}, {"metadata.tokenMetadata", "{"}}, "text_completion"},
	},
	roots: []string{""},
	counts: []countRule{
		{"metadata.tokenMetadata.inputTokenCount.totalTokens", meter.InputTokens},
		{"metadata.tokenMetadata.outputTokenCount.totalTokens", meter.OutputTokens},
		{"metadata.billableCharacterCount", meter.BillableCharacters},
	},
	lists:  []listRule{{path: "predictions", counts: []countRule{{"embeddings.statistics.token_count", meter.InputTokens}}}},
	native: "vertex_ai",
}.compile()
