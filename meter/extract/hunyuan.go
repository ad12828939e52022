package extract

import "kafka-metering/meter"

// hunyuan is the own API of Tencent's Hunyuan (https://cloud.tencent.com/document/api/1729/105701), whose documents have
// an envelope and whose streams repeat the numbers as they are so far, without one. Its other API speaks OpenAI's dialect.
var hunyuan = format{
	api:       "hunyuan",
	operation: "chat",
	markers:   []string{`"Usage"`},
	shapes: []shape{
		{[]sign{{"Response.Usage.TotalTokens", ""}, {"Response.Data[].Embedding", "["}}, "embeddings"},
		{[]sign{{"Response.Usage.TotalTokens", ""}}, ""},
		{[]sign{{"Usage.TotalTokens", ""}, {"Choices", "["}}, ""},
	},
	texts: []textRule{
		{"Response.Id", slotID},
		{"Id", slotID},
		{"Response.Choices[].FinishReason", slotFinish},
		{"Choices[].FinishReason", slotFinish},
	},
	roots: []string{"Response.Usage", "Usage"},
	counts: []countRule{
		{"PromptTokens", meter.InputTokens},
		{"CompletionTokens", meter.OutputTokens},
		{"TotalTokens", meter.TotalTokens},
	},
	native: "tencent",
	ends:   endsOpenAI,
}.compile()
