package extract

import "kafka-metering/meter"

// lmStudio is LM Studio's own chat endpoint (https://lmstudio.ai/docs/developer/rest/chat): a document, or a stream whose
// last event, chat.end, holds it.
var lmStudio = format{
	api:       "lm_studio",
	operation: "chat",
	markers:   []string{`"stats"`},
	shapes: []shape{
		{[]sign{{"stats.total_output_tokens", ""}}, ""},
		{[]sign{{"result.stats.total_output_tokens", ""}}, ""},
		{[]sign{{"type", "chat.start"}, {"model_instance_id", `"`}}, ""},
	},
	texts: []textRule{
		{"model_instance_id", slotModel},
		{"result.model_instance_id", slotModel},
		{"response_id", slotID},
		{"result.response_id", slotID},
	},
	roots: []string{"stats", "result.stats"},
	counts: []countRule{
		{"input_tokens", meter.InputTokens},
		{"total_output_tokens", meter.OutputTokens},
		{"reasoning_output_tokens", meter.ReasoningOutputTokens},
	},
}.compile()
